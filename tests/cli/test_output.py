"""What simplerctl prints, piece by piece."""

from __future__ import annotations

import click
import pytest

from simpler.plain_text import escape
from simplerctl.output import duration, show_facts, show_table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (184, "3 min 4 s"),
        (7_385, "2 h 3 min"),
        (439_200, "5 d 2 h"),
        (-3, "0 s"),
    ],
)
def test_durations_are_humane(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_text_from_elsewhere_cannot_reach_the_terminal() -> None:
    assert escape("ok é \x1b[31m\n\t\x9b\u202e") == "ok é \\x1b[31m\\n\\t\\x9b\\u202e"


def test_facts_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    show_facts({"a": "x\ny", "name": "\x1b[0m"})
    assert capsys.readouterr().out == "a     x\n      y\nname  \\x1b[0m\n"


def test_the_word_for_how_something_is_has_a_colour(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(click.Command("any"), color=True):
        show_table(["ID", "STATE", "NAME"], [["failed-1", "failed", "already"]], empty="none")
    assert capsys.readouterr().out.splitlines()[1] == "failed-1  \x1b[31mfailed\x1b[0m  already"


def test_a_table_is_aligned_and_not_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["ID", "NAME"], [[1, "x" * 200], [100, ""]], empty="none")
    assert capsys.readouterr().out == f"ID   NAME\n1    {'x' * 200}\n100\n"


def test_letters_that_take_two_columns_are_counted_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show_table(["NAME", "ID"], [["中文", 1], ["e\u0301", 2]], empty="none")
    assert capsys.readouterr().out == "NAME  ID\n中文  1\ne\u0301     2\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "10")
    show_table(["ID", "NAME"], [[1, "中文中文"], [2, "中文中a"]], empty="none")
    assert [click.unstyle(line) for line in capsys.readouterr().out.splitlines()] == [
        "ID  NAME",
        "1   中文…",
        "2   中文…",
    ]
