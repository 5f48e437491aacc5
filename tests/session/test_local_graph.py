"""Graphs of Python tasks: order by tags, memory of intermediate tensors, failures and results."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpler import Orchestrator, TaskArgs, Tensor, TensorArgType, Worker
from simpler.errors import (
    ArgumentError,
    CapacityError,
    LevelError,
    StaleHandle,
    StateError,
    TaskError,
    UpstreamFailed,
)

pytestmark = pytest.mark.slow

INPUT, OUTPUT, INOUT, OUTPUT_EXISTING, NO_DEP = TensorArgType
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=2, heap_bytes=64 << 20) as worker:
        yield worker


@pytest.fixture(autouse=True)
def sound_graph(worker: Worker) -> Iterator[None]:
    """Every scenario leaves the graph sound and the heap as it found it."""
    before = worker.stats().heap_used
    yield
    assert worker.region is not None
    worker.region.check()
    assert worker.stats().live == 0
    assert worker.stats().heap_used <= before + (1 << 16)  # callables that a test registered stay


@st.composite
def slices(draw: st.DrawFn, size: int) -> slice:
    start = draw(st.integers(0, size - 1))
    return slice(start, draw(st.integers(start + 1, size)), draw(st.integers(1, 3)))


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[tuple[slice, slice], tuple[slice, slice] | None, TensorArgType, int]]:
    """Up to 25 steps (target, source or None, tag of the target, factor) over an 8 x 12 array."""
    blocks = st.tuples(slices(8), slices(12))
    tags = st.sampled_from([INOUT, OUTPUT, OUTPUT_EXISTING])
    return draw(st.lists(st.tuples(blocks, st.none() | blocks, tags, st.integers(1, 1000)), min_size=1, max_size=25))


def step(target: Array, source: Array | None, overwrite: bool, factor: int) -> None:
    value = np.uint64(factor) if source is None else source.sum(dtype="uint64") + np.uint64(factor)
    if overwrite:
        target[...] = value
    else:
        target *= np.uint64(3)
        target += value


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=programs())
def test_a_graph_does_what_its_tasks_do_one_after_the_other(worker: Worker, program: list[Any]) -> None:  # G1
    do_step = step

    def task(args: Any) -> None:
        source = args.tensor(1) if args.tensor_count() > 1 else None
        do_step(args.tensor(0), source, args.scalar(1), args.scalar(0))

    handle = worker.register(task)
    shared = worker.array((8, 12), "uint64")
    shared[...] = expected = np.arange(96, dtype="uint64").reshape(8, 12)
    expected = expected.copy()

    def submit_all(orch: Orchestrator, args: Any, config: Any) -> None:
        for target, source, tag, factor in program:
            view, overwrite = shared[target], tag is not INOUT
            arguments = TaskArgs().add_tensor(view, tag)
            separate = source is not None and not np.shares_memory(shared[target], shared[source])
            if separate:
                arguments.add_tensor(shared[source])
            orch.submit_sub(handle, arguments.add_scalar(factor).add_scalar(overwrite))
            step(expected[target], expected[source] if separate else None, overwrite, factor)

    worker.run(submit_all)
    worker.unregister(handle)
    assert np.array_equal(shared, expected)


def test_disjoint_parts_run_at_the_same_time_and_overlapping_ones_do_not(worker: Worker, tmp_path: Path) -> None:  # G1
    """Two tasks on the two halves meet at a FIFO, which neither passes alone; one on the whole comes after both."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    shared = worker.array((10,), "int64")

    def meet(args: Any) -> None:
        with Path(args.scalar(0)).open(args.scalar(1)):  # opening waits for the other end
            args.tensor(0)[...] += 1

    def total(args: Any) -> int:
        return int(args.tensor(0).sum())

    meet_handle, total_handle = worker.register(meet), worker.register(total)

    def halves(orch: Orchestrator, args: Any, config: Any) -> Any:
        for half, mode in ((shared[:5], "w"), (shared[5:], "r")):
            orch.submit_sub(meet_handle, TaskArgs().add_tensor(half, INOUT).add_scalar(str(fifo)).add_scalar(mode))
        return orch.submit_sub(total_handle, TaskArgs().add_tensor(shared))

    assert worker.run(halves).result() == 10


