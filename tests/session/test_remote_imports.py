"""Memory of one session that tasks of another use: shared at one daemon, copied between two; ordered, and kept."""

from __future__ import annotations

import copy
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpler import (
    AccessDenied,
    ArgumentError,
    CapacityError,
    ChipCallable,
    ConnectError,
    Orchestrator,
    RemoteBufferExport,
    RemoteBufferHandle,
    RemoteTensorRef,
    RemoteWorkerSpec,
    SessionLost,
    SimplerError,
    StaleHandle,
    TaskArgs,
    TaskError,
    TaskRef,
    TensorArgType,
    Worker,
)
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

INPUT, INOUT, OUTPUT, NO_DEP = (
    TensorArgType.INPUT,
    TensorArgType.INOUT,
    TensorArgType.OUTPUT_EXISTING,
    TensorArgType.NO_DEP,
)
OWNER, OTHER = 0, 1
HEAP_BYTES = 1 << 24
MOST_BYTES = HEAP_BYTES * 3 // 4

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


def add(orch: Orchestrator, args: Any, config: object = None) -> int:
    """Adds scalar 0 to tensor 0; returns the new sum."""
    args.tensor(0)[...] += args.scalar(0)
    return int(args.tensor(0).sum())


def add_below(orch: Orchestrator, args: Any, config: object = None) -> None:
    """Adds 1 on the SUB worker, then 10 on the chip, then 100 on the SUB worker, to every second element."""
    every_second = args.tensor(0)[::2]
    for handle, amount in ((args.scalar(0), 1), (args.scalar(1), 10), (args.scalar(0), 100)):
        task = TaskArgs().add_tensor(every_second, TensorArgType.INOUT).add_scalar(amount)
        if handle == args.scalar(0):
            orch.submit_sub(handle, task)
        else:
            orch.submit_next_level(handle, task, worker=0)


def add_on_sub(args: Any) -> None:
    args.tensor(0)[...] += args.scalar(0)


def mapping_of(array: Any) -> tuple[str, int, int, str]:
    """Rights, size and offset of the mapping that an array lies in, and which file it is of."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, offset, device, inode = line.split()[:5]
        begin, end = (int(part, 16) for part in span.split("-"))
        if begin <= address < end:
            return rights, end - begin, int(offset, 16), f"{device} {inode}"
    raise AssertionError(f"{address:#x} is not mapped")


def where(orch: Orchestrator, args: Any, config: object = None) -> tuple[str, int, int, str]:
    return mapping_of(args.tensor(0))


def where_on_sub(orch: Orchestrator, args: Any, config: object = None) -> TaskRef:
    return orch.submit_sub(args.scalar(0), TaskArgs().add_tensor(args.tensor(0)))


def write_in_a_sub(orch: Orchestrator, args: Any, config: object = None) -> str:
    try:
        orch.submit_sub(args.scalar(0), TaskArgs().add_tensor(args.tensor(0), TensorArgType.INOUT).add_scalar(1))
    except Exception as refused:
        return f"{type(refused).__name__}: {refused}"
    return "not refused"


def wait_and_add(orch: Orchestrator, args: Any, config: object = None) -> None:
    """Adds 1 once the pipe that scalar 0 names is written."""
    Path(args.scalar(0)).read_text()
    if args.tag(0) is not TensorArgType.INPUT:
        args.tensor(0)[...] += 1


def fail(orch: Orchestrator, args: Any, config: object = None) -> None:
    kept = args.tensor(0)
    raise LookupError(f"it has {kept.size} items")


def imports_mapped(orch: Orchestrator, args: Any, config: object = None) -> int:
    """Besides the session's own region."""
    return Path("/proc/self/maps").read_text().count("/memfd:") - 1


