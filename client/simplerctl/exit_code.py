"""What simplerctl ends with, on which scripts rely."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO = 3
    """The answer is "no"."""
    NO_DAEMON = 4
    NOT_PERMITTED = 5
