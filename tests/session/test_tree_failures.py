"""What goes wrong somewhere in a tree of Workers: told with its path, contained, and mended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simpler import CallConfig, RemoteCallable, RemoteWorkerSpec, TaskArgs, TensorArgType, Worker
from simpler.errors import (
    ArgumentError,
    DeviceError,
    RegistrationError,
    StartupError,
    TaskError,
    TaskTimeout,
    UpstreamFailed,
    WorkerDied,
)
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

INOUT = TensorArgType.INOUT


def three_levels() -> Worker:
    """A level 5 Worker over a level 4 one (0) with a SUB worker over a level 3 one (1) with a SUB worker."""
    top, middle = Worker(5), Worker(4, num_sub_workers=1)
    middle.add_worker(Worker(3, num_sub_workers=1))
    top.add_worker(middle)
    return top


@pytest.fixture(scope="module")
def top() -> Iterator[Worker]:
    with three_levels() as worker:
        yield worker


def through(worker: Worker, function: Callable[[Any], Any], *workers: int) -> Callable[..., Any]:
    """An orchestration function that has ``function`` called by a SUB worker at the end of the way down."""
    hashid = worker.register(function).hashid

    def last(orch: Any, args: Any, config: Any) -> Any:
        return orch.submit_sub(hashid)

    step = last
    for below in reversed(workers):
        step = forward(worker.register(step).hashid, below)
    return step


def forward(hashid: str, worker: int) -> Callable[..., Any]:
    def pass_on(orch: Any, args: Any, config: Any) -> Any:
        return orch.submit_next_level(hashid, worker=worker)

    return pass_on


def gone(pids: list[int], within_s: float) -> bool:
    """Whether all of these processes end within that time."""
    deadline = time.monotonic() + within_s
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended = select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]
        os.close(pidfd)
        if not ended:
            return False
    return True


def test_an_error_carries_the_path_through_the_tree(top: Worker) -> None:  # R6
    def fail(args: Any) -> None:
        raise KeyError("the key")

    with pytest.raises(TaskError) as caught:
        top.run(through(top, fail, 0, 1))
    error = caught.value
    assert error.context["path"] == "L5/w0 → L4/w1 → L3/sub0"
    assert str(error).startswith("L5/w0 → L4/w1 → L3/sub0: ")
    assert str(error).count("→") == 2
    assert isinstance(error.__cause__, KeyError)
    assert str(error.context["callable"]).endswith("fail")
    assert error.context["worker"] == "w0.w1.sub0"
    frames = [line for line in error.remote_traceback.splitlines() if line.startswith("  File")]
    assert [line.split()[-1] for line in frames] == ["fail"]


@pytest.mark.parametrize(("below", "place"), [((), "L5"), ((0,), "L5/w0"), ((0, 1), "L5/w0 → L4/w1")])
def test_what_an_orchestration_function_is_refused_says_which_worker_does(
    below: tuple[int, ...], place: str, top: Worker
) -> None:
    def wrong(orch: Any, args: Any, config: Any) -> None:
        orch.submit_next_level(args, worker=9)

    step: Callable[..., Any] = wrong
    for worker in reversed(below):
        step = forward(top.register(step).hashid, worker)
    with pytest.raises(ArgumentError, match="expected a CallableHandle") as caught:  # R6
        top.run(step)
    assert str(caught.value).startswith(f"{place}: ") == bool(below)


def test_an_error_of_an_orchestration_function_says_at_which_level(top: Worker) -> None:  # R6, G5
    def fail(orch: Any, args: Any, config: Any) -> None:
        raise ValueError("no graph today")

    failing = top.register(fail).hashid
    with pytest.raises(TaskError, match="no graph today") as caught:
        top.run(forward(top.register(forward(failing, 1)).hashid, 0))
    assert caught.value.context["path"] == "L5/w0 → L4/w1"
    assert "simpler/worker.py" not in caught.value.remote_traceback
    with pytest.raises(TaskError, match="no graph today") as caught:
        top.run(forward(failing, 0))
    assert caught.value.context["path"] == "L5/w0"


def test_what_depends_on_a_failure_below_is_poisoned(top: Worker) -> None:  # G4
    def fail(args: Any) -> None:
        raise ValueError("early")

    failing = top.register(through(top, fail, 1))
    fine = top.register(lambda orch, args, config: None)

    def orchestrate(orch: Any, *_: Any) -> None:
        first = orch.submit_next_level(failing, worker=0)
        orch.submit_next_level(fine, worker=0, after=[first])

    with pytest.raises(TaskError, match="early") as caught:
        top.run(orchestrate)
    assert [type(each) for each in caught.value.failures] == [TaskError, UpstreamFailed]
    context = caught.value.failures[1].context
    assert (context["path"], context["hashid"]) == ("L5/w0 → L4/w1 → L3/sub0", fine.hashid)


def test_arguments_that_overlap_below_are_refused_as_they_are_here(top: Worker) -> None:  # G9, R6
    hashid = top.register(lambda args: None).hashid

    def twice(orch: Any, args: Any, config: Any) -> None:
        array = args.tensor(0)
        orch.submit_sub(hashid, TaskArgs().add_tensor(array[:3], INOUT).add_tensor(array[2:], INOUT))

    handle, array = top.register(twice), top.array((5,), "int64")
    with pytest.raises(ArgumentError, match="tensor arguments 0 and 1 of one task write overlapping") as caught:
        top.run(lambda orch, *_: orch.submit_next_level(handle, TaskArgs().add_tensor(array, INOUT), worker=0))
    assert caught.value.context["path"] == "L5/w0"


def test_several_tasks_cannot_be_returned_to_the_level_above(top: Worker) -> None:  # G10
    hashid = top.register(lambda args: None).hashid
    both = top.register(lambda orch, args, config: [orch.submit_sub(hashid), orch.submit_sub(hashid)])
    with pytest.raises(TaskError, match=r"of type list.* return one TaskRef alone"):
        top.run(forward(both.hashid, 0))


def test_an_error_of_a_session_has_its_place_in_the_path(daemon: ForegroundDaemon) -> None:  # R6
    def fail(args: Any) -> None:
        raise ValueError("far away")

    top = Worker(4)
    top.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1))
    with top, pytest.raises(TaskError, match="far away") as caught:
        top.run(through(top, fail, 0))
    assert caught.value.context["path"] == "L4/w0 → L3/sub0"
    assert str(caught.value).startswith("L4/w0 → L3/sub0: ")


@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt])
def test_a_function_that_exits_fails_its_task_once_its_own_tasks_have_ended(
    top: Worker, leaving: type[BaseException]
) -> None:  # G4, G5
    def slowly(args: Any) -> None:
        args.tensor(0)[0] = 1
        time.sleep(0.2)
        args.tensor(0)[1] = 1

    hashid = top.register(slowly).hashid

    def leave(orch: Any, args: Any, config: Any) -> None:
        orch.submit_sub(hashid, TaskArgs().add_tensor(args.tensor(0), INOUT))
        while not args.tensor(0)[0]:  # it has begun, so it is not cancelled
            time.sleep(0)
        raise leaving("early")

    array = top.array((2,), "int64")
    handle = top.register(leave)
    with pytest.raises(TaskError, match="early"):
        top.run(lambda orch, *_: orch.submit_next_level(handle, TaskArgs().add_tensor(array, INOUT), worker=0))
    assert array.tolist() == [1, 1]


def test_a_child_that_is_interrupted_lets_its_tasks_end_before_its_own_does(top: Worker) -> None:  # G4, G5
    def slowly(args: Any) -> None:
        args.tensor(0)[0] = os.getpid()
        time.sleep(0.3)
        args.tensor(0)[1] = 1

    hashid = top.register(slowly).hashid

    def wait(orch: Any, args: Any, config: Any) -> None:
        orch.submit_sub(hashid, TaskArgs().add_tensor(args.tensor(0), INOUT))

    handle, array = top.register(wait), top.array((2,), "int64")
    args = TaskArgs().add_tensor(array, INOUT)
    run = top.submit(lambda orch, *_: orch.submit_next_level(handle, args, worker=0))
    while not array[0]:
        time.sleep(0)
    os.kill(top.stats().workers[0].pid, signal.SIGINT)
    with pytest.raises(TaskError, match="KeyboardInterrupt"):
        run.result()
    assert array[1] == 1


def test_a_leaf_that_dies_costs_its_task_alone(top: Worker) -> None:  # W4
    def die(args: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    before = [worker.pid for worker in top.stats().workers]
    with pytest.raises(WorkerDied, match=r"w0\.w1\.sub0.*SIGKILL") as caught:
        top.run(through(top, die, 0, 1))
    assert caught.value.context["path"] == "L5/w0 → L4/w1 → L3/sub0"
    assert top.run(through(top, lambda args: "goes on", 0, 1)).result() == "goes on"
    assert [worker.pid for worker in top.stats().workers] == before


def test_a_leaf_that_crashes_tells_where_in_its_own_code(top: Worker) -> None:  # W4
    def crash(args: Any) -> None:
        print("about to crash", file=sys.stderr)
        os.abort()

    with pytest.raises(WorkerDied) as caught:
        top.run(through(top, crash, 0, 1))
    lines = str(caught.value).splitlines()
    assert "about to crash" in lines
    assert "Fatal Python error: Aborted" in lines
    frames = [line.rpartition(" in ")[2] for line in lines if line.startswith('  File "')]
    assert (frames[0], frames[-1]) == ("crash", "_run_child")


def test_nothing_below_a_dead_child_writes_any_more_once_its_task_has_failed(top: Worker) -> None:  # W4, G1
    def count(args: Any) -> None:
        while True:
            args.tensor(0)[0] += 1

    hashid = top.register(count).hashid

    def last(orch: Any, args: Any, config: Any) -> None:
        orch.submit_sub(hashid, TaskArgs().add_tensor(args.tensor(0), INOUT))

    lower = top.register(last).hashid

    def die(orch: Any, args: Any, config: Any) -> None:
        orch.submit_next_level(lower, TaskArgs().add_tensor(args.tensor(0), INOUT), worker=1)
        while not args.tensor(0)[0]:
            time.sleep(0)
        os.kill(os.getpid(), signal.SIGKILL)

    dying, array = top.register(die), top.array((1,), "int64")
    for _ in range(3):
        with pytest.raises(WorkerDied):
            top.run(lambda orch, *_: orch.submit_next_level(dying, TaskArgs().add_tensor(array, INOUT), worker=0))
        counted = int(array[0])
        assert top.run(through(top, lambda args: "again", 0, 1)).result() == "again"
        assert array[0] == counted


def test_a_child_that_is_killed_comes_back_with_all_below_it_and_its_callables(top: Worker) -> None:  # W4, C6
    def die(orch: Any, args: Any, config: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    ask = through(top, lambda args: os.getpid(), 0, 1)
    leaf = top.run(ask).result()
    pid, restarts = top.stats().workers[0].pid, top.stats().restarts
    with pytest.raises(WorkerDied, match=rf"worker w0(#\d+)? \(pid {pid} .*SIGKILL") as caught:
        top.run(forward(top.register(die).hashid, 0))
    assert caught.value.context["path"] == "L5/w0"
    assert gone([leaf], within_s=2)
    assert top.run(ask).result() != leaf
    assert top.stats().workers[0].pid != pid
    assert top.stats().restarts == restarts + 1


def test_a_child_comes_back_without_what_cannot_be_loaded_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # W4
    module = tmp_path / "module_that_goes.py"
    module.write_text("def leaf(args): return 'found'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    top, child = Worker(4), Worker(3, num_sub_workers=1)
    top.add_worker(child)
    hashid = top.register(RemoteCallable("module_that_goes:leaf")).hashid
    with top:
        ask = top.register(lambda orch, args, config: orch.submit_sub(hashid)).hashid
        assert top.run(forward(ask, 0)).result() == "found"
        module.unlink()
        die = top.register(lambda orch, args, config: os.kill(os.getpid(), signal.SIGKILL)).hashid
        with pytest.raises(WorkerDied):
            top.run(forward(die, 0))
        assert top.run(through(top, lambda args: "the others do", 0)).result() == "the others do"
        with pytest.raises(RegistrationError, match="not registered"):
            top.run(forward(ask, 0))
        assert top.stats().restarts == 1


def test_a_child_whose_own_spawner_dies_is_made_anew(top: Worker) -> None:  # W4
    ask = through(top, lambda args: os.getppid(), 0, 1)
    spawner, pid = top.run(ask).result(), top.stats().workers[0].pid
    holder = int(Path(f"/proc/{spawner}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(spawner, signal.SIGKILL)
    assert gone([spawner, holder], within_s=2)
    assert top.run(ask).result() != spawner
    assert top.stats().workers[0].pid == pid  # it was the child's child that left


def test_a_child_leaves_without_its_spawner_even_when_user_code_takes_the_signal(top: Worker) -> None:  # W4
    def kill_spawner(args: Any) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()

    leaf = top.register(kill_spawner).hashid

    def deaf(orch: Any, args: Any, config: Any) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        orch.submit_sub(leaf)

    restarts = top.stats().restarts
    with pytest.raises(WorkerDied, match="died with its spawner"):
        top.run(forward(top.register(deaf).hashid, 0))
    assert top.run(through(top, lambda args: "again", 0, 1)).result() == "again"
    assert top.stats().restarts == restarts + 1


def test_a_timeout_ends_a_child_with_all_below(top: Worker) -> None:  # G7
    leaf = top.run(through(top, lambda args: os.getpid(), 0, 1)).result()

    def hang(args: Any) -> None:
        signal.pause()

    hanging = top.register(through(top, hang, 1))
    with pytest.raises(TaskTimeout) as caught:
        top.run(lambda orch, *_: orch.submit_next_level(hanging, config=CallConfig(timeout_s=0.2), worker=0))
    assert caught.value.context["path"] == "L5/w0"
    assert gone([leaf], within_s=2)
    assert top.run(through(top, lambda args: "again", 0, 1)).result() == "again"


PARENT = """
import os, sys, time
from simpler import Worker
top, workers = Worker(6), []
parent = top
for level in (5, 4, 3):
    child = Worker(level, num_sub_workers=1)
    parent.add_worker(child)
    parent = child