def die(orch: Orchestrator, args: Any, config: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def running_daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def another_daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


def two_sessions(owners: ForegroundDaemon, others: ForegroundDaemon, *, devices: bool = False) -> Worker:
    made = Worker(level=4, name="test")
    for device, daemon in enumerate((owners, others)):
        spec = RemoteWorkerSpec(
            daemon.endpoint, device_ids=[device] * devices, num_sub_workers=1, heap_bytes=HEAP_BYTES
        )
        made.add_remote_worker(spec)
    return made


@pytest.fixture(scope="module", params=["sharing", "copying"])
def others(
    request: pytest.FixtureRequest, running_daemon: ForegroundDaemon, another_daemon: ForegroundDaemon
) -> ForegroundDaemon:
    """The daemon of the importer: that of the owner, or another."""
    return running_daemon if request.param == "sharing" else another_daemon


@pytest.fixture(scope="module")
def worker(running_daemon: ForegroundDaemon, others: ForegroundDaemon) -> Iterator[Worker]:
    with two_sessions(running_daemon, others, devices=True) as made:
        yield made


SHARING = pytest.mark.parametrize("others", ["sharing"], indirect=True, scope="module")
COPYING = pytest.mark.parametrize("others", ["copying"], indirect=True, scope="module")


@pytest.fixture
def buffer(worker: Worker) -> Iterator[RemoteBufferHandle]:
    """Eight int64 from 0 to 7, of OWNER."""
    handle = worker.remote_malloc(worker=OWNER, nbytes=64)
    worker.remote_copy_to(handle, np.arange(8))
    yield handle
    try:
        worker.remote_free(handle)
    except StaleHandle:  # the test has freed it
        return


def ints(handle: RemoteBufferHandle, count: int = 8, offset: int = 0) -> RemoteTensorRef:
    return RemoteTensorRef(handle, offset=offset, shape=count, dtype="int64")


def content(worker: Worker, handle: RemoteBufferHandle, count: int = 8) -> list[int]:
    target = np.zeros(count, "int64")
    worker.remote_copy_from(handle, target)
    return list(map(int, target))


def result_of(worker: Worker, function: object, args: TaskArgs, where_to: int = OTHER) -> Any:
    task = worker.register(function)  # type: ignore[arg-type]
    return worker.run(lambda orch, *_: orch.submit_next_level(task, args, worker=where_to)).result()


def test_tasks_of_both_sessions_are_ordered_by_the_bytes_they_share(worker: Worker, buffer: RemoteBufferHandle) -> None:
    # B7, G1
    imported, task = worker.remote_import(worker.remote_export(buffer), worker=OTHER), worker.register(add)

    def turns(orch: Orchestrator, args: object, config: object) -> list[TaskRef]:
        tasks = []
        for step in range(6):
            remote, handle = ((OWNER, buffer), (OTHER, imported))[step % 2]
            args = TaskArgs().add_tensor(ints(handle), INOUT).add_scalar(10**step)
            tasks.append(orch.submit_next_level(task, args, worker=remote))
        return tasks

    sums = [ref.result() for ref in worker.run(turns)]
    assert sums == [28 + 8 * int("1" * (step + 1)) for step in range(6)]
    assert content(worker, buffer) == [111111 + number for number in range(8)] == content(worker, imported)
    worker.remote_release_import(imported)


def test_ranges_that_only_meet_through_their_owner_order_tasks(worker: Worker, buffer: RemoteBufferHandle) -> None:
    # G1
    task = worker.register(add)
    first = worker.remote_import(worker.remote_export(buffer, nbytes=48), worker=OTHER)
    second = worker.remote_import(worker.remote_export(buffer, offset=32), worker=OTHER)

    def overlapping(orch: Orchestrator, args: object, config: object) -> TaskRef:
        for handle, count in ((first, 6), (second, 4)):
            args = TaskArgs().add_tensor(ints(handle, count), INOUT).add_scalar(100)
            orch.submit_next_level(task, args, worker=OTHER)
        tail = TaskArgs().add_tensor(ints(buffer, 2, 32), INOUT).add_scalar(1)
        return orch.submit_next_level(task, tail, worker=OWNER)

    assert worker.run(overlapping).result() == 204 + 205 + 2
    for imported in (first, second):
        worker.remote_release_import(imported)


def test_two_members_of_a_group_that_write_the_same_bytes_are_refused(
    worker: Worker, buffer: RemoteBufferHandle
) -> None:  # G1
    imported, task = worker.remote_import(worker.remote_export(buffer), worker=OTHER), worker.register(add)
    args = [TaskArgs().add_tensor(ints(handle), INOUT).add_scalar(1) for handle in (buffer, imported)]
    with pytest.raises(ArgumentError, match="write overlapping bytes"):
        worker.run(lambda orch, *_: orch.submit_next_level_group(task, args, workers=[OWNER, OTHER]))
    worker.remote_release_import(imported)


def test_chips_and_subs_of_the_importer_work_on_the_owners_memory_in_order(
    worker: Worker, buffer: RemoteBufferHandle
) -> None:  # B7, G1
    sub, chip = worker.register(add_on_sub), worker.register(INCREASE)
    imported = worker.remote_import(worker.remote_export(buffer, offset=8), worker=OTHER)
    args = TaskArgs().add_tensor(ints(imported, 7), INOUT).add_scalar(sub.hashid).add_scalar(chip.hashid)
    result_of(worker, add_below, args)
    result_of(worker, add_below, args)
    assert content(worker, buffer) == [0, 223, 2, 225, 4, 227, 6, 229]
    worker.remote_release_import(imported)


@SHARING
def test_nothing_is_copied_and_nothing_else_is_mapped(worker: Worker) -> None:  # B7
    big = worker.remote_malloc(worker=OWNER, nbytes=1 << 20)
    imported = worker.remote_import(worker.remote_export(big, offset=1 << 18, nbytes=1 << 16), worker=OTHER)
    *_, own = result_of(worker, where, TaskArgs().add_tensor(ints(big)), OWNER)
    sub, args = worker.register(lambda args: mapping_of(args.tensor(0))), TaskArgs().add_tensor(ints(imported))
    there, below = result_of(worker, where, args), result_of(worker, where_on_sub, args.add_scalar(sub.hashid))
    assert there == below
    rights, nbytes, _, file = there
    assert (rights, file) == ("rw-s", own)
    assert nbytes <= (1 << 16) + os.sysconf("SC_PAGE_SIZE")
    worker.remote_release_import(imported)
    worker.remote_free(big)


@SHARING
def test_what_a_failed_task_looked_at_is_unmapped_with_its_import(worker: Worker, buffer: RemoteBufferHandle) -> None:
    imported = worker.remote_import(worker.remote_export(buffer), worker=OTHER)
    with pytest.raises(TaskError, match="it has 8 items"):
        result_of(worker, fail, TaskArgs().add_tensor(ints(imported)))
    worker.remote_release_import(imported)
    assert result_of(worker, imports_mapped, TaskArgs()) == 0


def test_an_import_that_may_only_read_can_do_nothing_else(worker: Worker, buffer: RemoteBufferHandle) -> None:  # B2
    exported, task, sub = worker.remote_export(buffer), worker.register(add), worker.register(add_on_sub)
    reader = worker.remote_import(exported, worker=OTHER, access="read")
    for tag in (INOUT, OUTPUT, NO_DEP):
        args = TaskArgs().add_tensor(ints(reader), tag).add_scalar(1)
        with pytest.raises(AccessDenied, match="was imported with access 'read', this needs '"):
            worker.run(lambda orch, *_, args=args: orch.submit_next_level(task, args, worker=OTHER))
    with pytest.raises(AccessDenied):
        worker.remote_copy_to(reader, bytes(8))
    assert content(worker, reader) == list(range(8))
    args = TaskArgs().add_tensor(ints(reader)).add_scalar(sub.hashid)
    assert "read-only" in result_of(worker, write_in_a_sub, args)
    worker.remote_release_import(reader)


@SHARING
def test_what_may_only_be_read_is_mapped_for_reading(worker: Worker) -> None:  # B2
    buffer = worker.remote_malloc(worker=OWNER, nbytes=64)
    reader = worker.remote_import(worker.remote_export(buffer), worker=OTHER, access="read")
    sub, args = worker.register(lambda args: mapping_of(args.tensor(0))), TaskArgs().add_tensor(ints(reader))
    assert result_of(worker, where, args)[0] == "r--s"
    assert result_of(worker, where_on_sub, args.add_scalar(sub.hashid))[0] == "r--s"
    worker.remote_release_import(reader)
    worker.remote_free(buffer)


def test_an_import_has_no_more_rights_than_its_export(worker: Worker, buffer: RemoteBufferHandle) -> None:  # B2
    for access, more in (("read", "readwrite"), ("read", "write"), ("write", "read")):
        with pytest.raises(AccessDenied, match=f"does not allow access {more!r}"):
            worker.remote_import(worker.remote_export(buffer, access=access), worker=OTHER, access=more)
    writer = worker.remote_import(worker.remote_export(buffer, access="write"), worker=OTHER)
    with pytest.raises(AccessDenied):
        content(worker, writer)
    with pytest.raises(ArgumentError, match="expected 'read', 'write', 'readwrite'"):
        worker.remote_export(buffer, access="rw")
    worker.remote_release_import(writer)


def test_an_export_cannot_be_made_changed_copied_or_shown(worker: Worker, buffer: RemoteBufferHandle) -> None:  # B1
    exported = worker.remote_export(buffer, offset=16, access="read")
    assert repr(exported).endswith("of worker 0, 48 bytes, read>")
    assert {name for name in dir(exported) if not name.startswith("_")} == {"access", "nbytes", "worker"}
    with pytest.raises(TypeError, match="remote_export"):
        RemoteBufferExport()
    with pytest.raises(AttributeError, match="cannot be changed"):
        exported.access = "readwrite"
    with pytest.raises(AttributeError, match="cannot be changed"):
        del exported.access
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            attempt(exported)
    forged = object.__new__(RemoteBufferExport)
    for name in ("_serial", "access", "nbytes", "worker"):
        object.__setattr__(forged, name, getattr(exported, name))
    with pytest.raises(StaleHandle, match="another Worker"):
        worker.remote_import(forged, worker=OTHER)


@pytest.mark.parametrize(("offset", "nbytes"), [(0, 65), (64, None), (65, None), (-8, 8), (8, 0), (1 << 63, 1)])
def test_an_export_lies_within_its_buffer(
    worker: Worker, buffer: RemoteBufferHandle, offset: int, nbytes: int | None
) -> None:  # B3
    with pytest.raises(ArgumentError):
        worker.remote_export(buffer, offset=offset, nbytes=nbytes)


def test_what_is_no_export_or_not_for_that_worker_is_refused(worker: Worker, buffer: RemoteBufferHandle) -> None:  # B1
    exported = worker.remote_export(buffer)
    with pytest.raises(ArgumentError, match="which needs no import"):
        worker.remote_import(exported, worker=OWNER)
    with pytest.raises(ArgumentError, match="not a remote worker"):
        worker.remote_import(exported, worker=7)
    with pytest.raises(ArgumentError, match="worker True is not a whole number"):
        worker.remote_import(exported, worker=True)
    for access in ("rw", None, ["read"]):
        with pytest.raises(ArgumentError, match=r"is not possible; expected 'read', 'write', 'readwrite'"):
            worker.remote_export(buffer, access=access)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="expected a RemoteBufferExport"):
        worker.remote_import(buffer, worker=OTHER)  # type: ignore[arg-type]
    imported = worker.remote_import(exported, worker=OTHER, access="read")
    with pytest.raises(ArgumentError, match="export the buffer that it is an import of"):
        worker.remote_export(imported)
    with pytest.raises(ArgumentError, match="remote_release_import"):
        worker.remote_free(imported)
    with pytest.raises(ArgumentError, match="remote_free"):
        worker.remote_release_import(buffer)
    worker.remote_release_import(imported)
    with pytest.raises(StaleHandle):
        worker.remote_release_import(imported)
    with pytest.raises(StaleHandle):
        content(worker, imported)


