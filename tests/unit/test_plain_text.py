"""What user code prints, made safe for a terminal."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from simpler.plain_text import escape_bytes, escape_controls


# X9
def test_what_steers_a_terminal_is_escaped() -> None:
    assert escape_controls("\x1b[31m red\r\x07\x9b \u202e \u2028") == "\\x1b[31m red\\r\\x07\\x9b \\u202e \\u2028"


def test_what_people_write_stays() -> None:
    text = "täglich\t 100 %\n日本\u3000語 👩\u200d🔬"
    assert escape_controls(text) == text


# X9
@given(st.binary())
def test_no_bytes_at_all_reach_a_terminal_as_controls(line: bytes) -> None:
    escaped = escape_bytes(line).decode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", escaped)
    assert escape_controls(escaped) == escaped
