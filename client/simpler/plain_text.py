"""Text from elsewhere (a peer, user code, a file name) made safe for a log line or a terminal."""

from __future__ import annotations


def escape(text: str) -> str:
    """``text`` with everything that is not printable (``str.isprintable``) written as an escape.

    That covers control characters, line separators, bidirectional overrides and lone surrogates.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def encodable(text: str) -> str:
    """``text`` with lone surrogates, which are no Unicode text (JSON and msgpack refuse them), written as an escape."""
    return text.encode(errors="backslashreplace").decode()
