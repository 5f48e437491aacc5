"""What the caller is told when a task goes wrong."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simpler import TaskArgs, Worker, limits
from simpler.error_record import decode_error
from simpler.errors import CapacityError, TaskError, WorkerDied
from simpler.region_records import NO_CALLABLE, Op

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=1, name="fail") as worker:
        yield worker


@pytest.fixture
def call(worker: Worker) -> Callable[..., Any]:
    def run(function: Callable[[Any], Any], *scalars: Any) -> Any:
        handle, args = worker.register(function), TaskArgs()
        for scalar in scalars:
            args.add_scalar(scalar)
        return worker.run(lambda orch, args, config: orch.submit_sub(handle, args), args).result()

    return run


def test_an_exception_comes_back_as_the_cause_with_its_whole_traceback(call: Callable[..., Any]) -> None:  # R6
    def inner() -> None:
        raise KeyError("the key", {"more": 1})

    def outer(args: Any) -> None:
        inner()

    with pytest.raises(TaskError) as caught:
        call(outer)
    error = caught.value
    assert isinstance(error.__cause__, KeyError)
    assert error.__cause__.args == ("the key", {"more": 1})
    lines = error.remote_traceback.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("  File")] == ["outer", "inner"]
    assert lines[-1].startswith("KeyError")
    assert error.context["worker"] == "fail.sub0"
    assert error.context["host"] == socket.gethostname()
    assert str(error.context["hashid"]).startswith("sha256:")


def test_a_class_that_exists_only_in_the_worker_degrades_to_its_text(call: Callable[..., Any]) -> None:  # R6
    def raise_odd(args: Any) -> None:
        class Odd(Exception):
            def __init__(self, first: int, second: int) -> None:
                super().__init__(f"{first} and {second}")

        raise Odd(1, 2)

    with pytest.raises(TaskError, match="1 and 2") as caught:
        call(raise_odd)
    assert "Odd: 1 and 2" in caught.value.remote_traceback


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_exits_in_user_code_fail_the_task_and_not_the_worker(
    worker: Worker, call: Callable[..., Any], exception: type[BaseException]
) -> None:  # G4
    def leave(args: Any) -> None:
        raise exception("leaving")

    restarts = worker.stats().restarts
    with pytest.raises(TaskError, match=exception.__name__):
        call(leave)
    assert worker.stats().restarts == restarts


def test_a_long_message_and_odd_characters_come_back_uncut(call: Callable[..., Any]) -> None:  # R6
    text = "ä\udcff\x1b" + "x" * 100_000 + "end"

    def fail(args: Any) -> None:
        raise ValueError(text)

    with pytest.raises(TaskError) as caught:
        call(fail)
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.args == (text,)


def crash_by_signal(args: Any) -> None:
    print("last words", file=sys.stderr)
    os.kill(os.getpid(), args.scalar(0))


def crash_by_exit(args: Any) -> None:
    print("last words", file=sys.stderr)
    os._exit(args.scalar(0))


@pytest.mark.parametrize(
    ("crash", "number", "expected"),
    [
        (crash_by_signal, signal.SIGKILL, "was killed by SIGKILL"),
        (crash_by_signal, signal.SIGSEGV, "was killed by SIGSEGV"),
        (crash_by_exit, 3, "exited with code 3"),
        (crash_by_exit, 0, "exited with code 0"),
    ],
)
def test_a_dead_worker_is_explained(
    worker: Worker, call: Callable[..., Any], crash: Callable[[Any], None], number: int, expected: str
) -> None:  # W4, D7
    pid = worker.stats().workers[0].pid
    with pytest.raises(WorkerDied) as caught:
        call(crash, int(number))
    text, context = str(caught.value), caught.value.context
    assert f"{crash.__name__}: worker fail.sub0" in text
    assert expected in text
    assert "last words" in text
    assert "out of memory: no" in text
    assert (context["pid"], context["host"], context["worker_name"]) == (pid, socket.gethostname(), "fail.sub0")
    assert context["callable"] == crash.__name__
    assert call(lambda args: "goes on") == "goes on"


def test_the_last_lines_of_a_dead_worker_are_told_and_a_stack_where_it_crashed(call: Callable[..., Any]) -> None:  # D7
    def crash(args: Any) -> None:
        import ctypes

        for number in range(limits.STDERR_LINES):
            print("line", number)
        ctypes.string_at(1)

    with pytest.raises(WorkerDied) as caught:
        call(crash)
    assert f"line {limits.STDERR_LINES - 1}" in str(caught.value)
    assert "Segmentation fault" in str(caught.value)  # faulthandler
    assert "line 1\n" not in str(caught.value)


def test_what_workers_print_is_passed_on_with_their_names(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Worker(3, num_sub_workers=1, name="loud") as worker:
        handle = worker.register(lambda args: print("to be seen"))
        worker.run(lambda orch, args, config: orch.submit_sub(handle))
    assert "[loud.sub0] to be seen\n" in capfd.readouterr().err


def test_arguments_that_are_only_read_cannot_be_written(worker: Worker) -> None:
    def write(args: Any) -> None:
        args.tensor(0)[...] = 1

    array, handle = worker.array((3,), "float32"), worker.register(write)
    with pytest.raises(TaskError, match="read-only"):
        worker.run(lambda orch, args, config: orch.submit_sub(handle, TaskArgs().add_tensor(array)))
    assert array.tolist() == [0, 0, 0]


def test_a_result_that_the_heap_cannot_hold_fails_its_task_and_names_the_setting() -> None:  # G2
    with Worker(3, num_sub_workers=1, heap_bytes=1 << 20) as worker:
        handle = worker.register(lambda args: bytes(2 << 20))
        with pytest.raises(CapacityError, match="heap_bytes"):
            worker.run(lambda orch, args, config: orch.submit_sub(handle))


def test_a_worker_that_knows_no_requests_refuses_one_and_goes_on(worker: Worker, call: Callable[..., Any]) -> None:
    assert worker.region is not None
    run = worker.region.run_begin()
    task = run.submit(0, NO_CALLABLE, Op.CONTROL)
    run.seal()
    assert run.wait(spin_us=0, timeout_s=10)
    info = run.task(task)
    assert info is not None
    assert info.record is not None
    error = decode_error(bytes(info.record))
    assert (error.code, error.context["worker"], "hashid" in error.context) == ("UNSUPPORTED", "fail.sub0", False)
    assert call(lambda args: "still here") == "still here"
