"""The thread with a trio loop: results, errors, interrupts and the end, seen from other threads."""

from __future__ import annotations

import errno
import os
import signal
import threading
import warnings
from collections.abc import Iterator

import pytest
import trio

from simpler.errors import StartupError, StateError
from simpler.remote.io_thread import IoThread


@pytest.fixture
def io() -> Iterator[IoThread]:
    made = IoThread("test-io")
    made.start()
    yield made
    made.stop()


async def double(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * number


def test_calls_give_results_from_any_thread(io: IoThread) -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(io.call(double, n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 2, 4, 6, 8, 10, 12, 14]


async def test_a_program_with_a_trio_loop_of_its_own_may_call(io: IoThread) -> None:
    assert io.call(double, 4) == 8


def test_errors_are_raised_where_the_call_was_made(io: IoThread) -> None:
    async def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        io.call(fail)
    assert io.call(double, 1) == 2


def test_an_interrupt_cancels_what_was_called(io: IoThread) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def wait_for_ever() -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    main = threading.get_ident()

    def interrupt() -> None:
        assert begun.wait(10)
        signal.pthread_kill(main, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        io.call(wait_for_ever)
    interrupting.join()
    assert cancelled.wait(10)
    assert io.call(double, 3) == 6


def test_stopping_ends_calls_that_wait(io: IoThread) -> None:
    begun, raised = threading.Event(), list[BaseException]()

    async def wait_for_ever() -> None:
        begun.set()
        await trio.sleep_forever()

    def call() -> None:
        try:
            io.call(wait_for_ever)
        except StateError as error:
            raised.append(error)

    calling = threading.Thread(target=call)
    calling.start()
    assert begun.wait(10)
    io.stop()
    calling.join(10)
    assert [str(error) for error in raised] == ["the connections to remote workers were closed meanwhile"]
    for use in (lambda: io.call(double, 1), lambda: io.post(double, 1)):
        with pytest.raises(StateError, match="are closed"):
            use()
    assert not io.running


def test_a_loop_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptors_left(*args: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    io = IoThread("test-io")
    monkeypatch.setattr(trio, "run", no_descriptors_left)
    with pytest.raises(StartupError, match=r"Too many open files.*ulimit -n"):
        io.start()
    assert not io.running
    io.stop()


def test_a_forked_process_is_refused_and_its_parent_goes_on(io: IoThread) -> None:  # L5
    def use_and_stop() -> int:
        try:
            io.call(double, 1)
        except StateError as refused:
            io.stop()
            return 7 if "forked" in str(refused) and not io.running else 1
        return 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads, which is what this is about
        pid = os.fork()
    if pid == 0:
        code = 3
        try:
            signal.alarm(10)
            code = use_and_stop()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert io.call(double, 2) == 4


def test_stopping_what_was_never_started_does_nothing() -> None:
    IoThread("test-io").stop()


def test_an_error_that_nobody_waits_for_is_logged(io: IoThread, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise KeyError("lost?")

    io.post(fail)
    io.call(double, 1)
    io.stop()
    assert "KeyError: 'lost?'" in caplog.text


def test_a_posted_function_runs_and_nobody_waits(io: IoThread) -> None:
    done = threading.Event()

    async def note() -> None:
        done.set()

    io.post(note)
    assert done.wait(10)
