"""Copies into and out of a session's memory: by descriptor where it is on this host, else through the data lane."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import pytest

from simpler import RemoteBufferHandle, RemoteTensorRef, RemoteWorkerSpec, TaskArgs, TensorArgType, Worker, limits
from simpler.errors import ArgumentError, SessionLost, StaleHandle
from simpler.remote import io_thread, shared_memory
from simpler.remote.shared_memory import SharedMemory
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

SHARED, TUNNELLED = 0, 1
"""Two sessions of one daemon: over its Unix socket, and through something that copies bytes, but no descriptors."""


class Tunnel:
    """A Unix socket that passes on what comes to another one, as ``ssh -L`` does. It may be held up on the way back."""

    def __init__(self, path: Path, endpoint: str) -> None:
        self._target = endpoint.removeprefix("unix:")
        self._left: int | None = None
        self.is_held, self._go_on = threading.Event(), threading.Event()
        self.endpoint = f"unix:{path}"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._sockets = [self._listening]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._target)
            self._sockets += [near, far]
            for way in ((near, far, False), (far, near, True)):
                thread = threading.Thread(target=self._pass_on, args=way)
                self._threads.append(thread)
                thread.start()

    def hold_after(self, nbytes: int) -> None:
        """Passes on so much more of what comes back, then nothing until ``go_on``."""
        self.is_held.clear()
        self._go_on.clear()
        self._left = nbytes

    def go_on(self) -> None:
        self._left = None
        self._go_on.set()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_back: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
                if is_back and self._left is not None:
                    self._left -= len(data)
                    if self._left <= 0:
                        self.is_held.set()
                        self._go_on.wait()
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self.go_on()
        for one in self._sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()


@pytest.fixture(scope="module")
def running_daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def tunnel(running_daemon: ForegroundDaemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tunnel]:
    made = Tunnel(tmp_path_factory.mktemp("tunnel") / "s", running_daemon.endpoint)
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(running_daemon: ForegroundDaemon, tunnel: Tunnel) -> Iterator[Worker]:
    made = Worker(level=4, heap_bytes=1 << 24)
    for endpoint in (running_daemon.endpoint, tunnel.endpoint):
        made.add_remote_worker(RemoteWorkerSpec(endpoint, heap_bytes=1 << 28))
    with made:
        yield made


def runner_of(worker: Worker, remote: int) -> int:
    """The process of a session."""
    pid = worker.register(lambda orch, args, config: os.getpid())
    return int(worker.run(lambda orch, args, config: orch.submit_next_level(pid, worker=remote)).result())


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def buffer_of(worker: Worker, remote: int, nbytes: int) -> Iterator[RemoteBufferHandle]:
    handle = worker.remote_malloc(worker=remote, nbytes=nbytes)
    yield handle
    worker.remote_free(handle)


def fetched(worker: Worker, handle: RemoteBufferHandle, nbytes: int, offset: int = 0) -> bytes:
    target = bytearray(nbytes)
    worker.remote_copy_from(handle, target, offset=offset)
    return bytes(target)


@pytest.mark.parametrize("remote", [SHARED, TUNNELLED])
@pytest.mark.parametrize(
    "nbytes", [1, limits.CHUNK_BYTES - 1, limits.CHUNK_BYTES, limits.FRAME_DATA_BYTES + limits.CHUNK_BYTES + 3]
)
def test_copies_of_any_size_go_in_one_call(worker: Worker, remote: int, nbytes: int) -> None:  # R10
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes, dtype="uint8")
    with buffer_of(worker, remote, nbytes + 14) as handle:
        worker.remote_copy_to(handle, bytes(7))
        worker.remote_copy_to(handle, data, offset=7)
        worker.remote_copy_to(handle, bytes(7), offset=nbytes + 7)
        assert fetched(worker, handle, nbytes + 14) == bytes(7) + data.tobytes() + bytes(7)


def test_on_one_host_a_copy_needs_nothing_of_the_session_but_its_memory(worker: Worker) -> None:
    nbytes = 3 * limits.CHUNK_BYTES + 1
    data = np.random.default_rng(1).integers(0, 256, nbytes, dtype="uint8").tobytes()
    with buffer_of(worker, SHARED, nbytes) as handle:
        worker.remote_copy_to(handle, b"x")  # asks once where the buffer lies
        with frozen(runner_of(worker, SHARED)):
            worker.remote_copy_to(handle, data)
            assert fetched(worker, handle, nbytes) == data


def test_what_a_task_wrote_is_what_a_copy_finds_and_the_reverse(worker: Worker) -> None:
    def double(orch: Any, args: Any, config: object) -> None:
        args.tensor(0)[...] *= 2

    task = worker.register(double)
    for remote in (SHARED, TUNNELLED):
        with buffer_of(worker, remote, 64) as handle:
            worker.remote_copy_to(handle, np.arange(8))
            tensor = RemoteTensorRef(handle, shape=8, dtype="int64")
            args = TaskArgs().add_tensor(tensor, TensorArgType.INOUT)
            worker.run(lambda orch, *_, args=args, remote=remote: orch.submit_next_level(task, args, worker=remote))
            assert np.frombuffer(fetched(worker, handle, 64), "int64").tolist() == list(range(0, 16, 2))


@pytest.mark.parametrize("remote", [SHARED, TUNNELLED])
def test_ranges_and_stale_names_are_refused_before_anything_moves(worker: Worker, remote: int) -> None:  # B3
    handle = worker.remote_malloc(worker=remote, nbytes=64)
    worker.remote_copy_to(handle, b"kept" * 16)
    for offset, nbytes in ((1, 64), (64, 1), (-1, 1), (1 << 63, 1)):
        with pytest.raises(ArgumentError, match="expected a range within it"):
            worker.remote_copy_to(handle, bytes(nbytes), offset=offset)
    assert fetched(worker, handle, 64) == b"kept" * 16
    worker.remote_free(handle)
    with pytest.raises(StaleHandle):
        worker.remote_copy_to(handle, bytes(1))


def test_a_buffer_freed_in_the_middle_of_a_copy_goes_after_it(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:  # B4
    begun, go_on, copy_to = threading.Event(), threading.Event(), SharedMemory.copy_to

    def held_up(memory: SharedMemory, place: int, source: memoryview) -> None:
        begun.set()
        assert go_on.wait(20)
        copy_to(memory, place, source)

    mine, nbytes = worker.remote_malloc(worker=SHARED, nbytes=1 << 20), 1 << 20
    worker.remote_copy_to(mine, b"x")
    with monkeypatch.context() as patch:
        patch.setattr(SharedMemory, "copy_to", held_up)
        copying = threading.Thread(target=worker.remote_copy_to, args=(mine, b"x" * nbytes))
        copying.start()
        assert begun.wait(20)
        worker.remote_free(mine)
        patch.undo()
        with buffer_of(worker, SHARED, nbytes) as other:  # which must not be the same memory
            worker.remote_copy_to(other, b"y" * nbytes)
            go_on.set()
            copying.join()
            assert fetched(worker, other, nbytes) == b"y" * nbytes
    with pytest.raises(StaleHandle):
        worker.remote_free(mine)


def interrupt_at(
    line: str,
    module: ModuleType,
    call: Callable[[], object],
    *,
    times: int = 1,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Ctrl-C when ``call`` comes to ``line`` of the module, the n-th time, once ``after`` has returned."""
    assert module.__file__ is not None
    source, left = Path(module.__file__).read_text().splitlines(), times

    def watch(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line" and source[frame.f_lineno - 1].strip() == line:
            left -= 1
            if left == 0:
                after()
                raise KeyboardInterrupt
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        sys.settrace(before)


WAIT = "return future.result()"


@pytest.mark.parametrize("way", ["to", "from"])
def test_a_copy_through_the_lane_may_be_interrupted_and_its_late_replies_are_no_others(
    worker: Worker, way: str
) -> None:  # R10
    nbytes = 2 * limits.CHUNK_BYTES
    with buffer_of(worker, TUNNELLED, nbytes) as handle, buffer_of(worker, TUNNELLED, nbytes) as other:
        worker.remote_copy_to(handle, b"a" * nbytes)
        worker.remote_copy_to(other, b"b" * nbytes)
        target = bytearray(nbytes)
        with frozen(runner_of(worker, TUNNELLED)):
            if way == "to":
                interrupt_at(WAIT, io_thread, lambda: worker.remote_copy_to(handle, b"c" * nbytes))
            else:
                interrupt_at(WAIT, io_thread, lambda: worker.remote_copy_from(handle, target))
        assert fetched(worker, other, nbytes) == b"b" * nbytes
        assert target == bytes(nbytes)


def test_a_copy_that_is_interrupted_in_the_middle_of_its_bytes_leaves_the_rest_alone(
    worker: Worker, tunnel: Tunnel
) -> None:  # R10
    nbytes = limits.CHUNK_BYTES
    with buffer_of(worker, TUNNELLED, nbytes) as handle, buffer_of(worker, TUNNELLED, 4) as other:
        worker.remote_copy_to(handle, b"a" * nbytes)
        worker.remote_copy_to(other, b"next")
        target = bytearray(nbytes)
        tunnel.hold_after(nbytes // 2)
        copy = partial(worker.remote_copy_from, handle, target)
        interrupt_at(WAIT, io_thread, copy, after=lambda: tunnel.is_held.wait(20))
        there = bytes(target)
        tunnel.go_on()
        assert fetched(worker, other, 4) == b"next"
        assert target == there
        assert there.endswith(b"\0")


def test_a_copy_in_memory_may_be_interrupted_and_ends_there(worker: Worker) -> None:  # R10
    nbytes = 3 * limits.CHUNK_BYTES
    piece = "piece = source[begin : begin + limits.CHUNK_BYTES]"
    with buffer_of(worker, SHARED, nbytes) as handle:
        worker.remote_copy_to(handle, b"a" * nbytes)
        interrupt_at(piece, shared_memory, lambda: worker.remote_copy_to(handle, b"b" * nbytes), times=2)
        found = fetched(worker, handle, nbytes)
    assert found == b"b" * limits.CHUNK_BYTES + b"a" * 2 * limits.CHUNK_BYTES


def copy_for_ever(worker: Worker, handle: RemoteBufferHandle) -> None:
    while True:
        worker.remote_copy_to(handle, bytes(64))


def test_memory_of_a_lost_session_is_nobodys(running_daemon: ForegroundDaemon) -> None:  # R4
    made = Worker(level=4, heap_bytes=1 << 24)
    made.add_remote_worker(RemoteWorkerSpec(running_daemon.endpoint, heap_bytes=1 << 24))
    with made:
        handle = made.remote_malloc(worker=0, nbytes=64)
        made.remote_copy_to(handle, bytes(64))
        os.kill(runner_of(made, 0), signal.SIGKILL)
        with pytest.raises((SessionLost, StaleHandle), match=r"killed by SIGKILL|its session has ended"):
            copy_for_ever(made, handle)
        with pytest.raises(StaleHandle, match="its session has ended"):
            made.remote_copy_from(handle, bytearray(64))


def test_a_session_that_is_closed_leaves_no_mapping(running_daemon: ForegroundDaemon) -> None:
    def regions() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:simpler-region")

    before = regions()
    made = Worker(level=4, heap_bytes=1 << 24)
    made.add_remote_worker(RemoteWorkerSpec(running_daemon.endpoint, heap_bytes=1 << 24))
    with made:
        handle = made.remote_malloc(worker=0, nbytes=64)
        assert fetched(made, handle, 0) == b""
        assert regions() > before
    gc.collect()
    assert regions() == before