def test_a_task_with_many_ranges_is_waited_for_in_each_of_them(worker: Worker, tmp_path: Path) -> None:  # G1
    """The writer of 40 separate elements is held back until a task behind its reader has run."""
    first, second = tmp_path / "first", tmp_path / "second"
    os.mkfifo(first)
    os.mkfifo(second)
    shared = worker.array((80,), "int64")
    write = worker.register(lambda args: args.tensor(0).fill(len(Path(args.scalar(0)).read_text())))
    read = worker.register(lambda args: int(args.tensor(0)[0]))
    say = worker.register(lambda args: Path(args.scalar(0)).write_text("."))

    def three(orch: Orchestrator, args: Any, config: Any) -> Any:
        orch.submit_sub(write, TaskArgs().add_tensor(shared[::2], INOUT).add_scalar(str(first)))
        ref = orch.submit_sub(read, TaskArgs().add_tensor(shared[:1]))
        orch.submit_sub(say, TaskArgs().add_scalar(str(second)))
        return ref

    run = worker.submit(three)
    assert second.read_text() == "."
    first.write_text("1234567")
    assert run.result().result() == 7


def test_no_dep_takes_no_part_in_ordering(worker: Worker, tmp_path: Path) -> None:  # G1
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    shared = worker.array((1,), "int64")
    meet = worker.register(lambda args: Path(args.scalar(0)).open(args.scalar(1)).close())

    def both(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.submit_sub(meet, TaskArgs().add_tensor(shared, INOUT).add_scalar(str(fifo)).add_scalar("w"))
        orch.submit_sub(meet, TaskArgs().add_tensor(shared, NO_DEP).add_scalar(str(fifo)).add_scalar("r"))

    assert worker.submit(both).wait(30)  # each waits at the pipe for the other


def test_after_orders_tasks_that_share_nothing(worker: Worker) -> None:  # G1
    order = worker.array((100,), "int64")
    append = worker.register(lambda args: args.tensor(0).__setitem__(args.scalar(0), args.tensor(0).max() + 1))

    def chain(orch: Orchestrator, args: Any, config: Any) -> None:
        last = None
        for index in range(100):
            arguments = TaskArgs().add_tensor(order, NO_DEP).add_scalar(index)
            last = orch.submit_sub(append, arguments, after=[] if last is None else [last])

    worker.run(chain)
    assert order.tolist() == list(range(1, 101))


@pytest.mark.parametrize("tag", [INOUT, OUTPUT, OUTPUT_EXISTING])
def test_a_read_only_view_is_not_written(worker: Worker, tag: TensorArgType) -> None:  # G1
    numbers = worker.array(4, "int64")
    view, whole = np.broadcast_to(numbers, (2, 4)), numbers[:]
    whole.flags.writeable = False
    handle = worker.register(fill)
    for array in (view, whole):
        written = TaskArgs().add_tensor(array, tag)
        with pytest.raises(ArgumentError, match="is a read-only view"):
            worker.run(lambda orch, args, config, written=written: orch.submit_sub(handle, written))
    count = worker.register(lambda args: int(args.tensor(0).sum()))
    read = TaskArgs().add_tensor(view)
    assert worker.run(lambda orch, args, config: orch.submit_sub(count, read)).result() == 0


def test_after_may_be_a_generator(worker: Worker, tmp_path: Path) -> None:  # G1
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read = worker.register(lambda args: Path(args.scalar(0)).read_text())
    order = worker.register(lambda args: 1)

    def graph(orch: Orchestrator, args: Any, config: Any) -> Any:
        first = orch.submit_sub(read, TaskArgs().add_scalar(str(fifo)))
        return orch.submit_sub(order, after=(each for each in [first]))  # type: ignore[arg-type]

    run = worker.submit(graph)
    with fifo.open("w"):  # the first task has it open and goes on reading
        assert worker.run(lambda orch, args, config: orch.submit_sub(order)).result() == 1
        assert worker.stats().live == 2
    assert run.result().result() == 1


def fill(args: Any) -> None:
    args.tensor(0)[...] = args.scalar(0)


def add(args: Any) -> None:
    args.tensor(1)[...] = args.tensor(0) + args.tensor(0)


def test_outputs_get_storage_and_intermediates_live_until_their_last_user(worker: Worker) -> None:  # G2
    fill_handle, add_handle = worker.register(fill), worker.register(add)
    result = worker.array((1000,), "float32")

    def three_steps(orch: Orchestrator, args: Any, config: Any) -> None:
        first = orch.alloc((1000,), "float32")
        orch.submit_sub(fill_handle, TaskArgs().add_tensor(first, OUTPUT).add_scalar(1.5))
        second = Tensor((1000,), "float32")
        orch.submit_sub(add_handle, TaskArgs().add_tensor(first).add_tensor(second, OUTPUT))
        orch.submit_sub(add_handle, TaskArgs().add_tensor(second).add_tensor(result, OUTPUT_EXISTING))

    worker.run(three_steps)
    assert (result == 6.0).all()


def test_a_long_run_works_in_a_heap_that_holds_a_part_of_it(worker: Worker) -> None:  # G2, G8
    """Each step uses 4 of 64 MiB; submit waits for what earlier steps give back."""
    fill_handle = worker.register(fill)

    def many(orch: Orchestrator, args: Any, config: Any) -> None:
        for index in range(64):
            tensor = Tensor((4 << 20,), "uint8")
            orch.submit_sub(fill_handle, TaskArgs().add_tensor(tensor, OUTPUT).add_scalar(index))
            del tensor

    before = worker.stats()
    worker.run(many)
    after = worker.stats()
    assert (after.tasks - before.tasks, after.failures) == (64, 0)
    assert after.heap_used == before.heap_used


def test_scopes_free_early_and_what_they_freed_is_stale(worker: Worker) -> None:  # G2
    fill_handle = worker.register(fill)

    def nested(orch: Orchestrator, args: Any, config: Any) -> None:
        kept = []
        for _ in range(8):
            with orch.scope():
                kept.append(orch.alloc((16 << 20,), "uint8"))
                with orch.scope():
                    orch.alloc((16 << 20,), "uint8")
        with pytest.raises(StaleHandle, match="scope"):
            orch.submit_sub(fill_handle, TaskArgs().add_tensor(kept[0], INOUT).add_scalar(0))

    worker.run(nested)


def test_a_full_heap_that_nothing_can_free_names_the_setting(worker: Worker) -> None:  # G2
    def too_much(orch: Orchestrator, args: Any, config: Any) -> None:
        held = [orch.alloc((16 << 20,), "uint8") for _ in range(8)]
        assert held

    with pytest.raises(CapacityError, match="heap_bytes"):
        worker.run(too_much)
    with pytest.raises(CapacityError, match="heap_bytes"):
        worker.array((1 << 30,), "uint8")


def test_a_failure_poisons_what_depends_on_it_and_nothing_else(worker: Worker) -> None:  # G4
    def fail(args: Any) -> None:
        raise LookupError("the root")

    fail_handle, add_handle, fill_handle = worker.register(fail), worker.register(add), worker.register(fill)
    other = worker.array((4,), "int64")
    refs: dict[str, Any] = {}

    def mixed(orch: Orchestrator, args: Any, config: Any) -> None:
        broken, derived, last = (Tensor((4,), "int64") for _ in range(3))
        refs["root"] = orch.submit_sub(fail_handle, TaskArgs().add_tensor(broken, OUTPUT))
        refs["next"] = orch.submit_sub(add_handle, TaskArgs().add_tensor(broken).add_tensor(derived, OUTPUT))
        refs["last"] = orch.submit_sub(add_handle, TaskArgs().add_tensor(derived).add_tensor(last, OUTPUT))
        refs["other"] = orch.submit_sub(fill_handle, TaskArgs().add_tensor(other, INOUT).add_scalar(5))

    run = worker.submit(mixed)
    with pytest.raises(TaskError, match="the root") as caught:
        run.result()
    assert isinstance(caught.value.__cause__, LookupError)
    assert sorted(type(each).__name__ for each in caught.value.failures) == ["TaskError"] + ["UpstreamFailed"] * 2
    for name in ("next", "last"):
        with pytest.raises(UpstreamFailed, match="the root"):
            refs[name].result()
    assert refs["other"].result() is None
    assert other.tolist() == [5] * 4


def test_an_exception_in_the_orchestration_function_is_raised_as_itself(worker: Worker) -> None:  # G5
    class Mine(Exception):
        pass

    shared = worker.array((1,), "int64")
    increase = worker.register(lambda args: args.tensor(0).__iadd__(1) is None)
    error = Mine("mine")

    def submits_and_fails(orch: Orchestrator, args: Any, config: Any) -> None:
        for _ in range(100):
            orch.submit_sub(increase, TaskArgs().add_tensor(shared, INOUT))
        raise error

    run = worker.submit(submits_and_fails)
    with pytest.raises(Mine) as caught:
        run.result()
    assert caught.value is error
    done = int(shared[0])
    assert worker.run(lambda orch, args, config: orch.submit_sub(increase, TaskArgs().add_tensor(shared, INOUT)))
    assert shared[0] == done + 1 <= 101


@pytest.mark.parametrize("tags", [(OUTPUT, INOUT), (OUTPUT_EXISTING, OUTPUT_EXISTING), (INOUT, INOUT)], ids=str)
def test_two_arguments_that_write_the_same_bytes_are_refused(worker: Worker, tags: tuple[Any, Any]) -> None:  # G9
    shared, handle = worker.array((10,), "int64"), worker.register(lambda args: None)

    def conflicting(orch: Orchestrator, args: Any, config: Any) -> None:
        both = TaskArgs().add_tensor(shared[:6], tags[0]).add_tensor(shared[5:], tags[1])
        with pytest.raises(ArgumentError, match=r"arguments 0 and 1 .* overlapping"):
            orch.submit_sub(handle, both)
        orch.submit_sub(handle, TaskArgs().add_tensor(shared[:5], tags[0]).add_tensor(shared[5:], tags[1]))

    worker.run(conflicting)


@pytest.mark.parametrize("tag", [INOUT, OUTPUT_EXISTING], ids=str)
def test_written_columns_that_share_no_byte_are_taken_however_many_rows_they_have(worker: Worker, tag: Any) -> None:
    """G9: such columns are ordered by the ranges that span them, which overlap."""
    shared, handle = worker.array((200, 10), "int64"), worker.register(lambda args: args.tensor(1).fill(1))

    def columns(orch: Orchestrator, args: Any, config: Any) -> None:
        for one, other in ((shared[:, :5], shared[:, 5:]), (shared[:, ::2], shared[:, 1::2])):
            orch.submit_sub(handle, TaskArgs().add_tensor(one, tag).add_tensor(other, tag))
        three = TaskArgs().add_tensor(shared[:, :4], tag).add_tensor(shared[:, 4:7], tag).add_tensor(shared[:, 6:], tag)
        with pytest.raises(ArgumentError, match=r"arguments 1 and 2 .* overlapping"):
            orch.submit_sub(handle, three)

    worker.run(columns)
    assert (shared.sum(axis=0) > 0).tolist() == [False, True] * 2 + [False] + [True] * 5


def test_one_tensor_twice_is_refused_beside_columns_that_are_taken(worker: Worker) -> None:  # G9
    shared, handle = worker.array((200, 10), "int64"), worker.register(lambda args: None)

    def mixed(orch: Orchestrator, args: Any, config: Any) -> None:
        tensor = orch.alloc((4,), "int8")
        both = TaskArgs().add_tensor(shared[:, :5], INOUT).add_tensor(shared[:, 5:], INOUT)
        orch.submit_sub(handle, both)
        with pytest.raises(ArgumentError, match=r"arguments 2 and 3 .* overlapping"):
            orch.submit_sub(handle, both.add_tensor(tensor, OUTPUT).add_tensor(tensor, INOUT))

    worker.run(mixed)


def test_what_runs_get_they_do_not_share(worker: Worker) -> None:  # G6
    fail = worker.register(lambda args: 1 // 0)
    answer = worker.register(lambda args: args.scalar(0))
    runs = [
        worker.submit(lambda orch, args, config: orch.submit_sub(answer, args), TaskArgs().add_scalar(number))
        for number in range(20)
    ]
    bad = worker.submit(lambda orch, args, config: orch.submit_sub(fail))
    assert [run.result().result() for run in runs] == list(range(20))
    for _ in range(2):
        with pytest.raises(TaskError, match="ZeroDivisionError"):
            bad.result()


def test_waiting_never_cancels_and_all_who_wait_get_the_same(worker: Worker, tmp_path: Path) -> None:  # G6
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read = worker.register(lambda args: Path(args.scalar(0)).read_text())
    run = worker.submit(lambda orch, args, config: orch.submit_sub(read, args), TaskArgs().add_scalar(str(fifo)))
    assert not run.wait(0.01)
    assert not run.done
    with pytest.raises(TimeoutError):
        run.result(timeout=0)
    answers: list[Any] = []
    waiters = [threading.Thread(target=lambda: answers.append(run.result().result())) for _ in range(4)]
    for waiter in waiters:
        waiter.start()
    fifo.write_text("late")
    for waiter in waiters:
        waiter.join()
    assert answers == ["late"] * 4
    assert run.done


def test_several_threads_submit_runs_at_once(worker: Worker) -> None:  # G6
    double = worker.register(lambda args: 2 * args.scalar(0))
    answers: dict[int, list[int]] = {}

    def submit(thread: int) -> None:
        def fan(orch: Orchestrator, args: Any, config: Any) -> Any:
            return [orch.submit_sub(double, TaskArgs().add_scalar(thread * 100 + each)) for each in range(50)]

        answers[thread] = [ref.result() for ref in worker.run(fan)]

    threads = [threading.Thread(target=submit, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {thread: [2 * (thread * 100 + each) for each in range(50)] for thread in range(4)}


def test_results_of_any_size_and_none(worker: Worker) -> None:  # G10
    values = [None, 0, "text", {"a": [1, (2, 3)]}]
    give = worker.register(lambda args: values[args.scalar(0)])
    count = worker.register(lambda args: np.arange(args.scalar(0)))

    def each(orch: Orchestrator, args: Any, config: Any) -> Any:
        small = [orch.submit_sub(give, TaskArgs().add_scalar(index)) for index in range(len(values))]
        return [*small, orch.submit_sub(count, TaskArgs().add_scalar(1 << 18))]

    *small, large = [ref.result() for ref in worker.run(each)]
    assert small == values
    assert np.array_equal(large, np.arange(1 << 18))


def test_a_result_inside_the_orchestration_function_is_an_error_not_a_hang(worker: Worker) -> None:  # G10
    handle = worker.register(lambda args: 1)
    with pytest.raises(StateError, match="has not returned"):
        worker.run(lambda orch, args, config: orch.submit_sub(handle).result())


def test_what_is_no_argument_of_a_task_is_refused_in_words(worker: Worker) -> None:
    handle = worker.register(lambda args: 1)

    def graph(orch: Any, args: Any, config: Any) -> None:
        with pytest.raises(ArgumentError, match="are TaskArgs, not list"):
            orch.submit_sub(handle, [1])
        with pytest.raises(ArgumentError, match="into a list"):
            orch.submit_sub(handle, after=orch.submit_sub(handle))
        with pytest.raises(ArgumentError, match="after=3: expected a list"):
            orch.submit_sub(handle, after=3)
        with pytest.raises(ArgumentError, match="of this run, not 'x'"):
            orch.submit_sub(handle, after="x")
        with pytest.raises(ArgumentError, match="is of another, which"):
            orch.submit_sub(handle, after=[other])

    other = worker.run(lambda orch, args, config: orch.submit_sub(handle))
    worker.run(graph)
    run = worker.submit(lambda orch, args, config: orch.submit_sub(handle))
    with pytest.raises(ArgumentError, match="timeout='1' is not possible"):
        run.wait("1")  # type: ignore[arg-type]
    assert run.wait(5)


def test_an_orchestrator_is_for_its_function_and_its_thread(worker: Worker) -> None:
    handle = worker.register(lambda args: 1)
    escaped = worker.run(lambda orch, args, config: orch)
    with pytest.raises(StateError, match="until it returns"):
        escaped.submit_sub(handle)
    errors: list[Exception] = []

    def from_another_thread(orch: Orchestrator, args: Any, config: Any) -> None:
        def submit() -> None:
            try:
                orch.submit_sub(handle)
            except StateError as error:
                errors.append(error)

        thread = threading.Thread(target=submit)
        thread.start()
        thread.join()

    worker.run(from_another_thread)
    assert len(errors) == 1


def test_worker_ids_that_do_not_fit_are_refused(worker: Worker) -> None:  # L1
    handle = worker.register(lambda args: 1)

    def wrong(orch: Orchestrator, args: Any, config: Any) -> None:
        with pytest.raises(LevelError, match="there is no worker 7"):
            orch.submit_next_level(handle, worker=7)
        with pytest.raises(LevelError, match="SUB worker"):
            orch.submit_next_level(handle, worker=0)

    worker.run(wrong)


def test_dropped_handles_of_running_runs_are_no_leak(worker: Worker) -> None:  # G6
    handle = worker.register(lambda args: b"x" * 1000)
    worker.run(lambda orch, args, config: None)
    before = worker.stats().heap_used
    for _ in range(100):
        worker.submit(lambda orch, args, config: [orch.submit_sub(handle) for _ in range(10)])
    while worker.stats().live:
        os.sched_yield()
    worker.run(lambda orch, args, config: None)  # the next run to begin looks after those that nobody asks for
    assert worker.stats().heap_used <= before


def test_a_tensor_of_another_run_is_refused(worker: Worker) -> None:  # G2
    handle, escaped = worker.register(fill), Tensor((4,), "int8")

    def take(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.submit_sub(handle, TaskArgs().add_tensor(escaped, OUTPUT).add_scalar(1))

    worker.run(take)
    with pytest.raises(StaleHandle):
        worker.run(take)


def test_an_interrupted_orchestration_function_ends_its_run_and_no_other(worker: Worker) -> None:  # G5
    handle = worker.register(lambda args: 1)

    def interrupted(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.submit_sub(handle)
        raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        worker.submit(interrupted)
    assert worker.run(lambda orch, args, config: orch.submit_sub(handle)).result() == 1


def test_a_run_within_an_orchestration_function_is_a_run_of_its_own(worker: Worker) -> None:  # G6
    one, fail = worker.register(lambda args: 1), worker.register(lambda args: 1 // 0)

    def outer(orch: Orchestrator, args: Any, config: Any) -> Any:
        with pytest.raises(TaskError, match="ZeroDivisionError"):
            worker.run(lambda orch, args, config: orch.submit_sub(fail))
        return orch.submit_sub(one)

    assert worker.run(outer).result() == 1


def test_what_is_no_orchestration_function_is_told_so(worker: Worker) -> None:  # G5
    async def not_run(orch: Orchestrator, args: Any, config: Any) -> None:
        raise AssertionError

    def submits_later(orch: Orchestrator, args: Any, config: Any) -> Iterator[None]:
        yield

    with pytest.raises(ArgumentError, match="not_run is async"):
        worker.run(not_run)
    with pytest.raises(ArgumentError, match="submits_later is a generator"):
        worker.run(submits_later)
    with pytest.raises(ArgumentError, match="which a CallableHandle is not"):
        worker.run(worker.register(fill))  # type: ignore[arg-type]


def test_the_first_root_is_raised_and_lists_all_failures_in_order(worker: Worker) -> None:  # G4
    def fail(args: Any) -> None:
        raise LookupError(args.scalar(0))

    handle = worker.register(fail)

    def two_roots(orch: Orchestrator, args: Any, config: Any) -> Any:
        refs = [orch.submit_sub(handle, TaskArgs().add_scalar("first"))]
        refs.append(orch.submit_sub(handle, TaskArgs().add_scalar("poisoned"), after=refs))
        orch.submit_sub(handle, TaskArgs().add_scalar("second"))
        return refs

    run = worker.submit(two_roots)
    with pytest.raises(TaskError) as caught:
        run.result()
    failures = caught.value.failures
    assert failures[0] is caught.value
    assert sorted(type(each).__name__ for each in failures) == ["TaskError", "TaskError", "UpstreamFailed"]
    upstream = next(each for each in failures if isinstance(each, UpstreamFailed))
    assert "first" in upstream.message
    assert upstream.__cause__ in failures
    with pytest.raises(TaskError) as again:
        run.result()
    assert again.value is caught.value


def test_memory_of_an_orchestrator_that_is_over_cannot_be_had(worker: Worker) -> None:  # G2
    def leaves_a_scope_open(orch: Orchestrator, args: Any, config: Any) -> Any:
        scope = orch.scope()
        scope.__enter__()
        return orch, scope, orch.alloc((1 << 20,), "int8")

    before = worker.stats().heap_used
    orch, scope, _ = worker.run(leaves_a_scope_open)
    assert worker.stats().heap_used == before
    scope.__exit__(None, None, None)
    with pytest.raises(StateError, match="until it returns"):
        orch.alloc(1, "int8")
    with pytest.raises(StateError, match="until it returns"), orch.scope():
        raise AssertionError


def test_a_scope_ends_those_inside_it_that_were_left_open(worker: Worker) -> None:  # G2
    def nested(orch: Orchestrator, args: Any, config: Any) -> None:
        outer = orch.alloc((4,), "int8")
        with orch.scope():
            orch.scope().__enter__()
            inner = orch.alloc((4,), "int8")
        assert outer.offset is not None
        with pytest.raises(StaleHandle):
            orch.submit_sub(worker.register(fill), TaskArgs().add_tensor(inner, INOUT).add_scalar(0))

    worker.run(nested)


def test_sizes_beyond_any_heap_name_the_setting(worker: Worker) -> None:  # G2
    with pytest.raises(CapacityError, match=rf"in a heap of {64 << 20}, of which \d+ are in use.*raise heap_bytes"):
        worker.array((1 << 62, 8), "int64")
    with pytest.raises(CapacityError, match="heap_bytes"):
        worker.run(lambda orch, args, config: orch.alloc((1 << 62, 8), "int64"))


def test_a_result_that_cannot_be_rebuilt_says_whose_it_is(worker: Worker) -> None:  # G10
    class Odd:
        def __reduce__(self) -> Any:
            return (int, ("no number",))

    handle = worker.register(lambda args: Odd())
    ref = worker.run(lambda orch, args, config: orch.submit_sub(handle))
    with pytest.raises(TaskError, match=r"<lambda>: .*cannot be rebuilt here \(ValueError") as caught:
        ref.result()
    assert caught.value.code == "RESULT_NOT_SERIALIZABLE"
    assert caught.value.context["hashid"] == handle.hashid
    assert caught.value.context["worker"] in (0, 1)
