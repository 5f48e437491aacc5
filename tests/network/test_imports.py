"""Memory of a session on one host that tasks on another use, over a link that may be slow, repeat itself, or be cut."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from network.conftest import HEALTH_S, SMALL, TESTS, far_endpoint
from network.two_hosts import TwoHosts
from network.userland_link import Settings
from simpler import Orchestrator, RemoteTensorRef, RemoteWorkerSpec, TaskArgs, TaskRef, TensorArgType, Worker
from simpler.errors import ArgumentError, SimplerError
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

FAR, NEAR = 0, 1
NUMBERS = np.arange(1 << 18)
MARGIN_S = 6.0
"""For the kernel, which probes in whole seconds, and a test machine that is busy with something else."""


def add_one(orch: Orchestrator, args: Any, config: object = None) -> int:
    args.tensor(0)[...] += 1
    return int(args.tensor(0).sum())


@pytest.fixture
def near_daemon(hosts: TwoHosts) -> Iterator[ForegroundDaemon]:
    """A simplerd on `near`, at a Unix socket; its log is shown when the test fails."""
    with hosts.near.entered():
        running = ForegroundDaemon(env={"PYTHONPATH": TESTS})
    with running:
        yield running
        running.stop()
        sys.stderr.write(running.log.read_text())


@contextmanager
def both(hosts: TwoHosts, near_daemon: ForegroundDaemon) -> Iterator[Worker]:
    """A program on `near` with a session on each host."""
    with hosts.near.entered():
        worker = Worker(level=4, heap_bytes=SMALL)
        options: dict[str, Any] = {"heap_bytes": SMALL, "health_timeout_s": HEALTH_S}
        worker.add_remote_worker(RemoteWorkerSpec(far_endpoint(hosts), tls="insecure", **options))
        worker.add_remote_worker(RemoteWorkerSpec(near_daemon.endpoint, **options))
        with worker:
            yield worker


def turns(worker: Worker, places: list[tuple[int, Any]]) -> Any:
    """Adds 1 in each place after the other, in one run; the last sum."""
    task = worker.register(add_one)

    def steps(orch: Orchestrator, args: object, config: object) -> TaskRef:
        refs = []
        for remote, handle in places:
            tensor = RemoteTensorRef(handle, shape=len(NUMBERS), dtype="int64")
            args = TaskArgs().add_tensor(tensor, TensorArgType.INOUT)
            refs.append(orch.submit_next_level(task, args, worker=remote))
        return refs[-1]

    return worker.run(steps).result()


def test_tasks_of_two_hosts_share_memory_over_a_bad_link(
    hosts: TwoHosts, far_daemon: ForegroundDaemon, near_daemon: ForegroundDaemon
) -> None:  # B7
    with both(hosts, near_daemon) as worker:
        buffer = worker.remote_malloc(worker=FAR, nbytes=NUMBERS.nbytes)
        worker.remote_copy_to(buffer, NUMBERS)
        imported = worker.remote_import(worker.remote_export(buffer), worker=NEAR)
        hosts.set_link(Settings(delay_s=0.002, duplicate=0.05, drop=0.01))
        total = turns(worker, [(FAR, buffer), (NEAR, imported), (FAR, buffer), (NEAR, imported)])
        assert total == int(NUMBERS.sum()) + 4 * len(NUMBERS)
        hosts.set_link()
        own = worker.remote_malloc(worker=NEAR, nbytes=64)
        with pytest.raises(ArgumentError, match="by an address that cannot leave a host"):
            worker.remote_import(worker.remote_export(own), worker=FAR)


def test_a_task_whose_import_is_cut_off_fails_in_time_and_its_session_goes_on(
    hosts: TwoHosts, far_daemon: ForegroundDaemon, near_daemon: ForegroundDaemon
) -> None:  # R4, R9
    with both(hosts, near_daemon) as worker:
        buffer = worker.remote_malloc(worker=FAR, nbytes=NUMBERS.nbytes)
        imported = worker.remote_import(worker.remote_export(buffer), worker=NEAR)
        turns(worker, [(NEAR, imported)])
        hosts.set_link(Settings(cut=True))
        began = time.monotonic()
        with pytest.raises(SimplerError, match=r"cannot be reached|broke|has copied nothing|hung up|lost"):
            turns(worker, [(NEAR, imported)])
        assert time.monotonic() - began < HEALTH_S + MARGIN_S
        hosts.set_link()
        own = worker.remote_malloc(worker=NEAR, nbytes=NUMBERS.nbytes)
        worker.remote_copy_to(own, NUMBERS)
        assert turns(worker, [(NEAR, own)]) == int(NUMBERS.sum()) + len(NUMBERS)
