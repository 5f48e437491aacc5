"""Calls in sessions at two daemons: on the SUB workers of both, by way of one executor."""

from __future__ import annotations

import operator
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from executor import calls
from executor.conftest import MakeExecutor
from simpler import RemoteWorkerSpec, SimplerExecutor
from simpler.errors import ArgumentError, ConnectError, SessionLost, TaskError, TaskTimeout, WorkerDied
from simpler.executor.broken import ExecutorBroken
from simpler.executor.session_backend import SessionBackend
from simplerctl.client import AdminClient
from simplerd.foreground import ForegroundDaemon
from tls_site import TcpDaemon, TlsSite

pytestmark = pytest.mark.slow

TESTS = str(Path(__file__).parents[1])
TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def one() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def other() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


def spec(daemon: ForegroundDaemon) -> RemoteWorkerSpec:
    """A session with one worker, that knows the modules of the tests."""
    return RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1, import_paths=[TESTS])


@pytest.fixture
def both(make_session_executor: MakeExecutor, one: ForegroundDaemon, other: ForegroundDaemon) -> SimplerExecutor:
    """One worker at each."""
    return make_session_executor(endpoints=[spec(one), spec(other)])


def begun(pipe: Path) -> int:
    """Who has begun, and waits."""
    return int(pipe.read_text())


def pipes(folder: Path, name: str) -> tuple[Path, Path]:
    both = folder / f"{name}-begun", folder / f"{name}-end"
    for path in both:
        os.mkfifo(path)
    return both


def parent(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("PPid:")]
    return int(line.split()[1])


def call_until_broken(executor: SimplerExecutor) -> None:
    while True:
        with suppress(WorkerDied, SessionLost):  # or it is over before its worker is
            executor.submit(calls.pid).result(TIMEOUT_S)


def test_calls_run_in_all_sessions_at_once(both: SimplerExecutor, tmp_path: Path) -> None:  # X1, X6
    here = [pipes(tmp_path, name) for name in ("one", "other")]
    futures = [both.submit(calls.tell_and_read, *each) for each in here]
    pids = [begun(told) for told, _ in here]
    for number, (_, end) in enumerate(here):
        end.write_bytes(b"%d" % number)
    assert [future.result(TIMEOUT_S) for future in futures] == [b"0", b"1"]
    metrics = [future.metrics for future in futures]
    assert [each.pid for each in metrics if each] == pids
    assert len({each.worker_id for each in metrics if each}) == 2
    assert list(both.map(operator.add, range(500), range(500))) == list(range(0, 1000, 2))


def test_operators_see_the_calls_of_a_session(
    make_session_executor: MakeExecutor, one: ForegroundDaemon, tmp_path: Path
) -> None:
    executor = make_session_executor(endpoints=[spec(one)], name="sweep")
    told, end = pipes(tmp_path, "seen")
    running = executor.options(timeout_s=60).submit(calls.tell_and_read, told, end)
    pid = begun(told)
    with AdminClient(one.admin_socket, TIMEOUT_S) as admin:
        [session] = [each["id"] for each in admin.call("session.list") if each["name"] == "sweep/0"]
        [task] = admin.call("session.tasks", {"session": session})["tasks"]
        end.write_bytes(b"done")
        assert running.result(TIMEOUT_S) == b"done"
        spans = admin.call("session.trace", {"session": session})["spans"]
        [worker] = admin.call("session.stats", {"session": session})["workers"]
    assert (task["name"], task["state"], task["worker"], task["timeout_s"]) == ("CallRunner", "running", "sub0", 60)
    assert ("CallRunner", "call", "succeeded") in [(span["name"], span["op"], span["outcome"]) for span in spans]
    assert worker["pid"] == pid


def test_what_a_call_raises_is_raised_here_with_its_traceback_there(both: SimplerExecutor) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        both.submit(calls.divide, 1, 0).result(TIMEOUT_S)
    assert "calls.py" in str(raised.value.__cause__)


@pytest.mark.parametrize("nbytes", [100 << 10, 3 << 20, 40 << 20])
def test_arguments_and_results_of_any_size_reach_sessions(both: SimplerExecutor, nbytes: int) -> None:  # X2
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes, "uint8")
    kept = [both.submit(np.bitwise_xor, data, number).result(TIMEOUT_S) for number in range(4)]
    for number, result in enumerate(kept):
        assert np.array_equal(result, data ^ number)
    assert both.submit(len, data).result(TIMEOUT_S) == nbytes


@pytest.mark.parametrize(("nbytes", "heap_bytes"), [(900 << 10, 8 << 20), (3 << 20, 16 << 20)])
def test_many_large_calls_wait_for_one_another_in_a_small_session(
    make_session_executor: MakeExecutor, one: ForegroundDaemon, nbytes: int, heap_bytes: int
) -> None:  # X2
    endpoint = RemoteWorkerSpec(one.endpoint, num_sub_workers=2, heap_bytes=heap_bytes)
    executor, data = make_session_executor(endpoints=[endpoint]), np.arange(nbytes // 8)
    futures = [executor.submit(np.add, data, number) for number in range(30)]
    for number, future in enumerate(futures):
        assert np.array_equal(future.result(TIMEOUT_S), data + number)


def test_a_function_that_a_session_cannot_import_is_named(
    make_session_executor: MakeExecutor, one: ForegroundDaemon
) -> None:
    executor = make_session_executor(1, endpoints=[one.endpoint])
    with pytest.raises(TaskError, match="No module named 'executor'"):
        executor.submit(calls.pid).result(TIMEOUT_S)
    assert executor.submit(os.getpid).result(TIMEOUT_S) != os.getpid()


def test_a_killed_worker_and_one_that_takes_too_long_cost_their_calls(
    both: SimplerExecutor, tmp_path: Path
) -> None:  # X5
    told, end = pipes(tmp_path, "killed")
    killed = both.submit(calls.tell_and_read, told, end)
    pid = begun(told)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match=f"pid {pid} .*SIGKILL"):
        killed.result(TIMEOUT_S)
    with pytest.raises(TaskTimeout):
        both.options(timeout_s=0.05).submit(time.sleep, 3600).result(TIMEOUT_S)
    assert len(set(both.map(calls.add, range(20)))) == 20