def test_a_freed_buffer_stays_for_its_imports_and_is_given_to_no_new_ones(worker: Worker) -> None:  # B1, B4
    most = worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES)
    exported = worker.remote_export(most)
    imported = worker.remote_import(exported, worker=OTHER)
    worker.remote_free(most)
    with pytest.raises(StaleHandle):
        worker.remote_import(exported, worker=OTHER)
    with pytest.raises(StaleHandle):
        worker.remote_export(most)
    with pytest.raises(CapacityError):
        worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES)
    assert result_of(worker, add, TaskArgs().add_tensor(ints(imported, 1), INOUT).add_scalar(0)) is not None
    worker.remote_release_import(imported)
    worker.remote_free(worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES))


def test_a_release_waits_for_the_run_that_uses_the_import(worker: Worker, fifo: Path) -> None:  # B4
    buffer = worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES)
    imported, task = worker.remote_import(worker.remote_export(buffer), worker=OTHER), worker.register(wait_and_add)
    args = TaskArgs().add_tensor(ints(imported, 1), OUTPUT).add_scalar(str(fifo))
    run = worker.submit(lambda orch, *_: orch.submit_next_level(task, args, worker=OTHER))
    worker.remote_release_import(imported)
    worker.remote_free(buffer)
    with pytest.raises(CapacityError):
        worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES)
    fifo.write_text("")
    run.result()
    with pytest.raises(StaleHandle):
        worker.run(lambda orch, *_: orch.submit_next_level(task, args, worker=OTHER))
    assert allocates_again(worker)


