"""When an executor's processes begin and end: with the first call, with the executor, with the program."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor import calls
from executor.conftest import MakeExecutor
from simpler import SimplerExecutor
from simpler.errors import StateError

pytestmark = pytest.mark.slow
PATIENCE_S = 30.0


@contextlib.contextmanager
def program(text: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python program of its own, which the end of the block kills and reaps."""
    found = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", text, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": found}) as run:
        try:
            yield run
        finally:
            run.kill()


@contextlib.contextmanager
def watched(pids: list[int]) -> Iterator[list[int]]:
    """A pidfd of each."""
    with contextlib.ExitStack() as opened:
        pidfds = [os.pidfd_open(pid) for pid in pids]
        for pidfd in pidfds:
            opened.callback(os.close, pidfd)
        yield pidfds


def end_soon(pidfds: list[int]) -> bool:
    return all(select.select([pidfd], [], [], PATIENCE_S)[0] for pidfd in pidfds)


def children() -> set[str]:
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_nothing_is_started_before_the_first_call(make_session_executor: MakeExecutor) -> None:  # X8
    threads, before = threading.active_count(), children()
    executor = make_session_executor()
    assert (threading.active_count(), children()) == (threads, before)
    assert executor.submit(calls.add, 1).result() == 2
    assert len(children() - before) == 1  # the spawner, whose children the workers are
    executor.shutdown()
    assert (threading.active_count(), children()) == (threads, before)


def test_executors_side_by_side_share_nothing(make_session_executor: MakeExecutor) -> None:  # X8
    first, second = make_session_executor(1), make_session_executor(1)
    assert first.submit(calls.pid).result() != second.submit(calls.pid).result()
    first.shutdown()
    assert second.submit(calls.add, 1).result() == 2


def test_it_works_when_the_thread_that_began_it_has_ended(make_session_executor: MakeExecutor) -> None:  # X6
    executor = make_session_executor(1)
    pids: list[int] = []
    thread = threading.Thread(target=lambda: pids.append(executor.submit(calls.pid).result()))
    thread.start()
    thread.join()
    assert executor.submit(calls.pid).result() == pids[0]


KILLED = """
import sys
from pathlib import Path
from simpler import SimplerExecutor
from executor import surroundings
executor = SimplerExecutor(2)
executor.submit(surroundings.nested_and_stay, Path(sys.argv[1]), Path(sys.argv[2]), 1).result()
"""


def test_all_processes_end_with_a_program_that_is_killed(tmp_path: Path, fifo: Path) -> None:  # X6
    told = tmp_path / "pids"
    with program(KILLED, told, fifo) as run:
        fifo.read_text()
        with watched([int(pid) for pid in told.read_text().split()]) as pidfds:
            assert len(pidfds) == 4  # a worker and its spawner, inside and outside
            run.kill()
            assert end_soon(pidfds)


LEAVES = """
import sys
from pathlib import Path
from simpler import SimplerExecutor
from executor import calls
executor = SimplerExecutor(1)
futures = [executor.submit(calls.tell_and_read, Path(sys.argv[1]), Path(sys.argv[2])) for _ in range(2)]
for future in futures:
    future.add_done_callback(lambda done: print(done.result().decode(), flush=True))
print("over", flush=True)
"""


def test_calls_that_a_program_leaves_behind_at_its_end_are_finished(tmp_path: Path, fifo: Path) -> None:  # X8
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    with program(LEAVES, begun, fifo) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "over\n"
        for answer in ("one", "two"):
            begun.read_text()
            fifo.write_text(answer)
        assert run.stdout.read() == "one\ntwo\n"
        assert run.wait(PATIENCE_S) == 0


def test_ctrl_c_at_a_programs_end_ends_what_it_waits_for(tmp_path: Path, fifo: Path) -> None:  # X8
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    with program(LEAVES, begun, fifo) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "over\n"
        with watched([int(begun.read_text())]) as pidfds:
            run.send_signal(signal.SIGINT)
            run.wait(PATIENCE_S)
            assert end_soon(pidfds)


WAITS = """
import sys
from pathlib import Path
from simpler import SimplerExecutor
from executor import calls
executor = SimplerExecutor(1)
futures = [executor.submit(calls.tell_and_read, Path(sys.argv[1]), Path(sys.argv[2])) for _ in range(9)]
futures[0].result()
"""


def test_a_program_that_ctrl_c_ends_does_not_wait_for_its_calls(tmp_path: Path, fifo: Path) -> None:  # X8
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    with program(WAITS, begun, fifo) as run, watched([int(begun.read_text())]) as pidfds:
        run.send_signal(signal.SIGINT)
        assert run.wait(PATIENCE_S) != 0
        assert end_soon(pidfds)


FORKS = """
import os, sys
from simpler import SimplerExecutor
from simpler.errors import StateError
from executor import calls
executor = SimplerExecutor(1)
worker = executor.submit(calls.pid).result()
child = os.fork()
if child == 0:
    code = 1
    try:
        executor.submit(calls.pid)
    except StateError as error:
        code = 0 if "forked copy" in str(error) else 2
    executor.shutdown()
    del executor
    with SimplerExecutor(1) as own:
        code = code or own.submit(calls.add, -1).result()
    os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert executor.submit(calls.pid).result() == worker
executor.shutdown()
"""


def test_a_forked_copy_is_refused_and_does_the_original_no_harm() -> None:  # X8
    with program(FORKS) as run:
        assert run.wait(PATIENCE_S) == 0


def test_it_is_refused_after_shutdown(session_executor: SimplerExecutor) -> None:  # X8
    session_executor.submit(calls.add, 1).result()
    session_executor.shutdown()
    with pytest.raises(StateError, match="after shutdown"):
        session_executor.submit(calls.add, 1)