def test_a_lost_session_costs_its_calls_and_the_last_one_the_executor(both: SimplerExecutor, tmp_path: Path) -> None:
    here = [pipes(tmp_path, name) for name in ("one", "other")]
    futures = [both.submit(calls.tell_and_read, *each) for each in here]
    pids = [begun(told) for told, _ in here]
    os.kill(parent(parent(pids[0])), signal.SIGKILL)  # the session's runner
    with pytest.raises(SessionLost):
        futures[0].result(TIMEOUT_S)
    here[1][1].write_bytes(b"goes on")
    assert futures[1].result(TIMEOUT_S) == b"goes on"
    assert [both.submit(calls.pid).result(TIMEOUT_S) for _ in range(5)] == [pids[1]] * 5
    os.kill(parent(pids[1]), signal.SIGKILL)  # the spawner of the other's workers: none will come again
    with pytest.raises(ExecutorBroken, match="can run no more calls"):
        call_until_broken(both)


def test_calls_go_on_while_their_daemon_is_away(make_session_executor: MakeExecutor, tmp_path: Path) -> None:
    with ForegroundDaemon() as daemon:
        executor = make_session_executor(endpoints=[spec(daemon)])
        told, end = pipes(tmp_path, "away")
        waiting = executor.submit(calls.tell_and_read, told, end)
        begun(told)
        daemon.kill()
        end.write_bytes(b"done")
        assert waiting.result(TIMEOUT_S) == b"done"
        assert executor.submit(calls.add, 1, 2).result(TIMEOUT_S) == 3
        daemon.start_again()
        executor.shutdown()


def test_calls_run_over_tls(make_session_executor: MakeExecutor, tmp_path: Path) -> None:
    site = TlsSite(tmp_path / "site")
    with TcpDaemon(site.config(tmp_path)) as daemon:
        executor = make_session_executor(2, endpoints=[RemoteWorkerSpec(daemon.tcp, tls=site.client)])
        assert list(executor.map(operator.neg, range(100))) == [-number for number in range(100)]
        executor.shutdown()


def test_endpoints_may_come_from_the_environment(
    one: ForegroundDaemon, other: ForegroundDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMPLER_EXECUTOR_ENDPOINTS", f"{one.endpoint}, {other.endpoint}")
    with SimplerExecutor(3) as executor:
        assert executor._max_workers == 4  # each has as many as any
        assert executor.submit(pow, 2, 10).result(TIMEOUT_S) == 1024


def test_sessions_that_cannot_be_opened_are_every_calls_error(make_session_executor: MakeExecutor) -> None:
    executor = make_session_executor(endpoints=["unix:/nowhere/session.sock"])
    with pytest.raises(ExecutorBroken, match="cannot connect to simplerd at unix:/nowhere/session") as broken:
        executor.submit(os.getpid).result(TIMEOUT_S)
    assert isinstance(broken.value.__cause__, ConnectError)


def test_an_endpoint_that_cannot_be_is_refused_at_once(one: ForegroundDaemon) -> None:
    with pytest.raises(ArgumentError, match="expected a list"):
        SimplerExecutor(endpoints=one.endpoint)
    with pytest.raises(ArgumentError, match=r"endpoint 7 is not possible; expected 'unix:/path'"):
        SessionBackend(1, endpoints=[7])


def test_an_initializer_runs_in_sessions_and_breaks_the_executor_when_it_fails(
    make_session_executor: MakeExecutor, one: ForegroundDaemon
) -> None:
    prepared = make_session_executor(endpoints=[spec(one)], initializer=os.chdir, initargs=("/usr",))
    assert prepared.submit(os.getcwd).result(TIMEOUT_S) == "/usr"
    failing = make_session_executor(endpoints=[spec(one)], initializer=os.chdir, initargs=("/nowhere/at/all",))
    with pytest.raises(ExecutorBroken, match="/nowhere/at/all"):
        failing.submit(os.getcwd).result(TIMEOUT_S)


def test_options_and_the_environment_are_those_of_a_session(
    make_session_executor: MakeExecutor, one: ForegroundDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:  # X3, X4
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    executor = make_session_executor(endpoints=[spec(one)])
    told = executor.options(output="capture", cwd="/usr", env_updates={"COLOUR": "red"}).submit(calls.surroundings)
    cwd, environment = told.result(TIMEOUT_S)
    assert cwd == Path("/usr")
    assert environment["COLOUR"] == "red"
    assert "AWS_SECRET_ACCESS_KEY" not in environment
    assert told.output is not None
    assert told.output.stdout == "in /usr\n"
    quietly = executor.options(output="discard")
    assert "COLOUR" not in quietly.submit(calls.surroundings).result(TIMEOUT_S)[1]


def test_who_leaves_by_ctrl_c_does_not_wait_for_calls_in_sessions(one: ForegroundDaemon, tmp_path: Path) -> None:  # X4
    told, end = pipes(tmp_path, "left")
    executor = SimplerExecutor(endpoints=[spec(one)])
    running, *waiting = [executor.submit(calls.tell_and_read, told, end) for _ in range(10)]
    with suppress(KeyboardInterrupt), executor:
        begun(told)
        raise KeyboardInterrupt
    assert isinstance(running.exception(0), (WorkerDied, SessionLost))
    assert all(future.done() for future in waiting)
