"""What orchestration functions push while their run goes on, in the program, in Workers below and in sessions."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from simpler import Orchestrator, RemoteWorkerSpec, RunHandle, TaskArgs, Worker, limits
from simpler.errors import ArgumentError, CapacityError, SessionLost, StateError, TaskError
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

TIMEOUT_S = 20.0


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=1) as worker:
        yield worker


def wait_for(args: Any) -> None:
    Path(args.scalar(0)).read_text()


def test_a_push_of_the_programs_own_run_is_told_in_order(worker: Worker) -> None:
    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        for step in range(3):
            orch.push("step", step)
            orch.push("other", None)

    run, seen = worker.submit(orchestrate), list[object]()
    run.on_push("step", seen.append)  # the run has ended: here and now
    assert seen == [0, 1, 2]


def test_a_listener_that_exits_ends_its_caller_or_is_logged_in_the_thread(
    worker: Worker, fifo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocks, told = worker.register(wait_for), SimpleQueue[Any]()

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.push("step", 0)
        orch.push("step", 1)
        orch.submit_sub(blocks, TaskArgs().add_scalar(str(fifo)))

    def leaving(value: object) -> None:
        told.put(value)
        raise SystemExit(3)

    run = worker.submit(orchestrate)
    run.on_push("step", leaving)
    assert [told.get(timeout=TIMEOUT_S) for _ in range(2)] == [0, 1]
    fifo.open("w").close()
    run.add_done_callback(told.put)
    assert told.get(timeout=TIMEOUT_S) is run
    assert "SystemExit: 3" in caplog.text
    caplog.clear()  # its tracebacks hold the run
    over = worker.submit(lambda orch, args, config: orch.push("step", 2))
    over.wait()
    with pytest.raises(SystemExit):
        over.on_push("step", leaving)


def test_listeners_are_called_while_the_run_goes_on_and_before_its_end_is_told(worker: Worker, fifo: Path) -> None:
    blocks, told = worker.register(wait_for), SimpleQueue[Any]()

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.push("began", {"at": 1})
        orch.submit_sub(blocks, TaskArgs().add_scalar(str(fifo)))
        orch.push("submitted", [1, 2])

    run = worker.submit(orchestrate)
    run.add_done_callback(lambda handle: told.put("done"))
    run.on_push("began", lambda value: told.put((value, threading.current_thread().name)))
    run.on_push("submitted", told.put)
    assert told.get(timeout=TIMEOUT_S) == ({"at": 1}, "simpler-callbacks")
    assert told.get(timeout=TIMEOUT_S) == [1, 2]
    assert not run.done
    fifo.open("w").close()
    assert told.get(timeout=TIMEOUT_S) == "done"


def test_a_listener_that_raises_is_logged_and_others_are_told(
    worker: Worker, fifo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(value: object) -> None:
        raise LookupError("not me")

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.submit_sub(blocks, TaskArgs().add_scalar(str(fifo)))
        orch.push("topic", 7)
        orch.push("next", 8)

    blocks = worker.register(wait_for)
    run, told = worker.submit(orchestrate), SimpleQueue[Any]()
    with fifo.open("w"):
        run.on_push("topic", fails)
        run.on_push("next", told.put)
        assert told.get(timeout=TIMEOUT_S) == 8
    assert "not me" in caplog.text
    caplog.clear()  # it has the error's frames, which have the run


def test_of_what_nobody_listens_to_the_last_is_kept(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    many = limits.PUSHES_KEPT + 10

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        for number in range(many):
            orch.push("number", number)

    run, seen = worker.submit(orchestrate), list[object]()
    assert caplog.text.count("the oldest is dropped") == 1
    run.on_push("number", seen.append)
    assert seen == list(range(10, many))


@pytest.mark.parametrize("topic", ["", "x" * 257, 7, None])
def test_what_is_no_topic_is_refused(worker: Worker, topic: Any) -> None:
    run = worker.submit(lambda orch, args, config: orch.push(topic, 1))
    with pytest.raises(ArgumentError, match="a topic is a text of 1 to 256 bytes"):
        run.result()
    with pytest.raises(ArgumentError, match="a topic is a text of 1 to 256 bytes"):
        run.on_push(topic, print)


def test_what_cannot_be_pushed_is_refused_where_it_is_pushed(worker: Worker) -> None:
    with pytest.raises(TaskError, match=r"what is pushed as '[a-z]+' is of type .*, which cannot be pickled"):
        worker.run(lambda orch, args, config: orch.push("lock", threading.Lock()))
    with pytest.raises(ArgumentError, match="at most 8388608 do"):
        worker.run(lambda orch, args, config: orch.push("large", bytes(limits.PUSH_BYTES)))
    kept = []
    worker.run(lambda orch, args, config: kept.append(orch))
    with pytest.raises(StateError):
        kept.pop().push("late", 1)
    with pytest.raises(ArgumentError, match="on_push takes a function"):
        worker.submit(lambda orch, args, config: None).on_push("topic", 7)  # type: ignore[arg-type]


# ---- from Workers below


def pushes(orch: Orchestrator, args: Any, config: Any) -> str:
    for number in range(args.scalar(0)):
        orch.push("number", number)
    return "done"


def test_a_worker_below_pushes_while_its_task_goes_on(fifo: Path) -> None:
    def blocks(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.push("began", "below")
        Path(args.scalar(0)).read_text()

    told = SimpleQueue[Any]()
    worker = Worker(4)
    below = worker.add_worker(Worker(3))
    with worker:
        handle = worker.register(blocks)
        passed = TaskArgs().add_scalar(str(fifo))
        run = worker.submit(lambda orch, args, config: orch.submit_next_level(handle, passed, worker=below))
        run.on_push("began", told.put)
        assert told.get(timeout=TIMEOUT_S) == "below"
        assert not run.done
        fifo.open("w").close()
        run.result()


@pytest.mark.parametrize("deep", [False, True])
def test_what_is_pushed_below_comes_in_order_and_before_the_end(deep: bool) -> None:
    many, seen = 500, list[Any]()
    host, middle, top = Worker(3), Worker(4), Worker(5)
    middle.add_worker(host)
    top.add_worker(middle)
    of_middle = middle.register(pushes)

    def passes(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.push("number", -1)
        if deep:
            orch.submit_next_level(of_middle, TaskArgs().add_scalar(many), worker=0)
        else:
            pushes(orch, args, config)

    handle = top.register(passes)
    with top:
        passed = TaskArgs().add_scalar(many)
        run = top.submit(lambda orch, args, config: orch.submit_next_level(handle, passed, worker=0) and None)
        run.on_push("number", seen.append)
        run.add_done_callback(lambda handle: seen.append("end"))
        run.result()
    assert seen == [*range(-1, many), "end"]


@contextmanager
def listening(many: int, listener: Callable[[object], object], fifo: Path) -> Iterator[tuple[Worker, RunHandle]]:
    """A Worker whose child has pushed ``many`` numbers in a run, which has ended, and to which ``listener`` listens."""

    def numbers(orch: Orchestrator, args: Any, config: Any) -> None:
        Path(args.scalar(0)).read_text()
        for number in range(args.scalar(1)):
            orch.push("number", number)

    top = Worker(4)
    top.add_worker(Worker(3))
    with top:
        handle, passed = top.register(numbers), TaskArgs().add_scalar(str(fifo)).add_scalar(many)
        run = top.submit(lambda orch, args, config: orch.submit_next_level(handle, passed, worker=0) and None)
        run.on_push("number", listener)
        fifo.open("w").close()
        run.result(timeout=TIMEOUT_S)
        yield top, run


def test_what_is_called_at_the_end_comes_after_what_was_pushed_however_late_it_is_added(fifo: Path) -> None:
    gate, told = threading.Event(), SimpleQueue[object]()

    def listener(value: object) -> None:
        gate.wait(TIMEOUT_S)
        told.put(value)

    with listening(2, listener, fifo) as (_, run):
        run.add_done_callback(lambda run: told.put("end"))
        assert told.empty()
        gate.set()
        assert [told.get(timeout=TIMEOUT_S) for _ in range(3)] == [0, 1, "end"]


def test_what_found_no_room_yet_is_told_when_the_worker_closes(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PUSHES_WAITING", 3)
    gate, told, many = threading.Event(), list[object](), 20

    def listener(value: object) -> None:
        gate.wait(TIMEOUT_S)
        told.append(value)

    with listening(many, listener, fifo) as (top, _):
        closing = threading.Thread(target=top.close)
        closing.start()
        closing.join(0.2)  # as far as it comes
        gate.set()
        closing.join(TIMEOUT_S)
    assert told == list(range(many))


# ---- from sessions


@pytest.fixture(scope="module")
def daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


@pytest.fixture
def remote(daemon: ForegroundDaemon) -> Iterator[Worker]:
    """A Worker whose workers 0 and 1 are sessions."""
    worker = Worker(4, heap_bytes=1 << 24)
    for _ in range(2):
        worker.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, heap_bytes=1 << 24))
    with worker:
        yield worker


def began(orch: Orchestrator, args: Any, config: Any) -> None:
    orch.push("began", {"in": "a session"})
    Path(args.scalar(0)).read_text()


def test_a_session_pushes_while_its_task_goes_on(remote: Worker, fifo: Path) -> None:
    handle, told = remote.register(began), SimpleQueue[Any]()
    passed = TaskArgs().add_scalar(str(fifo))
    run = remote.submit(lambda orch, args, config: orch.submit_next_level(handle, passed, worker=0))
    run.on_push("began", told.put)
    assert told.get(timeout=TIMEOUT_S) == {"in": "a session"}
    assert not run.done
    fifo.open("w").close()
    run.result()


def test_pushes_of_sessions_are_told_in_order_and_of_each_run_apart(remote: Worker) -> None:
    many, seen = 300, dict[Any, list[Any]]()
    handle = remote.register(pushes)
    passed = TaskArgs().add_scalar(many)
    runs = []
    for worker in (0, 1, 0):
        run = remote.submit(
            lambda orch, a, config, worker=worker: orch.submit_next_level(handle, passed, worker=worker)
        )
        run.on_push("number", seen.setdefault(run, []).append)
        run.add_done_callback(lambda run: seen[run].append("end"))
        runs.append(run)
    assert [run.result().result() for run in runs] == ["done"] * 3
    remote.close()
    assert list(seen.values()) == [[*range(many), "end"]] * 3
    seen.clear()


def pushes_when_told(orch: Orchestrator, args: Any, config: Any) -> None:
    Path(args.scalar(0)).read_text()
    for number in range(20):
        orch.push("number", number)


def test_who_pushes_faster_than_is_listened_to_waits(
    remote: Worker, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener does what a program may: it runs a task, in the session that does not wait."""
    monkeypatch.setattr(limits, "PUSHES_WAITING", 2)
    handle, other = remote.register(pushes_when_told), remote.register(lambda orch, args, config: "other")
    seen, waiting, ended = list[Any](), list[int](), threading.Event()

    def listen(value: Any) -> None:
        waiting.append(len(run.state.pushes._waiting))
        seen.append((value, call(remote, other, 1)))

    passed = TaskArgs().add_scalar(str(fifo))
    run = remote.submit(lambda orch, args, config: orch.submit_next_level(handle, passed, worker=0))
    run.on_push("number", listen)
    run.add_done_callback(lambda run: ended.set())
    fifo.open("w").close()
    assert ended.wait(TIMEOUT_S)
    assert seen == [(number, "other") for number in range(20)]
    assert max(waiting) <= 2


