"""A worker is after each call as it was before."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from executor import calls, disorder, situations
from executor.conftest import MakeExecutor
from simpler.errors import WorkerDied
from simpler.executor import SimplerExecutor
from simpler.executor.calls.options import Output

WAIT_S = 60
DISORDER = (
    disorder.change_folder,
    disorder.change_folder_in_c,
    disorder.lengthen_path,
    disorder.replace_path,
    disorder.change_environment,
    disorder.replace_environment,
    disorder.change_environment_in_c,
    disorder.change_umask,
    disorder.handle_signals,
    disorder.ignore_in_c,
    disorder.block_signals,
    disorder.start_timers,
    disorder.start_timer_in_c,
    disorder.replace_streams,
    disorder.close_streams,
    disorder.close_what_is_under_streams,
    disorder.be_silent_about_crashes,
)


@pytest.fixture
def one_worker(make_executor: MakeExecutor) -> SimplerExecutor:
    """An executor whose calls all meet what those before them have left."""
    return make_executor(1)


# X4
def test_calls_leave_their_process_as_it_was(one_worker: SimplerExecutor) -> None:
    before = one_worker.submit(disorder.state).result(WAIT_S)
    for leave in DISORDER:
        one_worker.submit(leave).result(WAIT_S)
        assert one_worker.submit(disorder.state).result(WAIT_S) == before, leave.__name__


# X4
@pytest.mark.parametrize("have_them_told", [disorder.have_signals_told, disorder.have_signals_told_by_hand])
def test_signals_are_not_told_to_an_event_loop_that_is_gone(
    one_worker: SimplerExecutor, have_them_told: Callable[[], None]
) -> None:
    one_worker.submit(have_them_told).result(WAIT_S)
    assert one_worker.submit(disorder.wakeup_fd).result(WAIT_S) == -1


# X4
def test_a_call_that_raises_leaves_its_process_as_it_was(one_worker: SimplerExecutor) -> None:
    def leave_and_raise() -> None:
        disorder.change_folder()
        disorder.handle_signals()
        raise ValueError("after that")

    before = one_worker.submit(disorder.state).result(WAIT_S)
    with pytest.raises(ValueError, match="after that"):
        one_worker.submit(leave_and_raise).result(WAIT_S)
    assert one_worker.submit(disorder.state).result(WAIT_S) == before


# X4
@pytest.mark.parametrize("output", ["show", "capture"])
def test_a_calls_signal_handlers_interrupt_nothing_once_it_is_over(one_worker: SimplerExecutor, output: Output) -> None:
    pid = one_worker.submit(calls.pid).result(WAIT_S)
    for _ in range(10):  # what a storm interrupts is another place each time
        future = one_worker.options(output=output).submit(disorder.return_below_a_storm)
        error = future.exception(WAIT_S)
        assert error is None or str(error) == "of a call that is over"  # which may have met the call's last step
    quiet = one_worker.options(output="capture").submit(print, "undisturbed")
    quiet.result(WAIT_S)
    assert quiet.output is not None
    assert quiet.output.stdout == "undisturbed\n"
    assert one_worker.submit(calls.pid).result(WAIT_S) == pid


# X4
def test_the_items_of_a_map_do_not_meet_what_others_have_left(one_worker: SimplerExecutor) -> None:
    found = set(one_worker.map(disorder.folder_then_leave, range(30), chunksize=10, timeout=WAIT_S))
    assert found == {(str(Path.cwd()), None, signal.SIG_DFL)}


# X4
def test_a_call_that_closes_all_files_costs_nobody_but_itself(make_session_executor: MakeExecutor) -> None:
    one_worker = make_session_executor(1)
    folder = one_worker.submit(disorder.state).result(WAIT_S)["cwd"]
    one_worker.submit(disorder.close_all_files).result(WAIT_S)
    assert one_worker.submit(disorder.state).result(WAIT_S)["cwd"] == folder


def test_calls_run_in_a_folder_that_was_removed(
    make_session_executor: MakeExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    executor = make_session_executor(1)
    assert executor.submit(disorder.change_folder).result(WAIT_S) is None
    with pytest.raises(FileNotFoundError):
        executor.submit(situations.folder).result(WAIT_S)


# X4
def test_sigint_in_a_call_is_a_keyboard_interrupt_even_after_one_that_ignored_it(one_worker: SimplerExecutor) -> None:
    pid = one_worker.submit(calls.pid).result(WAIT_S)
    one_worker.submit(disorder.handle_signals).result(WAIT_S)
    with pytest.raises(KeyboardInterrupt):
        one_worker.submit(disorder.signal_oneself, signal.SIGINT).result(WAIT_S)
    assert one_worker.submit(calls.pid).result(WAIT_S) == pid


# X4
def test_sigterm_in_a_call_ends_its_process_even_after_one_that_ignored_it(one_worker: SimplerExecutor) -> None:
    one_worker.submit(disorder.handle_signals).result(WAIT_S)
    with pytest.raises(WorkerDied, match="SIGTERM"):
        one_worker.submit(disorder.signal_oneself, signal.SIGTERM).result(WAIT_S)


@pytest.mark.parametrize(
    ("fork", "code"), [(disorder.come_out_twice, 0), (disorder.raise_twice, 1), (disorder.exit_twice, 3)]
)
def test_a_process_that_comes_out_of_a_call_as_the_worker_did_ends_there(
    one_worker: SimplerExecutor, fork: Callable[[], int], code: int
) -> None:
    assert one_worker.submit(fork).result(WAIT_S) == code
    assert one_worker.submit(calls.add, 1).result(WAIT_S) == 2
