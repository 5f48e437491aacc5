"""What a session refuses or does not confirm about memory, against a peer that answers as a daemon does, or as told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from simpler import (
    Orchestrator,
    RemoteBufferHandle,
    RemoteTensorRef,
    RemoteWorkerSpec,
    TaskArgs,
    Tensor,
    TensorArgType,
    Worker,
    limits,
)
from simpler.errors import CapacityError, SimplerError, StaleHandle
from simpler.wire.command_messages import Drop, Free, Malloc, Task
from simpler.wire.control_messages import Hello, HelloReply
from unit.test_remote_session import Peer

REFUSAL = CapacityError("too many requests wait on this connection")


class PeerThread:
    """The peer, in a loop and thread of its own."""

    def __init__(self, path: Path) -> None:
        self.peer = Peer(path)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        assert self._ready.wait(20)

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self._token, self._scope = trio.lowlevel.current_trio_token(), nursery.cancel_scope
            await nursery.start(self.peer.serve_connections)
            self._ready.set()

    def stop(self) -> None:
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()

    def asked(self) -> list[str]:
        """The MALLOCs and FREEs since the last call."""
        found = [type(one).__name__ for one in self.peer.requests if isinstance(one, (Free, Malloc))]
        self.peer.requests.clear()
        return found


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[PeerThread]:
    made = PeerThread(tmp_path / "s")
    yield made
    made.stop()


@pytest.fixture
def worker(peer: PeerThread) -> Iterator[Worker]:
    made = Worker(level=4, heap_bytes=1 << 20)
    made.add_remote_worker(RemoteWorkerSpec(f"unix:{peer.peer.path}"))
    with made:
        yield made


def refused(worker: Worker, peer: PeerThread) -> RemoteBufferHandle:
    """A buffer whose free was refused."""
    handle = worker.remote_malloc(worker=0, nbytes=64)
    peer.peer.trouble[Free] = REFUSAL
    with pytest.raises(CapacityError, match="too many requests wait"):
        worker.remote_free(handle)
    peer.asked()
    return handle


def test_a_refused_free_is_told_kept_and_asked_for_again_before_the_next_allocation(
    worker: Worker, peer: PeerThread
) -> None:  # B5
    handle = refused(worker, peer)
    with pytest.raises(StaleHandle, match="was freed"):
        worker.remote_copy_to(handle, b"x")
    worker.remote_malloc(worker=0, nbytes=8)
    assert peer.asked() == ["Free", "Malloc"]
    peer.peer.trouble.clear()
    worker.remote_malloc(worker=0, nbytes=8)
    assert peer.asked() == ["Free", "Malloc"]
    worker.remote_malloc(worker=0, nbytes=8)
    assert peer.asked() == ["Malloc"]
    with pytest.raises(StaleHandle):
        worker.remote_free(handle)


def test_a_refused_free_is_asked_for_again_with_the_next_one_or_by_hand(worker: Worker, peer: PeerThread) -> None:  # B5
    first, second = refused(worker, peer), worker.remote_malloc(worker=0, nbytes=64)
    peer.asked()
    with pytest.raises(CapacityError):
        worker.remote_free(second)
    assert peer.asked() == ["Free", "Free"]
    peer.peer.trouble.clear()
    worker.remote_free(first)
    assert peer.asked() == ["Free", "Free"]
    with pytest.raises(StaleHandle):
        worker.remote_free(second)


def test_what_a_run_kept_is_freed_before_the_next_allocation(worker: Worker, peer: PeerThread) -> None:  # B4
    nothing = worker.register(print)

    def held_and_freed(orch: Orchestrator, args: object, config: object) -> None:
        orch.submit_next_level(nothing, TaskArgs().add_tensor(RemoteTensorRef(kept, shape=8, dtype="int64")), worker=0)
        worker.remote_free(kept)

    for _ in range(40):
        kept = worker.remote_malloc(worker=0, nbytes=64)
        worker.run(held_and_freed)
    worker.remote_malloc(worker=0, nbytes=64)
    assert peer.asked() == [*["Malloc", "Free"] * 40, "Malloc"]


def test_frees_go_out_in_time_for_what_comes_next_and_no_more_at_once_than_may_wait(
    worker: Worker, peer: PeerThread, monkeypatch: pytest.MonkeyPatch
) -> None:  # B4, R3
    monkeypatch.setattr(limits, "FIRST_AHEAD", 4)
    nothing = worker.register(print)
    kept = [worker.remote_malloc(worker=0, nbytes=64) for _ in range(50)]

    def held_and_freed(orch: Orchestrator, args: object, config: object) -> None:
        for handle in kept:
            tensor = RemoteTensorRef(handle, shape=8, dtype="int64")
            orch.submit_next_level(nothing, TaskArgs().add_tensor(tensor), worker=0)
            worker.remote_free(handle)

    worker.run(held_and_freed)
    worker.run(lambda orch, *_: orch.submit_next_level(nothing, worker=0))
    found = [type(one) for one in peer.peer.requests if isinstance(one, (Free, Task))]
    assert found == [Task] * 50 + [Free] * 50 + [Task]


def test_what_a_session_does_not_know_it_need_not_confirm(
    worker: Worker, peer: PeerThread, caplog: pytest.LogCaptureFixture
) -> None:  # B5
    handle = worker.remote_malloc(worker=0, nbytes=64)
    peer.peer.trouble[Free] = StaleHandle("the buffer was freed")
    with pytest.raises(StaleHandle):
        worker.remote_free(handle)
    peer.asked()
    worker.remote_malloc(worker=0, nbytes=8)
    assert peer.asked() == ["Malloc"]
    worker.close()
    assert "never confirmed" not in caplog.text


def test_closing_says_what_was_never_confirmed_and_hides_no_error(
    worker: Worker, peer: PeerThread, caplog: pytest.LogCaptureFixture
) -> None:  # B5
    handle = refused(worker, peer)
    peer.peer.trouble[Free] = CapacityError("another reason")
    with pytest.raises(CapacityError, match="another reason"):
        worker.remote_free(handle)
    with pytest.raises(LookupError, match="of the program"), contextlib.closing(worker):
        raise LookupError("of the program")
    assert f"the free of {handle!r} was never confirmed: too many requests wait" in caplog.text


def test_a_daemon_that_speaks_version_1_makes_no_outputs(worker: Worker) -> None:  # R7
    def fill(orch: Orchestrator, args: Any, config: object) -> None:
        raise AssertionError("never called")

    write, tensor = worker.register(fill), Tensor(4, "int64")
    args = TaskArgs().add_tensor(tensor, TensorArgType.OUTPUT)
    with pytest.raises(SimplerError, match=r"without storage needs session protocol 2.* speaks 1") as caught:
        worker.run(lambda orch, *_: orch.submit_next_level(write, args, worker=0))
    assert caught.value.code == "UNSUPPORTED"
    assert tensor.output is None


def test_outputs_that_were_not_dropped_are_asked_for_again_before_what_comes_next(peer: PeerThread) -> None:  # B5
    def fill(orch: Orchestrator, args: Any, config: object) -> None:
        raise AssertionError("never called")

    def dropped() -> list[int]:
        made.remote_malloc(worker=0, nbytes=8)  # behind them, on the same lane
        found = [output for one in peer.peer.requests if isinstance(one, Drop) for output in one.outputs]
        peer.peer.requests.clear()
        return found

    peer.peer.trouble[Hello] = HelloReply(version=2, daemon="peer", host="here")
    peer.peer.trouble[Drop] = REFUSAL
    made = Worker(level=4, heap_bytes=1 << 20)
    made.add_remote_worker(RemoteWorkerSpec(f"unix:{peer.peer.path}"))
    with made:
        write = made.register(fill)

        def graph(orch: Orchestrator, args: object, config: object) -> None:
            tensor = TaskArgs().add_tensor(Tensor(4, "int64"), TensorArgType.OUTPUT)
            orch.submit_next_level(write, tensor, worker=0)

        made.run(graph)
        first, *again = dropped()
        peer.peer.trouble.clear()
        made.run(graph)
        *again_now, second = dropped()
        assert {*again, *again_now} == {first}
        assert second != first
        assert dropped() == []
