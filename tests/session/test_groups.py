"""Groups: one node of the graph on several SUB workers at once, or on several chips."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpler import (
    CallConfig,
    ChipCallable,
    DeviceTensorRef,
    Orchestrator,
    TaskArgs,
    TaskTimeout,
    Tensor,
    TensorArgType,
    Worker,
)
from simpler.errors import (
    ArgumentError,
    LevelError,
    RegistrationError,
    SimplerError,
    StateError,
    TaskError,
    UpstreamFailed,
    WorkerDied,
)
from simpler.region_records import WorkerState

pytestmark = pytest.mark.slow

INPUT, OUTPUT, INOUT, OUTPUT_EXISTING, NO_DEP = TensorArgType
SUBS = 3


@pytest.fixture(scope="module")
def shared() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=SUBS, heap_bytes=64 << 20, name="g") as worker:
        yield worker


@pytest.fixture
def worker(shared: Worker) -> Iterator[Worker]:
    """Every scenario leaves a sound graph, and a pool of which all can still be gathered."""
    yield shared
    assert shared.region is not None
    shared.region.check()
    assert shared.stats().live == 0
    assert len(set(pids_of_a_group(shared))) == SUBS


def pids_of_a_group(worker: Worker) -> list[int]:
    handle = worker.register(lambda args: os.getpid())
    ref = worker.run(lambda orch, *_: orch.submit_sub_group(handle, [None] * SUBS))
    worker.unregister(handle)
    pids: list[int] = ref.result()
    return pids


def meet(args: Any) -> int:
    """Returns once as many have come as there are elements in tensor 0; else raises, after a while."""
    there, number = args.tensor(0), args.scalar(0)
    there[number] = 1
    latest = time.monotonic() + 20
    while not there.all():
        if time.monotonic() > latest:
            raise TimeoutError(f"only {there.sum()} members have come")
        time.sleep(0)
    return int(number)


def meeting(worker: Worker, members: int) -> list[TaskArgs]:
    """The arguments of members that pass only when all of them run at the same time."""
    there = worker.array((members,), "uint8")
    return [TaskArgs().add_tensor(there, NO_DEP).add_scalar(number) for number in range(members)]


def wait_until(condition: Callable[[], bool]) -> None:
    latest = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.001)


def gathered(worker: Worker) -> list[int]:
    """The pids of the workers that wait with a member."""
    return [each.pid for each in worker.stats().workers if each.state is WorkerState.GATHERED]


# ---- starting


def test_members_run_at_the_same_time_each_in_a_process_of_its_own(worker: Worker) -> None:  # G3
    handle = worker.register(meet)
    ref = worker.run(lambda orch, *_: orch.submit_sub_group(handle, meeting(worker, SUBS)))
    assert ref.result() == [0, 1, 2]
    assert [member.result() for member in ref.members] == [0, 1, 2]
    assert set(pids_of_a_group(worker)) == {each.pid for each in worker.stats().workers}


def test_many_groups_of_all_sizes_are_gathered_one_after_the_other(worker: Worker) -> None:  # G3
    handle, plain = worker.register(meet), worker.register(lambda args: args.scalar(0))

    def submit(orch: Orchestrator, args: Any, config: Any) -> list[Any]:
        refs: list[Any] = []
        for round in range(100):
            refs.append(orch.submit_sub_group(handle, meeting(worker, 1 + round % SUBS)))
            refs.append(orch.submit_sub(plain, TaskArgs().add_scalar(round)))
        return refs

    results = [ref.result() for ref in worker.run(submit)]
    assert results == [each for round in range(100) for each in (list(range(1 + round % SUBS)), round)]


def test_a_group_waits_for_what_is_before_it_and_holds_up_only_what_is_behind(worker: Worker) -> None:
    """G3: of a stream of tasks, those ahead of a group begin before it, and those behind begin after it."""
    plain = worker.register(lambda args: None)
    group = worker.register(meet)

    def submit(orch: Orchestrator, args: Any, config: Any) -> list[list[int]]:
        ahead = [orch.submit_sub(plain).id for _ in range(50)]
        members = [ref.id for ref in orch.submit_sub_group(group, meeting(worker, SUBS)).members]
        return [ahead, members, [orch.submit_sub(plain).id for _ in range(50)]]

    order = worker.run(submit)
    spans = [span for process in worker.trace().processes for span in process.spans if span.category == "task"]
    began = {span.args["task"]: span.start_ns for span in spans}
    ahead, members, behind = ([began[task] for task in tasks] for tasks in order)
    assert max(ahead) <= min(members) == max(members) <= min(behind)


def test_a_group_is_ordered_by_the_tags_of_all_its_members(worker: Worker) -> None:  # G1, G3
    data = worker.array((SUBS, 1000), "int64")
    fill = worker.register(lambda args: args.tensor(0).fill(1))
    double = worker.register(lambda args: np.multiply(args.tensor(0), 2, out=args.tensor(0)) is None)
    total = worker.register(lambda args: int(args.tensor(0).sum()))

    def submit(orch: Orchestrator, args: Any, config: Any) -> Any:
        orch.submit_sub(fill, TaskArgs().add_tensor(data, OUTPUT_EXISTING))
        for _ in range(5):
            orch.submit_sub_group(double, [TaskArgs().add_tensor(row, INOUT) for row in data])
        return orch.submit_sub(total, TaskArgs().add_tensor(data))

    assert worker.run(submit).result() == SUBS * 1000 * 32


def test_members_get_storage_for_their_outputs_and_may_read_the_same(worker: Worker) -> None:  # G2, G3
    def add(args: Any) -> None:
        args.tensor(1)[...] = args.tensor(0) + args.scalar(0)

    handle = worker.register(add)
    total = worker.register(lambda args: [int(args.tensor(i).sum()) for i in range(args.tensor_count())])
    source = np.arange(10)

    def submit(orch: Orchestrator, args: Any, config: Any) -> Any:
        parts = [Tensor((10,), "int64") for _ in range(SUBS)]
        members = [TaskArgs().add_tensor(source).add_tensor(part, OUTPUT).add_scalar(i) for i, part in enumerate(parts)]
        orch.submit_sub_group(handle, members)
        sums = TaskArgs()
        for part in parts:
            sums.add_tensor(part)
        return orch.submit_sub(total, sums)

    assert worker.run(submit).result() == [45, 55, 65]


def test_columns_that_share_no_byte_may_be_written_by_several_members(worker: Worker) -> None:  # G3, G9
    data = worker.array((1100, 30), "int64")  # more rows than a column is ordered by
    fill = worker.register(lambda args: args.tensor(0).fill(args.scalar(0)))
    columns = [data[:, 10 * i : 10 * i + 10] for i in range(SUBS)]
    members = [TaskArgs().add_tensor(each, OUTPUT_EXISTING).add_scalar(i) for i, each in enumerate(columns)]
    worker.run(lambda orch, *_: orch.submit_sub_group(fill, members))
    assert data.sum(axis=0).tolist() == [0] * 10 + [1100] * 10 + [2200] * 10


def test_a_group_waits_for_room_and_takes_it_only_as_a_whole() -> None:  # G2, G3
    with Worker(3, num_sub_workers=2, max_tasks=8, heap_bytes=1 << 20) as worker:
        handle = worker.register(lambda args: None)

        def submit(orch: Orchestrator, args: Any, config: Any) -> None:
            for i in range(300):
                large = np.full(1 << 17, i % 256, "uint8")  # a copy of which each member has
                orch.submit_sub_group(handle, [TaskArgs().add_tensor(large)] * 2)

        worker.run(submit)
        assert worker.stats().tasks >= 600
        assert worker.region is not None
        worker.region.check()


# ---- failing


def test_a_group_fails_when_one_member_does_and_ends_when_all_have(worker: Worker, tmp_path: Path) -> None:  # G3, G4
    """The others are let finish: what they left is there, though nothing comes after the group."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def half(args: Any) -> str:
        if args.scalar(0) == 1:
            raise LookupError("member 1 of 3")
        if args.scalar(0) == 2:
            return Path(args.scalar(1)).read_text()  # until the test writes, when member 1 has long failed
        return "fine"

    handle, after = worker.register(half), worker.register(lambda args: None)

    def submit(orch: Orchestrator, args: Any, config: Any) -> Any:
        group = orch.submit_sub_group(handle, [TaskArgs().add_scalar(i).add_scalar(str(fifo)) for i in range(SUBS)])
        refs.append(group)
        return orch.submit_sub(after, after=[group])

    refs: list[Any] = []
    run = worker.submit(submit)
    wait_until(lambda: worker.stats().live == 2)  # member 2, and who comes after the group
    assert not run.done
    fifo.write_text("written")
    with pytest.raises(TaskError, match="LookupError: member 1 of 3") as caught:
        run.result()
    assert [type(each) for each in caught.value.failures] == [TaskError, UpstreamFailed]
    (group,) = refs
    with pytest.raises(TaskError, match="member 1 of 3"):
        group.result()
    assert [group.members[0].result(), group.members[2].result()] == ["fine", "written"]


