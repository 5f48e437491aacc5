"""A session that does not get ready in time: each step says what it waited for, and leaves nothing at the daemon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from simpler import Orchestrator, RemoteWorkerSpec, TaskArgs, Worker
from simpler.errors import SimplerError, StartupError
from simpler.wire.frames import MessageType
from simplerd.foreground import ForegroundDaemon

if TYPE_CHECKING:  # a session that loads a function of this file need not find it
    from cutting_proxy import CuttingProxy

pytestmark = pytest.mark.slow

SMALL = 1 << 24
STARTUP_S = 1.0
GRACE_S = 0.3
STEPS = {
    MessageType.HELLO: "simplerd to answer HELLO",
    MessageType.OPEN: "the session's processes to become ready",
    MessageType.ATTACH: "the command lane",
    MessageType.REGISTER: "1 callables to be installed",
}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ForegroundDaemon]:
    """A simplerd that waits for a lost client for GRACE_S; the link of ``proxy`` is to this one."""
    config = tmp_path / "simplerd.toml"
    config.write_text(f"[limits]\nlost_client_grace_s = {GRACE_S}\n")
    with ForegroundDaemon("--config", str(config)) as running:
        yield running


def nothing(orch: Orchestrator, args: TaskArgs, config: object = None) -> None:
    return None


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def program(*endpoints: str) -> Worker:
    worker = Worker(level=4, heap_bytes=SMALL, startup_timeout_s=STARTUP_S)
    for endpoint in endpoints:
        worker.add_remote_worker(RemoteWorkerSpec(endpoint, heap_bytes=SMALL))
    worker.register(nothing)
    return worker


def all_ended(daemon: ForegroundDaemon) -> bool:
    log = daemon.log.read_text()
    return log.count("session.opened") == log.count("session.ended") + log.count("session.failed")


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_each_step_of_a_start_says_what_it_waited_for(
    daemon: ForegroundDaemon, proxy: CuttingProxy, step: MessageType
) -> None:  # R1 R5
    stalled, worker = proxy.stall(step, reply=True), program(proxy.endpoint)
    since = time.monotonic()
    with pytest.raises(StartupError, match=rf"remote worker 0 .* within 1 s: waited for {STEPS[step]}"):
        worker.init()
    assert STARTUP_S <= time.monotonic() - since < 10
    worker.close()
    stalled.go_on()
    proxy.end_connections()
    until(lambda: all_ended(daemon))


@pytest.mark.parametrize("step", [MessageType.ATTACH, MessageType.REGISTER], ids=lambda step: step.name)
def test_one_link_that_is_cut_closes_the_session_that_was_open_already(
    daemon: ForegroundDaemon, proxy: CuttingProxy, step: MessageType
) -> None:  # R5
    proxy.cut(step, reply=True)
    worker = program(daemon.endpoint, proxy.endpoint)
    with pytest.raises(SimplerError, match="remote worker 1"):
        worker.init()
    worker.close()
    until(lambda: all_ended(daemon))
