"""Memory that is imported just when the daemon between two sessions is killed."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from simpler import RemoteWorkerSpec, Worker
from simplerd.foreground import ForegroundDaemon

HEAP_BYTES = 1 << 24
OWNER, OTHER = 0, 1


def two_sessions(daemon: ForegroundDaemon) -> Worker:
    made = Worker(level=4)
    for _ in (OWNER, OTHER):
        made.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1, heap_bytes=HEAP_BYTES))
    return made


@pytest.mark.slow
def test_an_import_that_a_dead_daemon_was_asked_for_is_asked_of_the_next() -> None:  # D2 B7
    with ForegroundDaemon() as daemon, two_sessions(daemon) as worker, ThreadPoolExecutor(1) as thread:
        buffer = worker.remote_malloc(worker=OWNER, nbytes=64)
        worker.remote_copy_to(buffer, np.arange(8))
        exported = worker.remote_export(buffer)
        os.kill(daemon.pid, signal.SIGSTOP)  # so that it has the request, and does not read it
        importing = thread.submit(worker.remote_import, exported, worker=OTHER)
        daemon.kill()
        daemon.start_again()
        imported = importing.result(timeout=60)
        worker.remote_release_import(imported)
