"""Log records: one line each, whatever is in them, in the form that stderr's reader wants."""

from __future__ import annotations

import io
import logging
import os
import re
import tempfile
from collections.abc import Iterator

import pytest

from simplerd import log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    roots = [logging.getLogger(name) for name in log.ROOTS]
    before = [(root.handlers[:], root.level, root.propagate) for root in roots]
    yield
    for root, state in zip(roots, before, strict=True):
        root.handlers[:], root.level, root.propagate = state


def test_a_record_is_one_line_with_time_level_part_and_fields() -> None:
    output = io.StringIO()
    log.configure("info", output, environ={})
    log.get_logger("sessions").info("session opened", session="s1", pid=42, name="two words", empty="")
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
    assert re.fullmatch(
        stamp + r' info    sessions: session opened session=s1 pid=42 name="two words" empty=""\n', output.getvalue()
    )


def test_nothing_in_a_field_can_forge_a_line_or_reach_the_terminal() -> None:
    output = io.StringIO()
    log.configure("info", output, environ={})
    log.get_logger("x").info("evil\n<0>line", name="\x1b[31mred\r\n\x85\u2028\x7f\udc80")
    (line,) = output.getvalue().splitlines()
    assert "evil\\n<0>line" in line
    assert "\\x1b[31mred\\r\\n\\x85\\u2028\\x7f\\udc80" in line


def test_records_below_the_level_are_left_out() -> None:
    output = io.StringIO()
    log.configure("warning", output, environ={})
    log.get_logger("x").info("quiet")
    log.get_logger("x").warning("loud")
    assert "loud" in output.getvalue()
    assert "quiet" not in output.getvalue()


def test_trouble_that_trio_meets_is_told_like_our_own() -> None:
    output = io.StringIO()
    log.configure("info", output, environ={})
    logging.getLogger("trio.serve_listeners").error("accept returned %s", "EMFILE")
    assert output.getvalue().endswith("error   trio.serve_listeners: accept returned EMFILE\n")


def test_where_journald_is_out_of_reach_a_record_has_its_priority_and_no_time() -> None:  # D1
    with tempfile.TemporaryFile("w+") as output:
        status = os.fstat(output.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        log.configure("debug", output, environ, path=f"{tempfile.gettempdir()}/nothing-is-here")
        logger = log.get_logger("x")
        for level in ("debug", "info", "warning", "error"):
            getattr(logger, level)("said", n=1)
        output.seek(0)
        assert output.read().splitlines() == ["<7>said n=1", "<6>said n=1", "<4>said n=1", "<3>said n=1"]


def test_another_stream_than_the_journals_has_times() -> None:
    with tempfile.TemporaryFile("w+") as output:
        log.configure("info", output, {"JOURNAL_STREAM": "1:2"})
        log.get_logger("x").info("said")
        output.seek(0)
        assert output.read().endswith(" info    x: said\n")


def test_a_traceback_stays_in_the_record() -> None:
    output = io.StringIO()
    log.configure("info", output, environ={})
    try:
        raise ValueError("broken")
    except ValueError:
        log.get_logger("x").exception("call failed")
    (line,) = output.getvalue().splitlines()
    assert 'traceback="Traceback (most recent call last):\\n' in line
    assert line.endswith('ValueError: broken"')