def allocates_again(worker: Worker) -> bool:
    """A release that was put off goes to one session after the other, which nobody waits for."""
    for _ in range(200):
        try:
            worker.remote_free(worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES))
        except CapacityError:
            worker.remote_free(worker.remote_malloc(worker=OTHER, nbytes=1))  # in turn behind the release
        else:
            return True
    return False


def test_a_session_that_ends_gives_back_what_it_imported(
    running_daemon: ForegroundDaemon, others: ForegroundDaemon
) -> None:  # B4, R4
    with two_sessions(running_daemon, others) as worker:
        most = worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES)
        imported = worker.remote_import(worker.remote_export(most), worker=OTHER)
        worker.remote_free(most)
        with pytest.raises(SessionLost, match="SIGKILL"):
            result_of(worker, die, TaskArgs())
        with pytest.raises(StaleHandle):
            worker.remote_release_import(imported)
        assert allocates_again_alone(worker)


def allocates_again_alone(worker: Worker) -> bool:
    """The owner hears from the kernel that its importer is gone, at any time after that."""
    for _ in range(1000):
        try:
            worker.remote_free(worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES))
        except CapacityError:
            continue
        return True
    return False


def test_tasks_on_memory_whose_owner_ended_fail_with_that(
    running_daemon: ForegroundDaemon, others: ForegroundDaemon
) -> None:  # B1, R4
    with two_sessions(running_daemon, others) as worker:
        buffer = worker.remote_malloc(worker=OWNER, nbytes=64)
        imported = worker.remote_import(worker.remote_export(buffer), worker=OTHER)
        end, task = worker.register(die), worker.register(add)
        args = TaskArgs().add_tensor(ints(imported), INOUT).add_scalar(1)
        ended = worker.submit(lambda orch, *_: orch.submit_next_level(end, worker=OWNER))
        with pytest.raises(SessionLost, match="SIGKILL"):
            ended.result()
        with pytest.raises(StaleHandle, match="import from worker 0, whose session has ended"):
            worker.run(lambda orch, *_: orch.submit_next_level(task, args, worker=OTHER))
        worker.remote_release_import(imported)


