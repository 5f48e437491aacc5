"""A program on one host and its session on another, over links that are slow, that lose and that double."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from network.conftest import program
from network.two_hosts import TwoHosts
from network.userland_link import Settings
from simpler import Orchestrator, RemoteTensorRef, TaskArgs, TensorArgType
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

TASKS = 30


def add_one(orch: Orchestrator, args: TaskArgs, config: object = None) -> str:
    args.tensor(0)[:] += 1
    return socket.gethostname()


LINKS = {
    "in order": Settings(),
    "delayed": Settings(delay_s=0.01),
    "loses and doubles": Settings(drop=0.02, duplicate=0.2, delay_s=0.001),
    "slow": Settings(bytes_per_s=4e6),
}


@pytest.mark.parametrize("link", LINKS)
def test_tasks_and_copies_arrive_once_and_in_order(hosts: TwoHosts, far_daemon: ForegroundDaemon, link: str) -> None:
    # R3 R10
    settings = LINKS[link]
    hosts.set_link(settings)
    with program(hosts) as worker:
        task = worker.register(add_one)
        numbers = np.arange(1 << 17, dtype="int64")
        buffer = worker.remote_malloc(worker=0, nbytes=numbers.nbytes)
        worker.remote_copy_to(buffer, numbers)

        def graph(orch: Orchestrator, args: object, config: object) -> object:
            tensor = RemoteTensorRef(buffer, shape=numbers.shape, dtype="int64")
            passed = TaskArgs().add_tensor(tensor, TensorArgType.INOUT)
            return [orch.submit_next_level(task, passed, worker=0) for _ in range(TASKS)][-1]

        assert worker.run(graph).result() == "far"
        back = np.zeros_like(numbers)
        worker.remote_copy_from(buffer, back)
    assert (back == numbers + TASKS).all()
    counts = hosts.set_link()
    assert (counts["dropped"] > 0) >= (settings.drop > 0)
    assert (counts["doubled"] > 0) == (settings.duplicate > 0)
