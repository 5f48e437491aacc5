"""A program of today with a daemon of the version before, and with one of another: the link changes what HELLO says."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import pytest

from cutting_proxy import CuttingProxy, FrameBytes
from protocol_1 import VERSION_1
from simpler import (
    RemoteTensorRef,
    RemoteWorkerSpec,
    SimplerError,
    SimplerExecutor,
    TaskArgs,
    TensorArgType,
    VersionMismatch,
    Worker,
)
from simpler.executor.broken import ExecutorBroken
from simpler.wire.frames import Flags, MessageType

if TYPE_CHECKING:
    from simplerd.foreground import ForegroundDaemon


class Translating(CuttingProxy):
    """Has both sides agree on ``version``: the program offers no other, or the daemon seems to choose it."""

    def __init__(self, endpoint: str, version: int) -> None:
        super().__init__(endpoint)
        self._version = version
        self.said: list[tuple[MessageType, set[str]]] = []
        """What the program sent: the types, with the names of the fields."""
        self._saying = threading.Lock()

    def passed(self, frame: FrameBytes) -> FrameBytes | None:
        kind, length = frame.header.type, frame.header.payload_bytes
        if frame.header.flags & Flags.REPLY:
            return self._with(frame, version=self._version) if kind is MessageType.HELLO else frame
        with self._saying:
            self.said.append((kind, set(msgpack.unpackb(frame.rest[:length]))))
        return self._with(frame, versions=[1]) if kind is MessageType.HELLO else frame

    def _with(self, frame: FrameBytes, **changes: Any) -> FrameBytes:
        payload = msgpack.packb(msgpack.unpackb(frame.rest) | changes)
        return FrameBytes(frame.header._replace(payload_bytes=len(payload)), payload)


def test_a_program_works_with_a_daemon_of_the_version_before(daemon: ForegroundDaemon) -> None:
    def double(orch: Any, args: Any, config: Any) -> int:
        args.tensor(0)[...] *= 2
        return 7

    with Translating(daemon.endpoint, 1) as link:
        worker = Worker(level=4)
        remote = worker.add_remote_worker(RemoteWorkerSpec(link.endpoint, heap_bytes=1 << 24))
        before = worker.register(double, workers=[remote])
        with worker:
            later = worker.register(lambda orch, args, config: None, workers=[remote])
            values = worker.remote_malloc(worker=remote, nbytes=32)
            worker.remote_copy_to(values, np.arange(4.0))
            args = TaskArgs().add_tensor(RemoteTensorRef(values, shape=4, dtype="float64"), TensorArgType.INOUT)
            run = worker.run(lambda orch, *_: orch.submit_next_level(before, args, worker=remote))
            assert run.result() == 7
            back = np.zeros(4)
            worker.remote_copy_from(values, back)
            worker.unregister(later)
            worker.remote_free(values)
        assert back.tolist() == [0, 2, 4, 6]
        assert all(fields <= VERSION_1.get(kind, set()) for kind, fields in link.said), link.said
        assert {MessageType.TASK, MessageType.UNREGISTER, MessageType.COPY_FROM} <= {kind for kind, _ in link.said}


def test_an_executor_needs_a_daemon_of_its_own_version(daemon: ForegroundDaemon) -> None:  # X1
    with Translating(daemon.endpoint, 1) as link, SimplerExecutor(endpoints=[daemon.endpoint, link.endpoint]) as made:
        for _ in range(2):
            with pytest.raises(ExecutorBroken, match=r"an executor needs session protocol 2; .* speaks 1: install the"):
                made.submit(pow, 2, 3).result(60)


def test_a_daemon_that_chooses_another_version_is_left_with_one_clear_line(daemon: ForegroundDaemon) -> None:
    with Translating(daemon.endpoint, 9) as link:
        worker = Worker(level=4)
        worker.add_remote_worker(RemoteWorkerSpec(link.endpoint, heap_bytes=1 << 24))
        with pytest.raises(VersionMismatch) as raised:
            worker.init()
        worker.close()
    assert "chose protocol 9; this program speaks 2, 1" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_needs_the_newer_version_says_so(daemon: ForegroundDaemon) -> None:
    worker = Worker(level=4)
    with Translating(daemon.endpoint, 1) as link:
        remote = worker.add_remote_worker(RemoteWorkerSpec(link.endpoint, heap_bytes=1 << 24))
        other = worker.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, heap_bytes=1 << 24))
        with worker:
            export = worker.remote_export(worker.remote_malloc(worker=other, nbytes=32))
            with pytest.raises(SimplerError, match=r"needs session protocol 2; the daemon of .* speaks 1") as raised:
                worker.remote_import(export, worker=remote)
            assert raised.value.code == "UNSUPPORTED"
