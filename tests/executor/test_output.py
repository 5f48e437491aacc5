"""What becomes of what a call prints."""

from __future__ import annotations

import pytest

from executor import calls, situations
from executor.conftest import MakeExecutor
from simpler.errors import WorkerDied
from simpler.executor import CapturedOutput, SimplerExecutor
from simpler.executor.calls.options import OUTPUTS

WAIT_S = 60


def test_it_is_shown_with_the_workers_name_unless_something_else_is_asked_for(
    make_session_executor: MakeExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    executor = make_session_executor(1, name="loud")
    for output in OUTPUTS:
        future = executor.options(output=output).submit(situations.speak, output)
        future.result(WAIT_S)
    executor.shutdown()
    lines = [f"show {how}" for how in ("from C", "from Python", "from a child", "for stderr")]
    assert sorted(capfd.readouterr().err.splitlines()) == sorted(f"[loud.sub0] {line}" for line in lines)


# X9
def test_it_cannot_steer_the_terminal(make_session_executor: MakeExecutor, capfd: pytest.CaptureFixture[str]) -> None:
    executor = make_session_executor(1, name="wild")
    executor.submit(print, "\x1b[2J\tgone\r").result(WAIT_S)
    executor.shutdown()
    assert capfd.readouterr().err == "[wild.sub0] \\x1b[2J\tgone\\r\n"


def test_it_is_captured_whole_whoever_printed_it(executor: SimplerExecutor) -> None:
    future = executor.options(output="capture").submit(situations.speak, "word")
    future.result(WAIT_S)
    assert future.output is not None
    assert sorted(future.output.stdout.splitlines()) == ["word from C", "word from Python", "word from a child"]
    assert future.output.stderr == "word for stderr\n"


@pytest.mark.slow
def test_no_output_is_too_long_to_be_captured(executor: SimplerExecutor) -> None:
    future = executor.options(output="capture").submit(situations.speak_at_length, 30_000)
    future.result(WAIT_S)
    assert future.output == CapturedOutput("".join(f"{number} {'x' * 100}\n" for number in range(30_000)), "")


def test_it_is_captured_of_a_call_that_raises_and_of_none_that_did_not_ask(executor: SimplerExecutor) -> None:
    future = executor.options(output="capture").submit(situations.speak_and_fail, "half a line")
    assert isinstance(future.exception(WAIT_S), ValueError)
    assert future.output == CapturedOutput("half a line", "")
    other = executor.submit(calls.add, 1)
    other.result(WAIT_S)
    assert other.output is None


def test_it_is_kept_of_a_call_whose_process_is_killed(make_session_executor: MakeExecutor) -> None:
    executor = make_session_executor(1).options(output="capture")
    for last_words in ("of the first", "of its replacement"):
        future = executor.submit(situations.speak_and_die, last_words)
        assert isinstance(future.exception(WAIT_S), WorkerDied)
        assert future.output == CapturedOutput(f"{last_words}\n", "")
