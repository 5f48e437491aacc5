"""Imports between two daemons that speak TLS only: the two sessions' runners pin each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from simpler import RemoteTensorRef, RemoteWorkerSpec, TaskArgs, TensorArgType, TlsConfig, Worker
from simpler.errors import AuthError
from simplerd.foreground import ForegroundDaemon
from tls_site import TcpDaemon, TlsSite

pytestmark = pytest.mark.slow

HEAP_BYTES = 1 << 24
NUMBERS = np.arange(1 << 17)


def add_one(orch: Any, args: Any, config: object = None) -> int:
    args.tensor(0)[...] += 1
    return int(args.tensor(0).sum())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> TlsSite:
    return TlsSite(tmp_path_factory.mktemp("site") / "authority")


@pytest.fixture(scope="module")
def daemons(site: TlsSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TcpDaemon]]:
    with (
        TcpDaemon(site.config(tmp_path_factory.mktemp("first"))) as first,
        TcpDaemon(site.config(tmp_path_factory.mktemp("second"))) as second,
    ):
        yield [first, second]


def worker_at(*places: tuple[str, TlsConfig | None]) -> Worker:
    made = Worker(level=4, heap_bytes=HEAP_BYTES)
    for endpoint, tls in places:
        made.add_remote_worker(RemoteWorkerSpec(endpoint, tls=tls, heap_bytes=HEAP_BYTES))
    return made


def test_tasks_use_memory_across_two_daemons_under_tls(site: TlsSite, daemons: list[TcpDaemon]) -> None:  # B7, D3
    with worker_at(*((daemon.tcp, site.client) for daemon in daemons)) as worker:
        buffer = worker.remote_malloc(worker=0, nbytes=NUMBERS.nbytes)
        worker.remote_copy_to(buffer, NUMBERS)
        imported = worker.remote_import(worker.remote_export(buffer), worker=1)
        task = worker.register(add_one)

        def both(orch: Any, args: object, config: object) -> Any:
            for remote, handle in ((0, buffer), (1, imported), (0, buffer), (1, imported)):
                tensor = RemoteTensorRef(handle, shape=len(NUMBERS), dtype="int64")
                last = orch.submit_next_level(task, TaskArgs().add_tensor(tensor, TensorArgType.INOUT), worker=remote)
            return last

        assert worker.run(both).result() == int(NUMBERS.sum()) + 4 * len(NUMBERS)
        worker.remote_release_import(imported)
        worker.remote_free(buffer)


def test_a_session_in_clear_imports_nothing_from_one_under_tls(
    site: TlsSite, daemons: list[TcpDaemon], daemon: ForegroundDaemon
) -> None:  # B1, D3
    with worker_at((daemons[0].tcp, site.client), (daemon.endpoint, None)) as worker:
        exported = worker.remote_export(worker.remote_malloc(worker=0, nbytes=64))
        with pytest.raises(AuthError, match="reach both that way"):
            worker.remote_import(exported, worker=1)
