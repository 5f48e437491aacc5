"""Workers that hold Workers: what runs where, what is shared, and who may be whose child."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from simpler import (
    CallConfig,
    ChipCallable,
    RemoteCallable,
    RemoteWorkerSpec,
    TaskArgs,
    TensorArgType,
    Worker,
    limits,
)
from simpler.errors import ArgumentError, LevelError, RegistrationError, StaleHandle, StateError
from simpler.region import WorkerKind
from simpler.spawn import Spawner
from simplerd.foreground import ForegroundDaemon

INOUT = TensorArgType.INOUT


def add(args: Any) -> int:
    """A leaf: adds the scalar to the array."""
    args.tensor(0)[...] += args.scalar(0)
    return os.getpid()


@pytest.fixture(scope="module")
def top() -> Iterator[Worker]:
    """A level 4 Worker with a SUB worker (0) and two level 3 Workers (1, 2)."""
    worker = Worker(4, num_sub_workers=1)
    for n_subs in (1, 2):
        worker.add_worker(Worker(3, num_sub_workers=n_subs))
    with worker:
        yield worker


def on(worker: int, handle: Any, args: TaskArgs | None = None, config: Any = None) -> Callable[..., Any]:
    """An orchestration function with one task of one worker."""
    return lambda orch, *_: orch.submit_next_level(handle, args, config, worker=worker)


@pytest.mark.slow
def test_one_array_goes_through_all_levels_without_a_copy(top: Worker) -> None:  # G1, L2
    leaf = top.register(add)
    hashid = leaf.hashid

    def twice(orch: Any, args: Any, config: Any) -> Any:
        for _ in range(2):
            last = orch.submit_sub(hashid, TaskArgs().add_tensor(args.tensor(0), INOUT).add_scalar(1))
        return last

    middle, array = top.register(twice), top.array((4,), "float64")
    heap_used = top.stats().heap_used

    def orchestrate(orch: Any, *_: Any) -> Any:
        args = TaskArgs().add_tensor(array, INOUT)
        refs = [orch.submit_next_level(middle, args, worker=worker) for worker in (1, 2)]
        return [*refs, orch.submit_sub(leaf, args.add_scalar(10))]

    refs = top.run(orchestrate)
    assert len({ref.result() for ref in refs} | {os.getpid()}) == 4
    assert array.tolist() == [14.0] * 4
    assert top.stats().heap_used - heap_used < array.nbytes + 1024  # but for the records of three results


@pytest.mark.slow
def test_views_of_an_array_from_above_are_ordered_by_their_bytes(top: Worker) -> None:  # G1
    def shift(args: Any) -> None:
        args.tensor(1)[...] = args.tensor(0) + 1

    hashid = top.register(shift).hashid

    def ladder(orch: Any, args: Any, config: Any) -> None:
        steps = args.tensor(0)
        for row in range(len(steps) - 1):
            given = TaskArgs().add_tensor(steps[row]).add_tensor(steps[row + 1], TensorArgType.OUTPUT_EXISTING)
            orch.submit_sub(hashid, given)

    array = top.array((20, 3), "int32")
    top.run(on(2, top.register(ladder), TaskArgs().add_tensor(array, INOUT)))
    assert array[:, 0].tolist() == list(range(20))


@pytest.mark.slow
def test_what_is_input_at_one_level_is_read_only_below(top: Worker) -> None:  # G1
    hashid = top.register(add).hashid

    def write(orch: Any, args: Any, config: Any) -> None:
        orch.submit_sub(hashid, TaskArgs().add_tensor(args.tensor(0), INOUT).add_scalar(1))

    array = top.array((4,), "float64")
    with pytest.raises(ArgumentError, match="INPUT of a task of the level above"):
        top.run(on(1, top.register(write), TaskArgs().add_tensor(array)))
    assert not array.any()


@pytest.mark.slow
def test_a_value_a_task_and_nothing_can_be_returned_from_below(top: Worker) -> None:  # G10
    hashid = top.register(lambda args: args.scalar(0) * 2).hashid

    def of_task(orch: Any, args: Any, config: Any) -> Any:
        return orch.submit_sub(hashid, TaskArgs().add_scalar(args.scalar(0)))

    functions: list[Any] = [of_task, lambda orch, args, config: {"a": args.scalar(0)}, lambda orch, args, config: None]
    args = TaskArgs().add_scalar(21)
    assert [top.run(on(1, top.register(each), args)).result() for each in functions] == [42, {"a": 21}, None]


@pytest.mark.slow
def test_the_function_below_is_told_its_config(top: Worker) -> None:  # G7
    asked = top.register(lambda orch, args, config: None if config is None else config.timeout_s)
    assert top.run(on(1, asked)).result() is None
    assert top.run(on(1, asked, None, CallConfig(timeout_s=50))).result() == 50


@pytest.mark.slow
def test_what_is_registered_later_reaches_every_level_and_is_taken_back(top: Worker) -> None:  # C3, C6
    late = top.register(lambda args: "late")
    hashid = late.hashid
    ask = top.register(lambda orch, args, config: orch.submit_sub(hashid))
    assert top.run(on(2, ask)).result() == "late"
    top.unregister(late)
    with pytest.raises(RegistrationError, match="not registered"):
        top.run(on(2, ask))


@pytest.mark.slow
def test_children_are_shown_with_the_other_workers(top: Worker) -> None:  # L3
    kinds = [worker.kind for worker in top.stats().workers]
    assert kinds == [WorkerKind.SUB, WorkerKind.DIST, WorkerKind.DIST]


@pytest.mark.slow
def test_the_trace_has_a_lane_for_each_process_below(daemon: ForegroundDaemon) -> None:
    middle, top = Worker(4, num_sub_workers=1), Worker(5, name="top")
    middle.add_worker(Worker(3, num_sub_workers=1))
    middle.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1))
    top.add_worker(middle)

    def leaf(args: Any) -> None: ...

    hashid = top.register(leaf).hashid

    def ask(orch: Any, args: Any, config: Any) -> None:
        orch.submit_sub(hashid)

    below = top.register(ask).hashid

    def spread(orch: Any, args: Any, config: Any) -> None:
        orch.submit_sub(hashid)
        for worker in (1, 2):
            orch.submit_next_level(below, worker=worker)

    with top:
        top.run(on(0, top.register(spread)))  # an earlier run, which is not to be seen
        top.run(on(0, top.register(spread)))
        processes = top.trace().processes
    lanes = [(lane.name, [span.name.rpartition(".")[2] for span in lane.spans]) for lane in processes]
    assert lanes[:5] == [
        ("L5 top orchestration", ["<lambda>"]),
        ("L5 top.w0", ["spread"]),
        ("L4 top.w0.sub0", ["leaf"]),
        ("L4 top.w0.w1", ["ask"]),
        ("L3 top.w0.w1.sub0", ["leaf"]),
    ]
    assert [spans for _, spans in lanes[5:]] == [["leaf"], ["ask"]]
    assert len({lane.pid for lane in processes}) == len(processes)


@pytest.mark.slow
def test_a_tree_of_four_levels_runs_functions_at_each() -> None:  # L2
    bottom, mapped = Worker(3, num_sub_workers=1), Worker(4)
    mapped.add_worker(bottom)
    upper = Worker(5, num_sub_workers=1)
    upper.add_worker(mapped)
    top = Worker(6)
    top.add_worker(upper)

    def down(handle: str, worker: int) -> Callable[..., Any]:
        def forward(orch: Any, args: Any, config: Any) -> Any:
            given = TaskArgs().add_tensor(args.tensor(0), INOUT).add_scalar(1)
            return orch.submit_next_level(handle, given, worker=worker)

        return forward

    def last(orch: Any, args: Any, config: Any) -> Any:
        return orch.submit_sub(leaf, TaskArgs().add_tensor(args.tensor(0), INOUT).add_scalar(5))

    leaf = top.register(add).hashid
    lowest = top.register(last).hashid
    lower = top.register(down(lowest, 0)).hashid
    with top:
        array = top.array((3,), "int64")
        handle = top.register(down(lower, 1))
        top.run(on(0, handle, TaskArgs().add_tensor(array, INOUT)))
        assert array.tolist() == [5, 5, 5]


INCREASE = ChipCallable.from_c_source(
    """
    #include "simpler_kernel.h"
    int increase(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
    {
        (void)n_tensors, (void)n_scalars;
        for (int64_t i = 0; i < t[0].shape[0]; i++)
            ((int64_t *)t[0].data)[i] += (int64_t)s[0];
        return 0;
    }
    """,
    "increase",
    ["inout", "scalar"],
)


def descend(hashid: str) -> Callable[..., Any]:
    """An orchestration function that passes its array on to worker 0."""
    return lambda orch, args, config: orch.submit_next_level(
        hashid, TaskArgs().add_tensor(args.tensor(0), INOUT), worker=0
    )


@pytest.mark.slow
def test_a_tree_may_have_eleven_workers_above_the_lowest() -> None:  # L2
    top = Worker(3, num_sub_workers=1)
    for level in range(4, limits.HIGHEST_LEVEL_WITH_LOCAL + 1):
        upper = Worker(level)
        upper.add_worker(top)
        top = upper
    leaf = top.register(add).hashid

    def lowest(orch: Any, args: Any, config: Any) -> None:
        orch.submit_sub(leaf, TaskArgs().add_tensor(args.tensor(0), INOUT).add_scalar(1))

    step = top.register(lowest)
    for _ in range(4, limits.HIGHEST_LEVEL_WITH_LOCAL):
        step = top.register(descend(step.hashid))
    with top:
        array = top.array((3,), "int64")
        top.run(on(0, step, TaskArgs().add_tensor(array, INOUT)))
        assert array.tolist() == [1, 1, 1]


@pytest.mark.slow
def test_local_and_remote_children_share_one_row_of_ids(daemon: ForegroundDaemon) -> None:  # L2, L3, R8
    top = Worker(4, num_sub_workers=1)
    near = top.add_worker(Worker(3, num_sub_workers=1))
    far = top.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1))
    last = top.add_worker(Worker(3, num_sub_workers=1))
    assert (near, far, last) == (1, 2, 3)
    leaf = top.register(lambda args: os.getpid()).hashid
    ask = top.register(lambda orch, args, config: orch.submit_sub(leaf))
    with top:
        refs = top.run(lambda orch, *_: [orch.submit_next_level(ask, worker=worker) for worker in (near, far, last)])
        assert len({ref.result() for ref in refs}) == 3
        kinds = [worker.kind for worker in top.stats().workers]
    assert kinds == [WorkerKind.SUB, WorkerKind.DIST, WorkerKind.REMOTE, WorkerKind.DIST]


@pytest.mark.slow
def test_a_child_may_have_remote_children(daemon: ForegroundDaemon) -> None:  # L2
    middle, top = Worker(4), Worker(5)
    middle.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1))
    top.add_worker(middle)
    leaf = top.register(lambda args: os.getpid()).hashid
    ask = top.register(lambda orch, args, config: orch.submit_sub(leaf)).hashid
    forward = top.register(lambda orch, args, config: orch.submit_next_level(ask, worker=0))
    with top:
        assert top.run(on(0, forward)).result() not in (os.getpid(), None)


def test_a_child_is_lower_than_its_parent_and_nobody_elses() -> None:  # L1, L2
    parent, child = Worker(5, name="parent"), Worker(4)
    with pytest.raises(LevelError, match="level 3 takes CHIP and SUB workers"):
        Worker(3).add_worker(Worker(3))
    for unfit in (Worker(5), Worker(6)):
        with pytest.raises(LevelError, match="from 3 to 4; this one is of"):
            parent.add_worker(unfit)
    with pytest.raises(LevelError, match="a Worker of level 15 holds no Workers of this host; up to 14 do"):
        Worker(15).add_worker(Worker(3))
    with pytest.raises(LevelError, match="the Worker itself"):
        parent.add_worker(parent)
    with pytest.raises(ArgumentError, match="takes a Worker"):
        parent.add_worker(3)  # type: ignore[arg-type]
    parent.add_worker(child)
    with pytest.raises(StateError, match="worker 0 of the level 5 Worker 'parent'"):
        Worker(6).add_worker(child)
    child.add_worker(Worker(3))


def test_a_child_is_not_started_nor_used_nor_closed_by_hand() -> None:  # L2
    parent, child = Worker(4, name="parent"), Worker(3)
    parent.add_worker(child)
    for use in (
        child.init,
        child.close,
        child.stats,
        lambda: child.run(lambda *_: None),
        lambda: child.array(3, "int8"),
    ):
        with pytest.raises(
            StateError, match="worker 0 of the level 4 Worker 'parent', which starts, runs and closes it"
        ):
            use()


@pytest.mark.slow
def test_children_come_before_init_and_are_not_touched_after() -> None:  # L2
    top, child = Worker(4), Worker(3, num_sub_workers=1)
    before, early = child.register(print), child.register(sum)
    with Worker(3) as running, pytest.raises(StateError, match="READY"):
        top.add_worker(running)
    top.add_worker(child)
    child.unregister(early)
    with top:
        with pytest.raises(StateError, match="children are added before init"):
            top.add_worker(Worker(3))
        with pytest.raises(StateError, match="register with the Worker at the top"):
            child.register(len)
        with pytest.raises(StateError, match="register with the Worker at the top"):
            child.unregister(before)


def test_a_worker_with_a_spawner_of_its_own_is_nobodys_child() -> None:
    spawner = Spawner.exec(preload=[], name="own")
    child = Worker(3, num_sub_workers=1, spawner=spawner)
    with pytest.raises(ArgumentError, match="spawner of its own"):
        Worker(4).add_worker(child)
    child.close()


def test_a_kernel_needs_chips_somewhere_below() -> None:  # C9
    with_chips, without = Worker(4), Worker(4, num_sub_workers=1)
    with_chips.add_worker(Worker(3, device_ids=[0]))
    top = Worker(5)
    top.add_worker(without)
    top.register(INCREASE)
    with pytest.raises(RegistrationError, match="child with chips"):
        top.init()
    top = Worker(5)
    top.add_worker(with_chips)
    assert top.register(INCREASE).target_namespace == "local"


@pytest.mark.slow
def test_a_childs_handle_works_in_the_child_and_only_there() -> None:  # C3
    top = Worker(4, num_sub_workers=1)
    near, other = Worker(3, num_sub_workers=1), Worker(3, num_sub_workers=1)
    near.register(len)  # so that serials alone do not tell
    for child in (near, other):
        top.add_worker(child)
    handle = near.register(lambda args: "below")
    ask = top.register(lambda orch, args, config: orch.submit_sub(handle))
    with pytest.raises(RegistrationError, match="cannot be pickled or copied"):
        copy.copy(handle)
    with top:
        assert top.run(on(1, ask)).result() == "below"
        with pytest.raises(StaleHandle, match="belongs to another Worker"):
            top.run(on(2, ask))
        with pytest.raises(StaleHandle, match="belongs to another Worker"):
            top.run(lambda orch, *_: orch.submit_sub(handle))


def test_a_handle_of_a_worker_that_is_nobodys_child_stays_here() -> None:  # C3, C7
    top = Worker(4, num_sub_workers=1)
    handle = top.register(len)
    with pytest.raises(RegistrationError, match=r"'handle'\] is of type CallableHandle.*hashid instead"):
        top.register(lambda orch, args, config: orch.submit_sub(handle))


@pytest.mark.slow
def test_kernels_reach_the_chips_below_by_hashid() -> None:  # C9, R8
    top = Worker(4)
    top.add_worker(Worker(3, num_sub_workers=1))
    chips = top.add_worker(Worker(3, device_ids=[0, 1]))
    hashid = top.register(INCREASE).hashid

    def halves(orch: Any, args: Any, config: Any) -> None:
        array = args.tensor(0)
        for chip, part in enumerate(np.split(array, 2)):
            orch.submit_next_level(hashid, TaskArgs().add_tensor(part, INOUT).add_scalar(chip + 2), worker=chip)

    with top:
        array = top.array((4,), "int64")
        top.run(on(chips, top.register(halves), TaskArgs().add_tensor(array, INOUT)))
        assert array.tolist() == [2, 2, 3, 3]
        with pytest.raises(ArgumentError, match="runs only inside an orchestration function"):
            top.run(on(chips, hashid, TaskArgs().add_tensor(array, INOUT).add_scalar(1)))


@pytest.mark.slow
def test_what_is_imported_is_for_the_workers_below() -> None:  # C9
    top = Worker(4, num_sub_workers=1)
    below = top.add_worker(Worker(3, num_sub_workers=1))
    handle = top.register(RemoteCallable("os:getpid"))  # no orchestration function, but it can be loaded
    with top:
        assert handle.target_namespace == "local"
        with pytest.raises(Exception, match="getpid"):
            top.run(on(below, handle))
