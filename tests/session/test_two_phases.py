"""Registering with two sessions, one of them behind a link that fails at a named step: nothing is left half-done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from simpler import CallableHandle, Orchestrator, RemoteWorkerSpec, TaskArgs, Worker, limits
from simpler.callables import content_of
from simpler.errors import RegistrationError, SessionLost, SimplerError, StaleHandle, TaskError
from simpler.wire.frames import MessageType
from simplerd.foreground import ForegroundDaemon

if TYPE_CHECKING:  # what is registered here is loaded from this file by sessions, which do not know the tests' modules
    from cutting_proxy import CuttingProxy, Trouble

pytestmark = pytest.mark.slow

SMALL = 1 << 24
NEAR, FAR = 0, 1
"""The worker whose session is reached as usual, and the one behind the proxy."""
SOON_S = 0.1


@pytest.fixture(scope="module")
def daemon() -> Iterator[ForegroundDaemon]:
    """One for all tests here: what each of them is about is its sessions."""
    with ForegroundDaemon() as running:
        yield running


@pytest.fixture
def worker(daemon: ForegroundDaemon, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(limits, "ENDED_GRACE_S", 0.05)
    monkeypatch.setattr(limits, "TOMBSTONE_GRACE_S", 0.05)
    worker = Worker(level=4, heap_bytes=SMALL)
    for endpoint in (daemon.endpoint, proxy.endpoint):
        worker.add_remote_worker(RemoteWorkerSpec(endpoint, num_sub_workers=1, heap_bytes=SMALL))
    with worker:
        yield worker


@pytest.fixture
def asks(worker: Worker) -> CallableHandle:
    return worker.register(knows)


def knows(orch: Orchestrator, args: Any, config: Any) -> bool:
    """Whether orchestration functions of the session can name a hashid."""
    try:
        orch.submit_sub(args.scalar(0))
    except RegistrationError:
        return False
    return True


def late(*args: Any) -> str:
    return "late"


LATE = content_of(late)


def refused(code: str, match: str | None = None) -> Any:
    return pytest.raises(SimplerError, match=match, check=lambda error: error.code == code)


def run_at(worker: Worker, handle: CallableHandle, remote: int, args: TaskArgs | None = None) -> Any:
    return worker.run(lambda orch, a, config: orch.submit_next_level(handle, args, worker=remote)).result()


def is_visible(worker: Worker, asks: CallableHandle, remote: int) -> bool:
    return bool(run_at(worker, asks, remote, TaskArgs().add_scalar(LATE.hashid)))


def goes_wrong(proxy: CuttingProxy, how: str, at: MessageType) -> Trouble:
    match how:
        case "refused":
            return proxy.refuse(at)
        case "raised":
            return proxy.deny(at, TaskError("out of luck"))
        case "cut":
            return proxy.cut(at)
        case "cut once done":
            return proxy.cut(at, reply=True)
        case "late":
            return proxy.stall(at)
    return proxy.stall(at, reply=True)


CODES = {
    "refused": "UNSUPPORTED",
    "raised": "TASK_FAILED",
    "cut": "SESSION_LOST",
    "cut once done": "SESSION_LOST",
    "late": "TIMEOUT",
    "late once done": "TIMEOUT",
}


@pytest.mark.parametrize("step", [MessageType.REGISTER, MessageType.COMMIT], ids=["prepare", "commit"])
@pytest.mark.parametrize("how", CODES)
def test_what_fails_in_either_phase_is_visible_nowhere(
    worker: Worker, proxy: CuttingProxy, asks: CallableHandle, how: str, step: MessageType
) -> None:  # C5
    trouble = goes_wrong(proxy, how, step)
    is_late = how.startswith("late")
    with refused(CODES[how]):
        worker.register(late, timeout_s=SOON_S if is_late else None)
    trouble.wait()
    if is_late:
        with refused("REGISTER_TOMBSTONE_ACTIVE", "still being taken back from"):
            worker.register(late)
        trouble.go_on()
    handle = registered_when_confirmed(worker)
    worker.unregister(handle)
    assert not is_visible(worker, asks, NEAR)
    if "cut" not in how:
        assert not is_visible(worker, asks, FAR)


def registered_when_confirmed(worker: Worker) -> CallableHandle:
    """Registers ``late`` once every earlier attempt is confirmed to be gone, and calls it."""
    for _ in range(100):
        with suppress(RegistrationError):
            handle = worker.register(late)
            assert run_at(worker, handle, NEAR) == "late"
            return handle
    raise AssertionError("the tombstone stays")


def test_nothing_is_visible_before_all_have_prepared(
    worker: Worker, proxy: CuttingProxy, asks: CallableHandle
) -> None:  # C5
    """One session has prepared it; the other has, too, but nobody knows."""
    stalled = proxy.stall(MessageType.REGISTER, reply=True)
    with refused("TIMEOUT", "workers? .*1 did not answer whether to prepare it"):
        worker.register(late, timeout_s=SOON_S)
    stalled.wait()
    assert not is_visible(worker, asks, NEAR)
    stalled.go_on()
    assert not is_visible(worker, asks, FAR)


@pytest.mark.parametrize("how", ["refused", "raised"])
def test_what_cannot_be_aborted_is_uncertain_there_and_used_no_more(
    worker: Worker, proxy: CuttingProxy, asks: CallableHandle, how: str
) -> None:  # C5
    proxy.refuse(MessageType.COMMIT)
    goes_wrong(proxy, how, MessageType.ABORT)
    with refused("REGISTER_PARTIAL_FAILURE", "uncertain: worker 1"):
        worker.register(late)
    with refused("REGISTER_CLEANUP_UNCERTAIN", "not used again with worker 1"):
        worker.register(late)
    assert not is_visible(worker, asks, NEAR)
    assert not is_visible(worker, asks, FAR)
    assert run_at(worker, worker.register(late, workers=[NEAR]), NEAR) == "late"


@pytest.mark.parametrize("how", ["cut", "cut once done"])
def test_a_link_that_is_cut_while_aborting_leaves_nothing_in_doubt(
    worker: Worker, proxy: CuttingProxy, how: str
) -> None:  # C5
    proxy.refuse(MessageType.COMMIT)
    goes_wrong(proxy, how, MessageType.ABORT)
    with refused("UNSUPPORTED"):
        worker.register(late)
    assert run_at(worker, worker.register(late), NEAR) == "late"


def test_an_abort_that_is_late_is_a_tombstone(worker: Worker, proxy: CuttingProxy, asks: CallableHandle) -> None:  # C5
    proxy.refuse(MessageType.COMMIT)
    stalled = proxy.stall(MessageType.ABORT)
    with refused("UNSUPPORTED"):
        worker.register(late, timeout_s=SOON_S)
    stalled.wait()
    with refused("REGISTER_TOMBSTONE_ACTIVE", "from worker 1"):
        worker.register(late)
    stalled.go_on()
    worker.unregister(registered_when_confirmed(worker))
    assert not is_visible(worker, asks, FAR)


@pytest.mark.parametrize("how", ["refused", "raised"])
def test_what_cannot_be_unregistered_is_uncertain(worker: Worker, proxy: CuttingProxy, how: str) -> None:  # C5
    handle = worker.register(late)
    goes_wrong(proxy, how, MessageType.UNREGISTER)
    with refused("REGISTER_CLEANUP_UNCERTAIN", "uncertain whether it is gone: worker 1"):
        worker.unregister(handle)
    with pytest.raises(StaleHandle):
        worker.unregister(handle)
    with refused("REGISTER_CLEANUP_UNCERTAIN", "not used again with worker 1"):
        worker.register(late)


@pytest.mark.parametrize("how", ["cut", "cut once done"])
def test_a_session_that_is_lost_while_unregistering_has_confirmed(
    worker: Worker, proxy: CuttingProxy, how: str
) -> None:  # C5
    handle = worker.register(late)
    goes_wrong(proxy, how, MessageType.UNREGISTER)
    worker.unregister(handle)
    again = worker.register(late)
    assert run_at(worker, again, NEAR) == "late"
    with pytest.raises(SessionLost):
        run_at(worker, again, FAR)


@pytest.mark.parametrize("how", ["late", "late once done"])
def test_an_unregistration_that_is_late_is_a_tombstone(
    worker: Worker, proxy: CuttingProxy, asks: CallableHandle, how: str
) -> None:  # C5
    handle = worker.register(late)
    stalled = goes_wrong(proxy, how, MessageType.UNREGISTER)
    with refused("UNREGISTER_TOMBSTONE_ACTIVE", "is unregistered; some workers have yet to confirm"):
        worker.unregister(handle, timeout_s=SOON_S)
    with refused("UNREGISTER_TOMBSTONE_ACTIVE", "was unregistered already"):
        worker.unregister(handle)
    with refused("REGISTER_TOMBSTONE_ACTIVE"):
        worker.register(late)
    stalled.go_on()
    worker.unregister(registered_when_confirmed(worker))
    assert not is_visible(worker, asks, FAR)
