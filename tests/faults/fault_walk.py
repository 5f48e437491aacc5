"""Walks the fault points through Python: ``python fault_walk.py ROLE [DEPTH]``, with a library that has them;
the role ``coverage`` only compares the points that are walked with those of the library.

A role is the process that dies: a worker, the one that recovers after a worker, the spawner, the program. Each case is
a program of its own with a small pool, forked off this process, which is warm, and adopts what the program leaves
behind: nothing may outlive it for two seconds. DEPTH: how often a point is passed before it kills, at most.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from faults import fault_points
from faults.fault_scene import CHIP, INOUT, OTHER, PRELOAD, SUB, Scene, double, increase_when_open, small_pool
from simpler import CallConfig, Orchestrator, TaskArgs, TensorArgType, Worker, limits
from simpler.completion_stream import StreamLost
from simpler.errors import WorkerDied
from simpler.region import ANY_SUB, WorkerState
from simpler.spawn import Spawner

NOT_PASSED = 7
"""Exit code of a case that never came to its point."""
CASE_S, ORPHANS_S = 20, 2

WORKER = [
    "submit:queued",
    "take:popped",
    "take:alarm",
    "take:running",
    "complete:record",
    "complete:moved",
    "end:edges",
    "end:retained",
    "heap:split",
    "heap:taken",
    "heap:merged",
    "park:parked",
    "unlocked:waking",
]
MEMBER = ["group:joined", "group:started", "group:ended"]
RECOVERER = ["recover:slots", "recover:heap"]
SPAWNER = [
    "overdue:condemned",
    "abandon:marked",
    "group:left",
    *RECOVERER,
    "complete:moved",
    "end:edges",
    "end:retained",
    "heap:split",
    "heap:taken",
]
CHILD = [
    "read:locked",
    "submit:slot",
    "submit:edges",
    "submit:queued",
    "run:begin",
    "run:release",
    "heap:split",
    "heap:taken",
]
PROGRAM = [
    "submit:slot",
    "submit:edges",
    "submit:queued",
    "group:built",
    "run:begin",
    "run:release",
    "cancel:drained",
    "callable:filled",
    "callable:used",
    "callable:emptied",
    "heap:split",
    "heap:taken",
    "heap:merged",
    "stream:forgotten",
    "unlocked:waking",
]


class Watched:
    """A process whose end is waited for, whoever is its parent."""

    def __init__(self, pid: int) -> None:
        self.pid, self.pidfd = pid, os.pidfd_open(pid)

    def has_ended(self, within_s: float) -> bool:
        return bool(select.select([self.pidfd], [], [], within_s)[0])

    def must_end(self) -> None:
        assert self.has_ended(10), f"process {self.pid} never came to its point"


def expect_death(run: Any, *, maybe: bool = False) -> str:
    """The run ends with WorkerDied, or well where that is possible; what it said."""
    try:
        run.result(timeout=10)
    except WorkerDied as error:
        return str(error)
    assert maybe, "the run ended well"
    return ""


# ---- the roles


def worker_dies(point: str, skip: int) -> None:
    """A SUB worker dies at the point; the pool is whole again."""
    with small_pool() as scene:
        scene.check_whole()
        used, victim = scene.heap_used(), Watched(scene.pids()[SUB])
        run = scene.worker.submit(lambda orch, *_: scene.graph(orch, scene.arm, point, skip))
        expect_death(run, maybe=True)
        if skip == 0:
            victim.must_end()  # some points are passed after the run's last task
        elif not victim.has_ended(0):
            sys.exit(NOT_PASSED)
        del run
        scene.check_whole()
        assert scene.pids()[SUB] != victim.pid
        assert scene.heap_used() == used, (scene.heap_used(), used)


def run_is_lost(point: str, skip: int) -> None:
    """A SUB worker dies with the lock held while the orchestration function still submits: the run says so."""
    with small_pool() as scene:
        region = scene.worker.region
        assert region is not None

        def graph(orch: Orchestrator, *_: Any) -> None:
            scene.gates[0] = 0
            orch.submit_sub(scene.arm, scene.arming(0, point, skip))
            scene.gates[0] = 1
            while not region.stats().recoveries:
                os.sched_yield()
            orch.submit_sub(scene.ready)

        if skip:
            sys.exit(NOT_PASSED)
        expect_death(scene.worker.submit(graph))
        scene.check_whole()


def stream_is_lost(point: str, skip: int) -> None:
    """A SUB worker dies with the lock held while a stream waits: what had ended is told, then that the rest is lost."""
    if skip:
        sys.exit(NOT_PASSED)
    with small_pool() as scene:
        region = scene.worker.region
        assert region is not None
        stream = region.stream_begin()
        told = stream.submit(ANY_SUB, scene.ready.digest, b"")
        assert [each.task for each in stream.reap(timeout_s=10)] == [told]

        def graph(orch: Orchestrator, *_: Any) -> None:
            scene.gates[0] = 0
            orch.submit_sub(scene.arm, scene.arming(0, point, skip))
            stream.submit(ANY_SUB, scene.ready.digest, b"")
            scene.gates[0] = 1

        expect_death(scene.worker.submit(graph))
        assert [each.task for each in stream.reap(timeout_s=10)] == [told]
        assert stream.forget(told, 1)
        try:
            raise AssertionError(f"the lost stream tells of {stream.reap(timeout_s=10)}")
        except StreamLost:
            forget_one(scene)
        scene.check_whole()


def forget_one(scene: Scene) -> None:
    """A stream with one task, which is told and forgotten."""
    assert scene.worker.region is not None
    stream = scene.worker.region.stream_begin()
    task = stream.submit(ANY_SUB, scene.ready.digest, b"")
    assert [each.task for each in stream.reap(timeout_s=10)] == [task]
    assert stream.forget(task, 1)


def member_dies(point: str, skip: int) -> None:
    """SUB workers die as members of a group: both are armed, and die in this group or in one after it."""
    with small_pool(subs=2) as scene:
        scene.check_whole()
        victims = [Watched(pid) for worker, pid in scene.pids().items() if worker != CHIP]

        def graph(orch: Orchestrator, *_: Any) -> None:
            scene.gates[0] = 0
            armed = [orch.submit_sub(scene.arm, scene.arming(0, point, skip)) for _ in victims]
            orch.submit_sub_group(scene.ready, [None, None], after=armed)
            scene.wait_until(WorkerState.RUNNING, SUB, OTHER)  # else one of them may be armed twice
            scene.gates[0] = 1

        expect_death(scene.worker.submit(graph), maybe=True)
        for _ in range(10):
            if not all(victim.has_ended(0) for victim in victims):
                pair = scene.worker.submit(lambda orch, *_: orch.submit_sub_group(scene.ready, [None, None]))
                expect_death(pair, maybe=True)
        if not any(victim.has_ended(0) for victim in victims):
            sys.exit(NOT_PASSED)
        scene.check_whole()


def child_dies(point: str, skip: int) -> None:
    """The process of a DIST child dies in what it does with its own tree, which goes with it; a new one takes over."""
    spawner = Spawner.fork(preload=PRELOAD, name="walk-spawn")
    top = Worker(4, heap_bytes=1 << 24, spin_us=0, spawner=spawner)
    top.add_worker(Worker(3, num_sub_workers=1, heap_bytes=1 << 24, spin_us=0))
    with top:
        array, leaf = top.array(100, "int64"), top.register(increase_when_open)
        below = top.register(orchestrate_below)

        def call(point: str) -> Any:
            args = TaskArgs().add_tensor(array, INOUT).add_scalar(leaf.hashid).add_scalar(point).add_scalar(skip)
            return top.submit(lambda orch, *_: orch.submit_next_level(below, args, worker=0))

        assert call("").result().result() == 3
        victim = Watched(top.stats().workers[0].pid)
        said = expect_death(call(point), maybe=True)
        for _ in range(2):
            if not victim.has_ended(0):
                said = expect_death(call(""), maybe=True)  # what the first run left may be cleared away now
        if skip and not victim.has_ended(0):
            sys.exit(NOT_PASSED)
        victim.must_end()
        assert f"(pid {victim.pid} on " in said
        array[:] = 0
        assert call("").result().result() == 3
        assert top.region is not None
        top.region.check()
        if point == "read:locked":  # of the region above, in which it looked for an array
            assert top.region.stats().recoveries == 0
        assert top.stats().live == 0


def orchestrate_below(orch: Orchestrator, args: Any, config: object) -> Any:
    """In the child: three tasks, one after the other, which begin once all are submitted; armed where it is told so."""
    args.tensor(0)[-1] = 0
    if args.scalar(1):
        fault_points.arm(args.scalar(1), args.scalar(2))
    scratch = orch.alloc(100, "int64")
    for _ in range(3):
        task = TaskArgs().add_tensor(args.tensor(0), INOUT).add_tensor(scratch, TensorArgType.OUTPUT)
        last = orch.submit_sub(args.scalar(0), task)
    args.tensor(0)[-1] = 1
    return last


def recoverer_dies(point: str, skip: int) -> None:
    """A SUB worker dies with the lock held, and so does the other, which takes the lock next, while it recovers."""
    with small_pool(subs=2) as scene:
        scene.check_whole()
        spawner = int(Path(f"/proc/{scene.pids()[SUB]}/stat").read_text().rpartition(")")[2].split()[1])

        def graph(orch: Orchestrator, *_: Any) -> None:
            orch.submit_sub(scene.arm, scene.arming(0, "complete:moved", 0))
            orch.submit_sub(scene.arm, scene.arming(1, point, skip))

        scene.gates[:] = 0
        victims = [Watched(pid) for worker, pid in scene.pids().items() if worker != CHIP]
        run = scene.worker.submit(graph)
        scene.wait_until(WorkerState.RUNNING, SUB, OTHER)
        os.kill(spawner, signal.SIGSTOP)  # nobody else looks
        scene.gates[0] = 1
        assert select.select([victim.pidfd for victim in victims], [], [], 10)[0]
        scene.gates[1] = 1
        both = skip == 0 or all(victim.has_ended(0.2) for victim in victims)
        for victim in victims if both else []:
            victim.must_end()
        os.kill(spawner, signal.SIGCONT)
        expect_death(run)
        if not both:
            sys.exit(NOT_PASSED)
        del run
        scene.check_whole()


def spawner_dies(point: str, skip: int) -> None:
    """Without their spawner no worker lives on: every run fails and says so, and the Worker can be closed."""
    fault_points.arm(point, skip)
    os.register_at_fork(after_in_child=partial(_disarm_grandchildren, [2], point))
    spawner = Spawner.fork(preload=PRELOAD, name="walk-spawn")
    fault_points.arm(point, fault_points.NEVER)
    watched = Watched(spawner.pid)
    with small_pool(subs=2 if point == "group:left" else 1, spawner=spawner) as scene:
        run = make_the_spawner_work(scene, point, watched)
        if skip and not watched.has_ended(0.2):
            sys.exit(NOT_PASSED)
        watched.must_end()
        if run is not None:
            expect_death(run, maybe=True)
        again = scene.worker.submit(lambda orch, *_: scene.graph(orch))
        said = "was given up" if point == "abandon:marked" else f"died with its spawner (pid {watched.pid})"
        assert said in expect_death(again)
        assert scene.worker.region is not None
        scene.worker.region.check()


def _disarm_grandchildren(left: list[int], point: str) -> None:
    left[0] -= 1
    if left[0] == 0:
        fault_points.arm(point, fault_points.NEVER)


def make_the_spawner_work(scene: Scene, point: str, spawner: Watched) -> Any:
    """Gives it what brings it to the point; the run that is in flight then, if any."""
    worker = scene.worker
    if point == "overdue:condemned":
        return worker.submit(lambda orch, *_: orch.submit_sub(scene.hang, None, CallConfig(0.05)))
    if point.startswith("recover:"):
        return worker.submit(lambda orch, *_: scene.graph(orch, scene.arm, "complete:moved", 0))
    if point == "group:left":
        return kill_who_waits_in_a_group(scene)
    if point == "abandon:marked":
        for _ in range(limits.MAX_RESTARTS + 1):  # until it gives the worker up
            expect_death(worker.submit(lambda orch, *_: orch.submit_sub(scene.die)))
        return None
    return worker.submit(lambda orch, *_: scene.graph(orch, scene.die))


def kill_who_waits_in_a_group(scene: Scene) -> Any:
    """One SUB worker is busy, so that the other waits for it in a group; that one is killed."""

    def graph(orch: Orchestrator, *_: Any) -> None:
        orch.submit_sub(scene.hang)
        orch.submit_sub_group(scene.ready, [None, None])

    run = scene.worker.submit(graph)
    while WorkerState.GATHERED not in (states := [info.state for info in scene.worker.stats().workers]):
        os.sched_yield()
    os.kill(scene.pids()[states.index(WorkerState.GATHERED)], signal.SIGKILL)
    return run


def program_dies(point: str, skip: int) -> None:
    """The program itself dies; that nobody outlives it is looked at by who started it."""
    with small_pool() as scene:
        scene.check_whole()
        fault_points.arm(point, skip)
        scene.worker.run(lambda orch, *_: orch.submit_sub_group(scene.ready, [None]))
        scene.worker.unregister(scene.worker.register(lambda args: "another"))
        forget_one(scene)
        scene.worker.run(lambda orch, *_: scene.graph(orch, scene.arm, point, fault_points.NEVER))
        run = scene.worker.submit(partial(cancelled, scene, point))
        scene.gates[0] = 1
        with contextlib.suppress(ZeroDivisionError):
            run.result()
        scene.array = np.zeros(1)
        sys.exit(NOT_PASSED)


def cancelled(scene: Scene, point: str, orch: Orchestrator, *unused: object) -> None:
    """One task that waits for the gate, and others behind it, which never start."""
    scene.gates[0] = 0
    orch.submit_sub(scene.arm, scene.arming(0, point, fault_points.NEVER))
    for _ in range(3):
        orch.submit_sub(scene.hang)
    raise ZeroDivisionError


ROLES: dict[str, tuple[list[str], Callable[[str, int], None]]] = {
    "worker": (WORKER, worker_dies),
    "lost": (["complete:moved"], run_is_lost),
    "stream": (["complete:moved"], stream_is_lost),
    "member": (MEMBER, member_dies),
    "child": (CHILD, child_dies),
    "recoverer": (RECOVERER, recoverer_dies),
    "spawner": (SPAWNER, spawner_dies),
    "program": (PROGRAM, program_dies),
}


# ---- one case after the other


class Overdue(Exception):
    """A case, or what it left behind, took too long."""


def _give_up(*_: object) -> None:
    raise Overdue


def run_case(case: Callable[[str, int], None], point: str, skip: int) -> bool:
    """Whether the case came to its point. Raises AssertionError when it was not survived."""
    pid = os.fork()
    if pid == 0:
        code = 1
        faulthandler.register(signal.SIGQUIT, chain=True)
        try:
            case(point, skip)
            code = 0
        except SystemExit as leaving:
            code = int(str(leaving.code))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        status = os.waitstatus_to_exitcode(_wait(pid, CASE_S)[1])
    except AssertionError:
        os.kill(pid, signal.SIGQUIT)  # faulthandler says where it was
        os.waitpid(pid, 0)
        raise
    with contextlib.suppress(ChildProcessError):
        while True:
            _wait(-1, ORPHANS_S)
    dies_itself = case is program_dies
    assert status in (NOT_PASSED, -signal.SIGKILL if dies_itself else 0), f"{point} {skip}: ended with {status}"
    assert status != NOT_PASSED or skip > 0, f"{case.__name__}: nobody came to {point}"
    return status != NOT_PASSED


def _wait(pid: int, seconds: float) -> tuple[int, int]:
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return os.waitpid(pid, 0)
    except Overdue:
        who = "something that it left behind" if pid == -1 else f"process {pid}"
        raise AssertionError(f"{who} has not ended within {seconds} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def walk(role: str, depth: int) -> int:
    """Walks the points of a role; how many deaths that were."""
    points, case = ROLES[role]
    deaths = 0
    for point in points:
        skip = 0
        while skip < depth and run_case(case, point, skip):
            skip += 1
        print(f"{role} {point}: {skip}")
        deaths += skip
    return deaths


def main(role: str, depth: str = "2") -> None:
    """Entry of the program."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    signal.signal(signal.SIGALRM, _give_up)
    if role == "coverage":
        unknown = set(fault_points.all_points()) ^ {point for points, _ in ROLES.values() for point in points}
        assert not unknown, f"points that no role walks, or that are not there: {sorted(unknown)}"
        return
    double()
    print(walk(role, int(depth)), "deaths")


if __name__ == "__main__":
    main(*sys.argv[1:])
