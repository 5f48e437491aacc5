"""Text from elsewhere (a peer, user code, a file name) made safe for a log line or a terminal."""

from __future__ import annotations

import re

_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


LONGEST_NAME = 255
"""Of a Worker or an executor, whose processes, threads and log lines are called after it."""


def is_name(value: object) -> bool:
    """Whether it is text that may stand in a log line as it is, and is not longer than LONGEST_NAME."""
    return isinstance(value, str) and len(value) <= LONGEST_NAME and value.isprintable()


def escape(text: str) -> str:
    """``text`` with everything that is not printable (``str.isprintable``) written as an escape.

    That covers control characters, line separators, bidirectional overrides and lone surrogates.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def encodable(text: str) -> str:
    """``text`` with lone surrogates, which are no Unicode text (JSON and msgpack refuse them), written as an escape."""
    return text.encode(errors="backslashreplace").decode()


def escape_controls(text: str) -> str:
    """``text`` with what would steer a terminal or break a line written as an escape; tabs and newlines stay.

    Unlike ``escape`` it leaves all that people write, such as spaces of other scripts and the joiners of emoji.
    """
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def escape_bytes(line: bytes) -> bytes:
    """The same for UTF-8; bytes that are not are written as an escape, too."""
    return escape_controls(line.decode("utf-8", "backslashreplace")).encode()
