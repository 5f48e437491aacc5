"""What simplerctl ends with, on which scripts rely."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO = 3
    NO_DAEMON = 4
    NOT_PERMITTED = 5


MEANINGS: dict[int, str] = {
    ExitCode.DONE: "Done.",
    ExitCode.FAILED: "The operation failed; the sentence on stderr says why.",
    ExitCode.USAGE: "Wrong usage.",
    ExitCode.NO: 'The answer is "no".',
    ExitCode.NO_DAEMON: "There is no daemon.",
    ExitCode.NOT_PERMITTED: "You may not use its socket, or not do that.",
}