def test_a_task_that_was_submitted_before_the_owner_ended_fails_too(
    running_daemon: ForegroundDaemon, others: ForegroundDaemon, fifo: Path
) -> None:  # R4
    with two_sessions(running_daemon, others) as worker:
        buffer = worker.remote_malloc(worker=OWNER, nbytes=64)
        imported = worker.remote_import(worker.remote_export(buffer), worker=OTHER)
        pause, end, task = worker.register(wait_and_add), worker.register(die), worker.register(add)
        uses = TaskArgs().add_tensor(ints(imported), INOUT).add_scalar(1)

        def later(orch: Orchestrator, args: object, config: object) -> TaskRef:
            idle = TaskArgs().add_tensor(np.zeros(1, "int64")).add_scalar(str(fifo))
            orch.submit_next_level(pause, idle, worker=OTHER)
            return orch.submit_next_level(task, uses, worker=OTHER)

        run = worker.submit(later)
        with pytest.raises(SessionLost):
            worker.run(lambda orch, *_: orch.submit_next_level(end, worker=OWNER))
        fifo.write_text("")
        with pytest.raises(SessionLost, match=r"owns the imported memory, has ended|cannot be reached any more"):
            run.result()


@SHARING
def test_exports_are_of_one_worker_object(worker: Worker, running_daemon: ForegroundDaemon) -> None:  # B1
    with two_sessions(running_daemon, running_daemon) as another:
        buffer = another.remote_malloc(worker=OWNER, nbytes=64)
        with pytest.raises(StaleHandle, match="another Worker"):
            worker.remote_import(another.remote_export(buffer), worker=OTHER)


