"""Random graphs over three sessions that share buffers, against a reference that runs the tasks one after the other.

Two sessions are of one daemon and share memory, the third is of another and copies. Buffers are exported, imported,
freed, released and copied at random moments, tasks fail, and at the end one session is killed under way.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from session.buffer_game import MAY_READ, SESSIONS, Play
from simpler import (
    CallableHandle,
    Orchestrator,
    RemoteWorkerSpec,
    StaleHandle,
    TaskArgs,
    TaskRef,
    TensorArgType,
    Worker,
)
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

HEAP_BYTES = 1 << 22


class Handles(NamedTuple):
    """Callables of the test; nested functions, which travel by value."""

    task: CallableHandle
    change: CallableHandle
    held: CallableHandle
    held_below: CallableHandle
    held_by_sub: CallableHandle


def registered(worker: Worker) -> Handles:
    input_, inout = TensorArgType.INPUT, TensorArgType.INOUT

    def change(args: Any) -> int:
        """Writes something made of what tensors 1 and later hold to tensor 0, or adds it to that; the sum of all."""
        target, value = args.tensor(0), np.uint64(args.scalar(0))
        for index in range(1, args.tensor_count()):
            value += args.tensor(index).sum(dtype="uint64")
        seen = value
        if args.tag(0) is inout:
            seen = value + target.sum(dtype="uint64")
            target *= np.uint64(3)
            target += value
        else:
            target[...] = value
        return int(seen)

    def task(orch: Orchestrator, args: Any, config: object) -> Any:
        """``change``, here or on the session's sub-worker; or fails before it has written anything."""
        how = args.scalar(1)
        if how == "fails":
            raise ValueError("as planned")
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "here":
            return change(args)
        below = TaskArgs().add_scalar(args.scalar(0))
        for index in range(args.tensor_count()):
            below.add_tensor(args.tensor(index), args.tag(index) if index == 0 else input_)
        return orch.submit_sub(args.scalar(2), below)

    def held_by(*_: object) -> tuple[int, int]:
        """How many mappings of shared memory and descriptors this process has."""
        return Path("/proc/self/maps").read_text().count("memfd:"), len(list(Path("/proc/self/fd").iterdir()))

    def held_below(orch: Orchestrator, args: Any, config: object) -> TaskRef:
        return orch.submit_sub(args.scalar(0))

    functions = (task, change, held_by, held_below, lambda args: held_by())
    return Handles(*(worker.register(function) for function in functions))


def held(worker: Worker, handles: Handles) -> list[tuple[int, int]]:
    """What the sessions' runners hold, then their sub-workers."""

    def ask(orch: Orchestrator, args: object, config: object) -> list[TaskRef]:
        of_subs = TaskArgs().add_scalar(handles.held_by_sub.hashid)
        return [
            *(orch.submit_next_level(handles.held, worker=each) for each in range(SESSIONS)),
            *(orch.submit_next_level(handles.held_below, of_subs, worker=each) for each in range(SESSIONS)),
        ]

    return [ref.result() for ref in worker.run(ask)]


@pytest.fixture(scope="module")
def daemons() -> Iterator[tuple[ForegroundDaemon, ForegroundDaemon]]:
    with ForegroundDaemon() as first, ForegroundDaemon() as second:
        yield first, second


@pytest.fixture
def worker(daemons: tuple[ForegroundDaemon, ForegroundDaemon]) -> Iterator[Worker]:
    made = Worker(level=4)
    for daemon in (daemons[0], daemons[0], daemons[1]):
        made.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1, heap_bytes=HEAP_BYTES))
    with made:
        yield made


SEEDS = range(4)


@pytest.mark.parametrize("seed", SEEDS)
def test_sessions_do_to_shared_memory_what_tasks_one_after_the_other_do(worker: Worker, seed: int) -> None:
    # B2, B4, B7, G1, G4
    handles = registered(worker)
    play, before = Play(worker, seed, handles.task, handles.change), held(worker, handles)
    play.begin()
    for _ in range(12):
        play.any_move()
    for name in play.names:
        play.compare(name)
    play.random.shuffle(play.names)
    while play.names:
        play.give_back()
    deadline = time.monotonic() + 20
    while (now := held(worker, handles)) != before:  # the runner of an owner hears of it when its importer has hung up
        assert time.monotonic() < deadline, f"{now} is held, {before} was"
    for session in range(SESSIONS):
        worker.remote_free(worker.remote_malloc(worker=session, nbytes=HEAP_BYTES * 9 // 10))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_no_lost_session_had_is_as_if_it_had_not_been(worker: Worker, seed: int) -> None:  # B4, G4, R4
    handles = registered(worker)
    play = Play(worker, seed, handles.task, handles.change)
    play.begin()
    for _ in range(6):
        play.any_move()
    play.run(kill=play.random.randrange(SESSIONS))
    left = [name for name in play.names if name.handle.worker not in play.lost]
    for name in left:
        if name.root.owner in play.lost and name.access in MAY_READ:
            with pytest.raises(StaleHandle, match="session has ended"):
                worker.remote_copy_from(name.handle, bytearray(8))
        elif name.root.owner not in play.lost:
            play.compare(name)
    play.names = left
    play.random.shuffle(left)
    while left:
        play.give_back()
    for session in play.alive():
        worker.remote_free(worker.remote_malloc(worker=session, nbytes=HEAP_BYTES * 9 // 10))