def test_a_group_behind_a_failure_never_starts(worker: Worker) -> None:  # G3, G4
    fail, never = worker.register(lambda args: 1 // 0), worker.register(meet)
    refs: list[Any] = []

    def submit(orch: Orchestrator, args: Any, config: Any) -> None:
        first = orch.submit_sub(fail)
        refs.append(orch.submit_sub_group(never, meeting(worker, SUBS), after=[first]))
        refs.append(orch.submit_sub_group(never, meeting(worker, 2), after=[refs[0]]))

    with pytest.raises(TaskError, match="ZeroDivisionError") as caught:
        worker.run(submit)
    assert [type(each) for each in caught.value.failures] == [TaskError] + [UpstreamFailed] * 5
    for ref in refs:
        with pytest.raises(UpstreamFailed, match="ZeroDivisionError"):
            ref.result()


def test_a_member_whose_worker_is_killed_fails_alone(worker: Worker) -> None:  # G3, W4
    def die(args: Any) -> int:
        number = meet(args)
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    die.__globals__["meet"] = meet
    handle, refs = worker.register(die), []
    with pytest.raises(WorkerDied, match="SIGKILL") as caught:
        worker.run(lambda orch, *_: refs.append(orch.submit_sub_group(handle, meeting(worker, SUBS))))
    assert len(caught.value.failures) == 1
    assert [refs[0].members[0].result(), refs[0].members[2].result()] == [0, 2]


def test_a_member_that_is_late_is_ended(worker: Worker) -> None:  # G3, G7
    def sleep(args: Any) -> int:
        while args.scalar(0) == 0:
            signal.pause()
        return int(args.scalar(0))

    handle, refs = worker.register(sleep), []
    members = [TaskArgs().add_scalar(number) for number in range(SUBS)]
    with pytest.raises(TaskTimeout):
        worker.run(lambda orch, *_: refs.append(orch.submit_sub_group(handle, members, CallConfig(timeout_s=0.2))))
    assert [member.result() for member in refs[0].members[1:]] == [1, 2]


@pytest.fixture
def blocked(worker: Worker, tmp_path: Path) -> Iterator[tuple[Worker, Path]]:
    """A Worker of which one process is in a task until the test, or this, writes to the FIFO."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read = worker.register(lambda args: Path(args.scalar(0)).read_text())
    run = worker.submit(lambda orch, *_: orch.submit_sub(read, TaskArgs().add_scalar(str(fifo))))
    wait_until(lambda: worker.stats().shared_queue == 0)
    yield worker, fifo
    if not run.done:
        fifo.write_text("end")
    run.wait()


def test_a_worker_killed_while_it_waits_leaves_its_place_to_its_successor(blocked: tuple[Worker, Path]) -> None:
    """G3, W4: nothing of the group has begun, so nothing of it is lost."""
    worker, fifo = blocked
    handle = worker.register(meet)
    run = worker.submit(lambda orch, *_: orch.submit_sub_group(handle, meeting(worker, SUBS)))
    wait_until(lambda: len(gathered(worker)) == 2)
    victim = gathered(worker)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(gathered(worker)) == 2 and victim not in gathered(worker))
    fifo.write_text("on")
    assert run.result().result() == [0, 1, 2]


def test_cancelling_a_run_frees_who_waits_with_its_group(blocked: tuple[Worker, Path]) -> None:  # G3, G5
    worker, _ = blocked
    handle, refs = worker.register(meet), []

    def submit(orch: Orchestrator, args: Any, config: Any) -> None:
        refs.append(orch.submit_sub_group(handle, meeting(worker, SUBS)))
        wait_until(lambda: len(gathered(worker)) == 2)
        raise KeyError("changed its mind")

    with pytest.raises(KeyError, match="changed its mind"):
        worker.run(submit)
    assert not gathered(worker)
    with pytest.raises(StateError, match="cancelled"):
        refs[0].result()
    assert worker.run(lambda orch, *_: orch.submit_sub_group(handle, meeting(worker, 2))).result() == [0, 1]


def test_two_runs_wait_for_the_same_workers(blocked: tuple[Worker, Path]) -> None:  # G3, G6
    worker, fifo = blocked
    handle = worker.register(meet)
    runs = [worker.submit(lambda orch, *_: orch.submit_sub_group(handle, meeting(worker, SUBS))) for _ in range(5)]
    wait_until(lambda: len(gathered(worker)) == 2)
    assert not any(run.done for run in runs)
    fifo.write_text("on")
    assert [run.result().result() for run in runs] == [[0, 1, 2]] * 5


def test_closing_does_not_wait_for_a_group_that_cannot_start() -> None:  # G3, W3
    with Worker(3, num_sub_workers=2) as worker:
        busy, group = worker.register(lambda args: signal.pause()), worker.register(meet)
        worker.submit(lambda orch, *_: orch.submit_sub(busy))
        run = worker.submit(lambda orch, *_: orch.submit_sub_group(group, meeting(worker, 2)))
        wait_until(lambda: len(gathered(worker)) == 1)
        begun = time.monotonic()
        worker.__exit__(KeyboardInterrupt, None, None)  # as when Ctrl-C leaves the block
        assert time.monotonic() - begun < 5
    with pytest.raises(StateError, match="Worker was closed"):
        run.result()


def test_a_group_fails_when_a_worker_is_given_up() -> None:  # G3, W4
    def die(args: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with Worker(3, num_sub_workers=2) as worker:
        group, fatal = worker.register(meet), worker.register(die)

        def submit(orch: Orchestrator, args: Any, config: Any) -> Any:
            return orch.submit_sub_group(group, meeting(worker, 2))

        def kill(orch: Orchestrator, args: Any, config: Any) -> None:
            for _ in range(60):
                orch.submit_sub(fatal)

        with pytest.raises(WorkerDied):
            worker.run(kill)
        wait_until(lambda: any(each.abandoned for each in worker.stats().workers))
        with pytest.raises(WorkerDied, match="given up") as caught:
            worker.run(submit)
        assert len(caught.value.failures) == 2


# ---- chips

SOURCE = """
#include <fcntl.h>
#include <unistd.h>
#include "simpler_kernel.h"

/* Tensor 0 is the name of a FIFO, which opens once both ends are there; tensor 1 becomes scalar 0. */
int meet(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
{
    (void)n_tensors, (void)n_scalars;
    int fd = open((const char *)t[0].data, s[0] ? O_RDONLY : O_WRONLY);
    if (fd < 0)
        return 1;
    close(fd);
    *(int64_t *)t[1].data = (int64_t)s[0];
    return 0;
}
int increase(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
{
    (void)n_tensors, (void)n_scalars;
    *(int64_t *)t[0].data += (int64_t)s[0];
    return 0;
}
int refuse(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
{
    (void)t, (void)n_tensors, (void)n_scalars;
    return (int)s[0];
}
"""
MEET = ChipCallable.from_c_source(SOURCE, "meet", ["in", "out", "scalar"])
REFUSE = ChipCallable.from_elf(MEET.elf, "refuse", ["scalar"])


def test_a_group_of_kernels_runs_on_two_chips_at_once(tmp_path: Path) -> None:  # G3
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    name = np.frombuffer(str(fifo).encode() + b"\0", "uint8")
    with Worker(3, device_ids=[0, 1]) as worker:
        handle, refuse = worker.register(MEET), worker.register(REFUSE)
        out = worker.array((2,), "int64")
        members = [
            TaskArgs().add_tensor(name).add_tensor(out[i : i + 1], OUTPUT_EXISTING).add_scalar(i) for i in range(2)
        ]
        for workers in ([0, 1], [1, 0]):
            out[:] = 7
            worker.run(lambda orch, *_, ids=workers: orch.submit_next_level_group(handle, members, workers=ids))
            assert out.tolist() == [0, 1]
        statuses = [TaskArgs().add_scalar(status) for status in (0, 3)]
        with pytest.raises(TaskError, match="returned 3"):
            worker.run(lambda orch, *_: orch.submit_next_level_group(refuse, statuses, workers=[0, 1]))


def test_each_member_has_the_memory_of_its_own_chip() -> None:  # G3
    increase = ChipCallable.from_elf(MEET.elf, "increase", ["inout", "scalar"])
    with Worker(3, device_ids=[0, 1]) as worker:
        handle = worker.register(increase)
        buffers = [worker.malloc(worker=chip, nbytes=8) for chip in range(2)]
        for buffer in buffers:
            worker.copy_to(buffer, np.zeros(1, "int64"))
        tensors = [DeviceTensorRef(buffer, shape=1, dtype="int64") for buffer in buffers]
        members = [TaskArgs().add_tensor(each, INOUT).add_scalar(i + 1) for i, each in enumerate(tensors)]

        def thrice(orch: Orchestrator, args: Any, config: Any) -> None:
            for _ in range(3):
                orch.submit_next_level_group(handle, members, workers=[0, 1])

        worker.run(thrice)
        for number, buffer in enumerate(buffers, 1):
            found = np.zeros(1, "int64")
            worker.copy_from(buffer, found)
            assert found.tolist() == [3 * number]
        with pytest.raises(ArgumentError, match="tensor argument 0"):
            worker.run(lambda orch, *_: orch.submit_next_level_group(handle, members, workers=[1, 0]))


# ---- what is refused


@pytest.fixture(scope="module")
def mixed() -> Iterator[Worker]:
    with Worker(3, device_ids=[0, 1], num_sub_workers=2) as worker:
        yield worker


MISUSE: list[tuple[type[SimplerError], str, Callable[[Any, Any, Any, Any], object]]] = [
    (ArgumentError, "at least one member", lambda orch, sub, chip, data: orch.submit_sub_group(sub, [])),
    (ArgumentError, "expected a list", lambda orch, sub, chip, data: orch.submit_sub_group(sub, TaskArgs())),
    (ArgumentError, "expected a list", lambda orch, sub, chip, data: orch.submit_sub_group(sub, None)),
    (ArgumentError, "member 1 .* not int", lambda orch, sub, chip, data: orch.submit_sub_group(sub, [None, 3])),
    (ArgumentError, "this Worker has 2", lambda orch, sub, chip, data: orch.submit_sub_group(sub, [None] * 3)),
    (ArgumentError, "a kernel", lambda orch, sub, chip, data: orch.submit_sub_group(chip, [None])),
    (ArgumentError, "config", lambda orch, sub, chip, data: orch.submit_sub_group(sub, [None], {"timeout_s": 1})),
    (
        ArgumentError,
        "TaskRefs of this run",
        lambda orch, sub, chip, data: orch.submit_sub_group(sub, [None], after=[1]),
    ),
    (
        ArgumentError,
        "argument 0 of member 0 and tensor argument 1 of member 1 of one group write overlapping",
        lambda orch, sub, chip, data: orch.submit_sub_group(
            sub,
            [
                TaskArgs().add_tensor(data[:6], INOUT),
                TaskArgs().add_tensor(data[:6]).add_tensor(data[5:], OUTPUT_EXISTING),
            ],
        ),
    ),
    (
        ArgumentError,
        "as many workers, not 1",
        lambda orch, sub, chip, data: orch.submit_next_level_group(chip, [None, None], workers=[0]),
    ),
    (
        ArgumentError,
        "each on another worker",
        lambda orch, sub, chip, data: orch.submit_next_level_group(chip, [None, None], workers=[1, 1]),
    ),
    (
        ArgumentError,
        "no worker id",
        lambda orch, sub, chip, data: orch.submit_next_level_group(chip, [None], workers=["0"]),
    ),
    (
        ArgumentError,
        "expected a list",
        lambda orch, sub, chip, data: orch.submit_next_level_group(chip, [None], workers=0),
    ),
    (
        LevelError,
        "no worker 9",
        lambda orch, sub, chip, data: orch.submit_next_level_group(chip, [None, None], workers=[0, 9]),
    ),
    (
        LevelError,
        "worker 2 is a SUB worker",
        lambda orch, sub, chip, data: orch.submit_next_level_group(chip, [None, None], workers=[0, 2]),
    ),
    (
        ArgumentError,
        "a Python callable",
        lambda orch, sub, chip, data: orch.submit_next_level_group(sub, [None], workers=[0]),
    ),
    (
        RegistrationError,
        "not registered",
        lambda orch, sub, chip, data: orch.submit_sub_group("sha256:" + "0" * 64, [None]),
    ),
]


@pytest.mark.parametrize(("error", "text", "submit"), MISUSE, ids=[each[1] for each in MISUSE])
def test_what_cannot_be_a_group_is_refused_before_anything_runs(  # G3, G9
    mixed: Worker, error: type[SimplerError], text: str, submit: Callable[..., object]
) -> None:
    ended = mixed.stats().tasks
    sub, chip, data = mixed.register(meet), mixed.register(REFUSE), mixed.array((10,), "int64")
    before = mixed.stats().tasks
    with pytest.raises(error, match=text):
        mixed.run(lambda orch, *_: submit(orch, sub, chip, data))
    assert mixed.stats().tasks == before >= ended
    assert mixed.stats().live == 0


def test_a_group_needs_workers_that_there_are() -> None:  # L1, G3
    with Worker(3, device_ids=[0]) as worker:
        handle = worker.register(REFUSE)
        with pytest.raises(LevelError, match="SUB workers none"):
            worker.run(lambda orch, *_: orch.submit_next_level_group(handle, [None], workers=[1]))
