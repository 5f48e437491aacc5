"""Lines of a child's output, whatever pieces they come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simpler import limits
from simpler.child_output import LineTail


@given(st.lists(st.binary(max_size=20)))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:  # D7
    tail, whole = LineTail(), b"".join(pieces)
    lines = [line for piece in pieces for line in tail.feed(piece)] + tail.finish()
    assert b"\n".join(lines) == whole.removesuffix(b"\n")


def test_the_last_lines_are_kept() -> None:  # D7
    tail = LineTail()
    tail.feed(b"".join(b"%d\n" % number for number in range(limits.STDERR_LINES + 3)))
    assert tail.lines() == [str(number) for number in range(3, limits.STDERR_LINES + 3)]


def test_an_overlong_line_is_broken_and_nothing_of_it_is_lost() -> None:  # D7
    text = b"x" * (2 * limits.STDERR_LINE_BYTES + 5)
    tail = LineTail()
    tail.feed(text)
    tail.finish()
    assert "".join(tail.lines()).encode() == text
    assert max(map(len, tail.lines())) == limits.STDERR_LINE_BYTES


def test_bytes_that_are_no_text_are_shown_escaped() -> None:  # D7
    tail = LineTail()
    tail.feed(b"\xff\n\x1b[2J\tgone\r\n")
    assert tail.lines() == ["\\xff", "\\x1b[2J\tgone\\r"]  # X9


def test_of_a_crash_the_frames_of_those_who_forked_are_left_out() -> None:  # D7
    frame = '  File "/lib/simpler/{}.py", line 7 in {}\n'.format
    inner = [frame("user", "crash"), frame("child_process", "_run_child")]
    copied = [frame("child_process", "fork_child"), frame("child_process", "_run_child"), frame("spawner", "main")]
    tail = LineTail()
    for _ in range(2):
        text = "".join(["Fatal Python error: Aborted\n", *inner, *copied * 30, "  ...\n", "\n", "Extension modules\n"])
        tail.feed(text.encode())
    expected = ["Fatal Python error: Aborted", *(line.rstrip() for line in inner), "", "Extension modules"]
    assert tail.lines() == expected * 2