# ---- between daemons


def fill_half(orch: Orchestrator, args: Any, config: object = None) -> None:
    args.tensor(0)[::2] = 7


def fill_and_fail(orch: Orchestrator, args: Any, config: object = None) -> None:
    args.tensor(0)[...] = 7
    raise RuntimeError("not done")


@COPYING
def test_what_a_task_leaves_alone_stays_as_it_is_at_the_owner(worker: Worker) -> None:  # B7
    buffer = worker.remote_malloc(worker=OWNER, nbytes=64)
    worker.remote_copy_to(buffer, np.arange(8))
    imported = worker.remote_import(worker.remote_export(buffer), worker=OTHER)
    result_of(worker, fill_half, TaskArgs().add_tensor(ints(imported, 4, 16), OUTPUT))
    assert content(worker, buffer) == [0, 1, 7, 3, 7, 5, 6, 7]
    with pytest.raises(TaskError, match="not done"):
        result_of(worker, fill_and_fail, TaskArgs().add_tensor(ints(imported), INOUT))
    assert content(worker, buffer) == [0, 1, 7, 3, 7, 5, 6, 7]
    worker.remote_release_import(imported)
    worker.remote_free(buffer)


@COPYING
def test_bytes_that_a_task_has_two_copies_of_are_only_read(worker: Worker, buffer: RemoteBufferHandle) -> None:  # B7
    first = worker.remote_import(worker.remote_export(buffer), worker=OTHER)
    second = worker.remote_import(worker.remote_export(buffer, offset=32), worker=OTHER)
    both = TaskArgs().add_tensor(ints(first, 4, 16), INOUT).add_tensor(ints(second, 1, 16)).add_scalar(1)
    assert result_of(worker, add, both) == 2 + 3 + 4 + 5 + 4
    both = TaskArgs().add_tensor(ints(first, 4, 16), INOUT).add_tensor(ints(second, 4)).add_scalar(1)
    with pytest.raises(ArgumentError, match="use one import for both"):
        result_of(worker, add, both)
    reads = TaskArgs().add_tensor(ints(first)).add_tensor(ints(second, 4)).add_scalar(0)
    assert result_of(worker, where, reads)
    for imported in (first, second):
        worker.remote_release_import(imported)


@COPYING
def test_a_tensor_that_nothing_orders_cannot_be_copied(worker: Worker) -> None:  # B7
    buffer = worker.remote_malloc(worker=OWNER, nbytes=64)
    imported = worker.remote_import(worker.remote_export(buffer), worker=OTHER)
    with pytest.raises(SimplerError, match="NO_DEP is not possible") as refused:
        result_of(worker, add, TaskArgs().add_tensor(ints(imported), NO_DEP).add_scalar(1))
    assert refused.value.code == "UNSUPPORTED"
    worker.remote_release_import(imported)
    worker.remote_free(buffer)


@COPYING
def test_large_imports_travel_whole_and_go_with_their_release(worker: Worker) -> None:  # B7, R10
    numbers = np.arange(1_400_000)
    buffer = worker.remote_malloc(worker=OWNER, nbytes=numbers.nbytes)
    worker.remote_copy_to(buffer, numbers)
    for _ in range(3):
        imported = worker.remote_import(worker.remote_export(buffer), worker=OTHER)
        args = TaskArgs().add_tensor(ints(imported, len(numbers)), INOUT).add_scalar(1)
        assert result_of(worker, add, args) == int(numbers.sum()) + len(numbers)
        numbers += 1
        worker.remote_release_import(imported)
    assert content(worker, buffer, len(numbers)) == numbers.tolist()
    worker.remote_free(buffer)