def call(worker: Worker, handle: Any, remote: int, *scalars: Any) -> Any:
    passed = TaskArgs()
    for scalar in scalars:
        passed.add_scalar(scalar)
    return worker.run(lambda orch, args, config: orch.submit_next_level(handle, passed, worker=remote)).result()


def test_a_push_that_finds_no_room_in_time_is_an_error_there(remote: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PUSHES_WAITING", 1)
    monkeypatch.setattr(limits, "PUSH_TIMEOUT_S", 0.05)
    handle, stuck, listening = remote.register(endless), threading.Event(), threading.Event()

    def listen(value: Any) -> None:
        listening.set()
        stuck.wait(TIMEOUT_S)

    run = remote.submit(lambda orch, args, config: orch.submit_next_level(handle, worker=0))
    run.on_push("number", listen)
    with pytest.raises(CapacityError, match=r"'number' found no room within 0\.05 s"):
        run.result()
    assert listening.is_set()
    stuck.set()
    assert call(remote, remote.register(pushes), 0, 1) == "done"


def endless(orch: Orchestrator, args: Any, config: Any) -> None:
    while True:
        orch.push("number", 1)


def test_a_session_that_is_lost_while_it_pushes_ends_the_run(remote: Worker) -> None:
    pid = call(remote, remote.register(lambda orch, args, config: os.getpid()), 0)
    handle, told = remote.register(endless), SimpleQueue[Any]()
    run = remote.submit(lambda orch, args, config: orch.submit_next_level(handle, worker=0))
    run.on_push("number", told.put)
    told.get(timeout=TIMEOUT_S)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(SessionLost):
        run.result()
