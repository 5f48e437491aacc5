"""Calls of a session's SUB workers, as tasks of a stream in the program's graph: over a Unix socket, and over TLS."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpler import CallableHandle, RemoteWorkerSpec, Worker
from simpler.args import TensorRecord, encode
from simpler.error_record import decode_error
from simpler.errors import CapacityError, SessionLost, TaskError, TaskTimeout, WorkerDied
from simpler.region import Op, TaskState
from simpler.result_record import decode_result
from simpler.tensor import DataType, TensorArgType
from simplerd.foreground import ForegroundDaemon
from tls_site import TcpDaemon, TlsSite

pytestmark = pytest.mark.slow

MIB = 1 << 20
HEAP = 48 * MIB
NEAR, FAR = 0, 1
TIMEOUT_S = 30.0
SMALL: dict[str, Any] = {"num_sub_workers": 2, "heap_bytes": HEAP}


def answering() -> Callable[[Any], Any]:
    """A function that sessions get by value, since they do not know this module."""

    def answer(args: Any) -> Any:
        """Does what its first scalar says with the others."""
        what, *rest = (args.scalar(index) for index in range(args.scalar_count()))
        if what == "sum":
            return sum(rest)
        if what == "raise":
            raise KeyError(*rest)
        if what == "loop":
            while True:
                pass
        if what == "tensor":
            return args.tensor(0) * 2, args.tensor_count()
        if what == "bytes":
            return bytes(rest[0])
        import os
        from pathlib import Path

        Path(rest[0]).write_text(str(os.getpid()))
        return Path(rest[1]).read_text()

    return answer


class Calls:
    """What calls the sessions of a Worker."""

    def __init__(self, worker: Worker, handle: CallableHandle) -> None:
        assert worker.region is not None
        self.worker, self._handle = worker, handle
        self.region, self.stream = worker.region, worker.region.stream_begin()

    def begin(self, session: int, *scalars: Any, timeout_s: float = 0, blocks: tuple[int, ...] = ()) -> int:
        tensors = [
            TensorRecord(TensorArgType.INPUT, DataType.UINT8, [nbytes], None, 0, block, nbytes)
            for block, nbytes in zip(blocks[::2], blocks[1::2], strict=True)
        ]
        payload = encode(tensors, scalars)
        digest, timeout_ns = self._handle.digest, int(timeout_s * 1e9)
        return self.stream.submit(session, digest, payload, blocks[::2], timeout_ns=timeout_ns, op=Op.SUB_CALL)

    def next(self) -> tuple[int, Any]:
        """The next that ends, and its value or error."""
        [ended] = self.stream.reap(timeout_s=TIMEOUT_S, room=1)
        record = self.region.view(ended.record, ended.nbytes)
        result = decode_result(record) if ended.state == TaskState.SUCCEEDED else decode_error(bytes(record))
        del record
        self.stream.forget(ended.task, 1)
        return ended.task, result


@contextmanager
def calling(*specs: RemoteWorkerSpec) -> Iterator[Calls]:
    worker = Worker(level=4, heap_bytes=HEAP)
    for spec in specs:
        worker.add_remote_worker(spec)
    handle = worker.register(answering())
    with worker:
        calls = Calls(worker, handle)
        yield calls
        del calls.stream, calls.region  # which hold the memory


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> TlsSite:
    return TlsSite(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def near() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def far(site: TlsSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TcpDaemon]:
    with TcpDaemon(site.config(tmp_path_factory.mktemp("far"))) as running:
        yield running


@pytest.fixture
def calls(site: TlsSite, near: ForegroundDaemon, far: TcpDaemon) -> Iterator[Calls]:
    with calling(RemoteWorkerSpec(near.endpoint, **SMALL), RemoteWorkerSpec(far.tcp, tls=site.client, **SMALL)) as both:
        yield both


@pytest.fixture
def pipes(tmp_path: Path) -> tuple[Path, Path]:
    """Where a call says its process, and where it is told to end."""
    for path in (tmp_path / "begun", tmp_path / "end"):
        os.mkfifo(path)
    return tmp_path / "begun", tmp_path / "end"


def test_calls_of_several_sessions_end_alone_and_in_any_order(calls: Calls, pipes: tuple[Path, Path]) -> None:  # X1
    begun, end = pipes
    waiting = calls.begin(NEAR, "wait", str(begun), str(end))
    assert int(begun.read_text())
    many = {calls.begin(number % 2, "sum", number, 1): number + 1 for number in range(300)}
    assert dict(calls.next() for _ in many) == many
    end.write_text("now")
    assert calls.next() == (waiting, "now")


def test_what_a_call_raises_is_its_error(calls: Calls) -> None:
    task = calls.begin(FAR, "raise", "no such thing")
    failed, error = calls.next()
    assert failed == task
    assert isinstance(error, TaskError)
    assert isinstance(error.__cause__, KeyError)


def test_small_tensors_go_along_with_their_call(calls: Calls) -> None:
    block = calls.region.store(bytes(range(200)))
    calls.begin(FAR, "tensor", blocks=(block, 200))
    doubled, count = calls.next()[1]
    assert (doubled.tolist(), count) == ([number * 2 % 256 for number in range(200)], 1)
    calls.region.unref(block)


@pytest.mark.parametrize("session", [NEAR, FAR])
def test_large_arguments_and_results_go_by_way_of_buffers(calls: Calls, session: int) -> None:  # X2
    data = np.random.default_rng(7).integers(0, 100, 5 * MIB, "uint8")
    for _ in range(8):  # far more than the session's heap has room for
        block = calls.region.store(data.data)
        calls.begin(session, "tensor", blocks=(block, data.nbytes))
        calls.region.unref(block)
        _, (doubled, count) = calls.next()
        assert count == 1
        assert np.array_equal(doubled, data * 2)
    calls.begin(session, "sum", 1, 2)
    assert calls.next()[1] == 3
    assert calls.worker.region is not None
    assert calls.worker.region.stats().heap_used < MIB


def test_calls_wait_for_room_in_the_session_and_alone_are_refused(near: ForegroundDaemon) -> None:
    with calling(RemoteWorkerSpec(near.endpoint, num_sub_workers=2, heap_bytes=8 * MIB)) as calls:
        block = calls.region.store(bytes(12 * MIB))
        many = [calls.begin(0, "sum", number, blocks=(block, 3 * MIB)) for number in range(9)]
        assert sorted(dict(calls.next() for _ in many).values()) == list(range(9))
        calls.begin(0, "sum", 1, blocks=(block, 12 * MIB))
        error = calls.next()[1]
        assert isinstance(error, CapacityError)
        calls.region.unref(block)


def test_a_result_for_which_the_program_has_no_room_is_an_error(calls: Calls) -> None:
    calls.begin(NEAR, "bytes", 40 * MIB)
    assert calls.next()[1] == bytes(40 * MIB)
    calls.begin(NEAR, "bytes", HEAP)
    assert isinstance(calls.next()[1], CapacityError)
    calls.begin(NEAR, "sum", 1)
    assert calls.next()[1] == 1


def test_a_call_that_takes_too_long_is_killed_in_its_session(calls: Calls) -> None:  # X5
    calls.begin(FAR, "loop", timeout_s=0.05)
    assert isinstance(calls.next()[1], TaskTimeout)
    calls.begin(FAR, "sum", 1, timeout_s=60)
    assert calls.next()[1] == 1


def test_a_killed_worker_costs_its_call(calls: Calls, pipes: tuple[Path, Path]) -> None:  # X5
    begun, end = pipes
    calls.begin(FAR, "wait", str(begun), str(end))
    os.kill(int(begun.read_text()), signal.SIGKILL)
    error = calls.next()[1]
    assert isinstance(error, WorkerDied)
    assert "SIGKILL" in str(error)
    assert error.context["session"]


def test_a_lost_session_costs_its_calls_and_no_others(calls: Calls, pipes: tuple[Path, Path]) -> None:
    begun, end = pipes
    runner = _runner_of(NEAR, calls.worker)
    lost = {calls.begin(NEAR, "wait", str(begun), str(end))}
    assert begun.read_text()
    lost |= {calls.begin(NEAR, "loop") for _ in range(20)}
    os.kill(runner, signal.SIGKILL)
    errors = dict(calls.next() for _ in range(21))
    assert errors.keys() == lost
    assert all(isinstance(error, SessionLost) for error in errors.values())
    assert calls.region.worker_info(NEAR).abandoned
    calls.begin(FAR, "sum", 1)
    assert calls.next()[1] == 1


def _runner_of(session: int, worker: Worker) -> int:
    handle = worker.register(lambda orch, args, config: os.getpid())
    pid: int = worker.run(lambda orch, args, config: orch.submit_next_level(handle, worker=session)).result()
    return pid


def test_calls_go_on_without_their_daemon(pipes: tuple[Path, Path]) -> None:
    begun, end = pipes
    with ForegroundDaemon() as daemon, calling(RemoteWorkerSpec(daemon.endpoint, **SMALL)) as calls:
        calls.begin(0, "wait", str(begun), str(end))
        assert begun.read_text()
        daemon.kill()
        calls.begin(0, "sum", 1)
        assert calls.next()[1] == 1
        end.write_text("now")
        assert calls.next()[1] == "now"
        daemon.start_again()
