"""What a closed Worker held is gone at once, not when the garbage collector comes by."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from simpler import RemoteWorkerSpec, Worker
from simplerd.foreground import ForegroundDaemon


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def descriptors() -> list[str]:
    return sorted(str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())


def used_and_closed(worker: Worker) -> None:
    with worker:
        worker.run(lambda orch, args, config: None)


@pytest.mark.usefixtures("no_collector")
def test_of_local_workers_nothing_is_left() -> None:  # W3
    used_and_closed(Worker(3, num_sub_workers=1))
    before = descriptors()
    used_and_closed(Worker(3, num_sub_workers=1))
    assert descriptors() == before


@pytest.mark.slow
@pytest.mark.usefixtures("no_collector")
def test_of_remote_sessions_nothing_is_left(daemon: ForegroundDaemon) -> None:  # W3 R5
    def with_session() -> Worker:
        worker = Worker(4)
        worker.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1))
        return worker

    used_and_closed(with_session())
    before = descriptors()
    used_and_closed(with_session())
    assert descriptors() == before