@COPYING
def test_an_import_that_finds_no_room_leaves_nothing_held(worker: Worker) -> None:  # B4
    buffer = worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES)
    full = worker.remote_malloc(worker=OTHER, nbytes=MOST_BYTES)
    with pytest.raises(CapacityError, match="heap_bytes"):
        worker.remote_import(worker.remote_export(buffer), worker=OTHER)
    worker.remote_free(full)
    worker.remote_free(buffer)
    worker.remote_free(worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES))


@COPYING
def test_an_import_that_cannot_reach_its_owner_says_where_it_tried(
    worker: Worker, running_daemon: ForegroundDaemon
) -> None:  # B4, R4
    buffer = worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES)
    exported, path = worker.remote_export(buffer), running_daemon.runtime_dir / "session.sock"
    path.rename(path.with_name("moved"))
    try:
        with pytest.raises(ConnectError, match=str(path)):
            worker.remote_import(exported, worker=OTHER)
    finally:
        path.with_name("moved").rename(path)
    worker.remote_free(buffer)
    worker.remote_free(worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES))


# ---- nothing is left


def descriptors_and_mappings(orch: Orchestrator, args: Any, config: object = None) -> tuple[int, int]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), sum("/memfd:" in line for line in maps)


def test_imports_leave_no_descriptor_and_no_mapping_in_either_session(
    worker: Worker, buffer: RemoteBufferHandle
) -> None:  # R5
    exported, count = worker.remote_export(buffer), worker.register(descriptors_and_mappings)

    def counts() -> list[Any]:
        both = (OWNER, OTHER)
        refs = worker.run(lambda orch, *_: [orch.submit_next_level(count, worker=remote) for remote in both])
        return [ref.result() for ref in refs]

    before = counts()
    for _ in range(20):
        imported = worker.remote_import(exported, worker=OTHER)
        result_of(worker, add, TaskArgs().add_tensor(ints(imported), INOUT).add_scalar(1))
        worker.remote_release_import(imported)
    # Between daemons the owner's runner sees a moment later that the last lane is closed.
    assert any(counts() == before for _ in range(200))


def mappings(args: Any) -> int:
    return sum("/memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines())


def sum_below(orch: Orchestrator, args: Any, config: object = None) -> TaskRef:
    return orch.submit_sub(args.scalar(0), TaskArgs().add_tensor(args.tensor(0)) if args.tensor_count() else None)


@SHARING
def test_the_workers_of_the_importer_unmap_what_was_released(worker: Worker, buffer: RemoteBufferHandle) -> None:  # R5
    sub, imported = worker.register(mappings), worker.remote_import(worker.remote_export(buffer), worker=OTHER)
    before = result_of(worker, sum_below, TaskArgs().add_scalar(sub.hashid))
    assert result_of(worker, sum_below, TaskArgs().add_tensor(ints(imported)).add_scalar(sub.hashid)) == before + 1
    worker.remote_release_import(imported)
    # A free worker does so at once, but nobody waits for that.
    assert any(result_of(worker, sum_below, TaskArgs().add_scalar(sub.hashid)) == before for _ in range(200))


def test_an_import_whose_caller_is_interrupted_is_given_back(worker: Worker, fifo: Path) -> None:  # B4, R10
    buffer, pause = worker.remote_malloc(worker=OWNER, nbytes=MOST_BYTES), worker.register(wait_and_add)
    exported, idle = worker.remote_export(buffer), TaskArgs().add_tensor(np.zeros(1, "int64")).add_scalar(str(fifo))
    run = worker.submit(lambda orch, *_: orch.submit_next_level(pause, idle, worker=OTHER))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            worker.remote_import(exported, worker=OTHER)  # behind the task that waits
    finally:
        signal.signal(signal.SIGALRM, before)
    worker.remote_free(buffer)
    fifo.write_text("")
    run.result()
    assert allocates_again(worker)