with top:
    where = [0, 1, 1]
    pid = top.register(lambda args: time.sleep(0) or os.getpid()).hashid
    pids = lambda orch, args, config: [os.getpid(), os.getppid(), orch.submit_sub(pid)]
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def test_a_killed_program_leaves_nothing_of_four_levels() -> None:  # W3
    program = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdin is not None
    program.stdout.readline()
    below = descendants(program.pid)
    assert len(below) == 4 + 3 + 3  # spawners, Workers of the levels 5 to 3, their SUB workers
    program.kill()
    assert gone(below, within_s=2)
    program.communicate()


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def test_a_device_that_is_not_there_fails_the_start_of_the_whole_tree() -> None:  # W1, W2
    top, child = Worker(4), Worker(3, device_ids=[0], platform="nowhere")
    top.add_worker(child)
    with pytest.raises(DeviceError, match="nowhere") as caught:
        top.init()
    assert caught.value.context["worker"] == "w0.chip0"


class SlowToLoad:
    """Loading it takes for ever."""

    def __reduce__(self) -> Any:
        return time.sleep, (1000,)

    def __call__(self, args: Any) -> None:
        raise AssertionError


def test_what_is_late_is_named_from_the_innermost_level() -> None:  # W2
    top = Worker(5, startup_timeout_s=3)
    middle, bottom = Worker(4), Worker(3, num_sub_workers=1)
    top.add_worker(middle)
    middle.add_worker(bottom)
    bottom.register(SlowToLoad())
    begun = time.monotonic()
    with pytest.raises(StartupError, match=r"not READY within startup_timeout_s: w0\.w0\.sub0"):
        top.init()
    assert time.monotonic() - begun < 3


def test_what_a_child_cannot_load_fails_the_start() -> None:  # W1, C9
    top, child = Worker(4), Worker(3, num_sub_workers=1)
    top.add_worker(child)
    child.register(RemoteCallable("not_a_module_at_all:function"))
    with pytest.raises(RegistrationError, match="not_a_module_at_all"):
        top.init()
