"""Callables coming and going while runs are live, workers refuse or die, and programs are interrupted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from simpler import CallableHandle, ChipCallable, Orchestrator, TaskArgs, Worker
from simpler.errors import ArgumentError, LevelError, RegistrationError, SimplerError, StaleHandle, WorkerDied
from simpler.run import RunHandle

pytestmark = pytest.mark.slow


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=1) as worker:
        yield worker


class Gate:
    """A task that begins, says so, and ends once it may."""

    def __init__(self, worker: Worker, folder: Path, name: str) -> None:
        self._path = folder / name
        os.mkfifo(self._path)
        self._worker = worker
        self._opened: IO[str] | None = None

    def submit(self, orch: Orchestrator, handle: CallableHandle) -> None:
        orch.submit_sub(handle, TaskArgs().add_scalar(str(self._path)))

    def wait_until_it_runs(self) -> None:
        self._opened = self._path.open("w")

    def open(self) -> None:
        assert self._opened is not None
        self._opened.close()


def wait_at_gate(args: Any) -> None:
    Path(args.scalar(0)).read_text()


def answer(args: Any) -> str:
    return "answer"


def own_pid(args: Any) -> int:
    return os.getpid()


def refused(code: str, match: str | None = None) -> Any:
    return pytest.raises(RegistrationError, match=match, check=lambda error: error.code == code)


def call(worker: Worker, handle: CallableHandle | str) -> Any:
    return worker.run(lambda orch, args, config: orch.submit_sub(handle)).result()


def is_in_table(worker: Worker, handle: CallableHandle) -> bool:
    assert worker.region is not None
    return handle.digest in dict(worker.region.callables)


def behind(worker: Worker, gate: Gate, blocks: CallableHandle, handle: CallableHandle) -> RunHandle:
    """A live run, whose task of ``handle`` is queued behind the gate."""

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> Any:
        gate.submit(orch, blocks)
        return orch.submit_sub(handle)

    return worker.submit(orchestrate)


def test_a_run_that_is_live_still_finds_what_is_unregistered(worker: Worker, tmp_path: Path) -> None:  # C5, C3
    gate, blocks, handle = Gate(worker, tmp_path, "gate"), worker.register(wait_at_gate), worker.register(answer)
    run = behind(worker, gate, blocks, handle)
    gate.wait_until_it_runs()
    worker.unregister(handle)  # returns, though the worker is busy
    with pytest.raises(StaleHandle):
        call(worker, handle)
    with refused("CALLABLE_NOT_REGISTERED", "is not registered with this Worker"):
        call(worker, handle.hashid)
    gate.open()
    assert run.result().result() == "answer"
    worker.unregister(worker.register(lambda args: 1))  # whoever comes by sees to it
    assert not is_in_table(worker, handle)


def test_what_is_registered_again_meanwhile_stays(worker: Worker, tmp_path: Path) -> None:  # C3
    gate, blocks, handle = Gate(worker, tmp_path, "gate"), worker.register(wait_at_gate), worker.register(answer)
    run = behind(worker, gate, blocks, handle)
    gate.wait_until_it_runs()
    worker.unregister(handle)
    again = worker.register(answer)  # at once, though the worker is busy: it is still there
    with pytest.raises(StaleHandle):
        worker.unregister(handle)
    gate.open()
    assert run.result().result() == call(worker, again) == "answer"
    worker.unregister(again)
    assert not is_in_table(worker, again)


def test_unregistering_inside_the_run_that_uses_it(worker: Worker) -> None:  # C6
    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> Any:
        handle = worker.register(answer)
        ref = orch.submit_sub(handle)
        worker.unregister(handle)
        return ref

    for _ in range(5):
        assert worker.run(orchestrate).result() == "answer"


def test_a_tombstone_stands_until_a_busy_worker_has_confirmed(worker: Worker, tmp_path: Path) -> None:  # C5
    first, second = Gate(worker, tmp_path, "first"), Gate(worker, tmp_path, "second")
    blocks, handle = worker.register(wait_at_gate), worker.register(answer)
    old = worker.submit(lambda orch, args, config: first.submit(orch, blocks))
    first.wait_until_it_runs()
    worker.unregister(handle)
    new = worker.submit(lambda orch, args, config: second.submit(orch, blocks))
    first.open()
    second.wait_until_it_runs()
    old.result()  # now nobody needs the callable, but its worker is busy
    with refused("REGISTER_TOMBSTONE_ACTIVE", "still being taken back from worker 0"):
        worker.register(answer)
    with refused("UNREGISTER_TOMBSTONE_ACTIVE", "have yet to confirm"):
        worker.unregister(handle)
    second.open()
    new.result()
    assert call(worker, worker.register(answer)) == "answer"
    with pytest.raises(StaleHandle):
        worker.unregister(handle)


def test_a_worker_that_dies_has_confirmed(tmp_path: Path) -> None:  # C5, W4
    with Worker(3, num_sub_workers=1) as worker:
        blocks = worker.register(wait_at_gate)
        first, second = Gate(worker, tmp_path, "first"), Gate(worker, tmp_path, "second")
        handle = worker.register(answer)
        old = worker.submit(lambda orch, args, config: first.submit(orch, blocks))
        first.wait_until_it_runs()
        worker.unregister(handle)
        new = worker.submit(lambda orch, args, config: second.submit(orch, blocks))
        first.open()
        second.wait_until_it_runs()
        old.result()
        os.kill(worker.stats().workers[0].pid, 9)
        with pytest.raises(WorkerDied):
            new.result()
        second.open()
        assert call(worker, worker.register(answer)) == "answer"


def test_a_worker_that_is_too_busy_to_answer_in_time_is_named(tmp_path: Path) -> None:  # C5
    with Worker(3, num_sub_workers=2) as worker:
        gate, blocks, pid = Gate(worker, tmp_path, "gate"), worker.register(wait_at_gate), worker.register(own_pid)
        run = worker.submit(lambda orch, args, config: gate.submit(orch, blocks))
        gate.wait_until_it_runs()
        idle = call(worker, pid)
        busy = next(at for at, each in enumerate(worker.stats().workers) if each.pid != idle)
        with refused("TIMEOUT", f"in time: worker {busy} did not answer whether to prepare it"):
            worker.register(answer, timeout_s=0.1)
        for timeout in (-1, "soon", True, float("nan")):
            with pytest.raises(ArgumentError, match=r"timeout_s=.* is not possible"):
                worker.register(answer, timeout_s=timeout)  # type: ignore[arg-type]
        gate.open()
        run.result()
        assert call(worker, worker.register(answer)) == "answer"


# ---- what cannot be confirmed


class BreaksItsWorker:
    """Loads in the first worker to come, and breaks unloading there; the others it refuses when told to."""

    def __init__(self, mark: Path, *, others_refuse: bool = False) -> None:
        self.mark, self.others_refuse = mark, others_refuse

    def __call__(self, args: Any) -> str:
        raise AssertionError("never called")

    def __reduce__(self) -> Any:
        return load_and_break, (str(self.mark), self.others_refuse)


def load_and_break(mark: str, others_refuse: bool) -> Any:
    from simpler import sub_worker

    def unload(executor: object, digest: bytes) -> None:
        raise OSError("unloading is broken")

    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        if others_refuse:
            raise LookupError("not in this worker") from None
    else:
        sub_worker.SubExecutor.unload = unload  # type: ignore[assignment,method-assign]
    return answer


def test_what_a_worker_could_not_forget_is_uncertain(tmp_path: Path) -> None:  # C5
    with Worker(3, num_sub_workers=2) as worker:
        target = BreaksItsWorker(tmp_path / "mark")
        handle = worker.register(target)
        with refused("REGISTER_CLEANUP_UNCERTAIN", "unloading is broken"):
            worker.unregister(handle)
        with pytest.raises(StaleHandle):
            worker.unregister(handle)
        for _ in range(2):
            with refused("REGISTER_CLEANUP_UNCERTAIN", r"not used again with worker \d, .*unloading is broken"):
                worker.register(target)
        assert call(worker, worker.register(lambda args: "others are fine")) == "others are fine"


def test_a_refusal_that_cannot_be_undone_everywhere_is_partial(tmp_path: Path) -> None:  # C5
    with Worker(3, num_sub_workers=2) as worker:
        target = BreaksItsWorker(tmp_path / "mark", others_refuse=True)
        with refused("REGISTER_PARTIAL_FAILURE", r"(?s)not in this worker.*uncertain: worker \d.*is broken") as caught:
            worker.register(target)
        assert isinstance(caught.value.__cause__, RegistrationError)
        with refused("REGISTER_CLEANUP_UNCERTAIN"):
            worker.register(target)


def refuse_second(folder: str) -> Any:
    try:
        (Path(folder) / "loaded").touch(exist_ok=False)  # both workers may be here at the same moment
    except FileExistsError:
        raise LookupError("one is enough") from None
    return answer


class RefusesSecond:
    """Can be loaded by one worker only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, args: Any) -> str:
        raise AssertionError("never called")

    def __reduce__(self) -> Any:
        return refuse_second, (str(self.folder),)


def test_what_one_worker_refuses_is_taken_back_from_the_other(tmp_path: Path) -> None:  # C5
    with Worker(3, num_sub_workers=2) as worker:
        target = RefusesSecond(tmp_path)
        with refused("CALLABLE_IMPORT_FAILED", "one is enough"):
            worker.register(target)
        (loaded,) = tmp_path.iterdir()
        loaded.unlink()
        with refused("CALLABLE_IMPORT_FAILED", "one is enough"):
            worker.register(target)  # loaded once more: the first had forgotten it
        assert list(tmp_path.iterdir())
        assert worker.region is not None
        assert list(worker.region.callables) == []


def test_a_worker_that_dies_while_loading_is_named_and_replaced(worker: Worker) -> None:  # C5, W4
    class Deadly:
        def __call__(self, args: Any) -> None:
            raise AssertionError("never called")

        def __reduce__(self) -> Any:
            return os._exit, (3,)

    with pytest.raises(WorkerDied, match="exited with code 3"):
        worker.register(Deadly())
    assert call(worker, worker.register(answer)) == "answer"


def test_a_pool_that_was_given_up_takes_no_callable() -> None:  # C9
    with Worker(3, num_sub_workers=1) as worker:
        deadly = worker.register(lambda args: os._exit(1))
        while not worker.stats().workers[0].abandoned:
            with pytest.raises(WorkerDied):
                call(worker, deadly)
        with refused("CALLABLE_KIND_UNSUPPORTED", "no worker is left to run answer"):
            worker.register(answer)
        worker.unregister(deadly)


# ---- which workers

SOURCE = """
#include "simpler_kernel.h"
#define KERNEL(name) int name(const slr_tensor *t, uint32_t n, const uint64_t *s, uint32_t m)

KERNEL(first) { (void)t, (void)n, (void)s, (void)m; return 0; }
KERNEL(second) { (void)t, (void)n, (void)s, (void)m; return 0; }
"""


@pytest.fixture(scope="module")
def mixed() -> Iterator[Worker]:
    with Worker(3, device_ids=[0, 1], num_sub_workers=2) as worker:
        yield worker


@pytest.fixture(scope="module")
def kernels() -> tuple[ChipCallable, ChipCallable]:
    first = ChipCallable.from_c_source(SOURCE, "first", [])
    return first, ChipCallable.from_elf(first.elf, "second", [])


def run_on(worker: Worker, handle: CallableHandle, chip: int) -> None:
    worker.run(lambda orch, args, config: orch.submit_next_level(handle, worker=chip))


def test_a_callable_for_some_workers_runs_there_alone(
    mixed: Worker, kernels: tuple[ChipCallable, ChipCallable]
) -> None:  # C5, C9
    handle = mixed.register(kernels[0], workers=[1])
    run_on(mixed, handle, 1)
    with pytest.raises(ArgumentError, match="registered for workers 1, not for worker 0"):
        run_on(mixed, handle, 0)
    for others in (None, [0], [0, 1]):
        with refused("REMOTE_CALLABLE_ENDPOINT_SCOPE_MISMATCH", "registered for other workers"):
            mixed.register(kernels[0], workers=others)
    same = mixed.register(kernels[0], workers=(1,))
    mixed.unregister(handle)
    run_on(mixed, same, 1)
    mixed.unregister(same)
    everywhere = mixed.register(kernels[0])
    mixed.unregister(mixed.register(kernels[0], workers=[0, 1]))
    run_on(mixed, everywhere, 0)
    mixed.unregister(everywhere)


def test_sub_workers_are_named_all_or_none(mixed: Worker) -> None:  # C9
    with pytest.raises(ArgumentError, match=r"share one queue, so name all of them \(2, 3\) or none"):
        mixed.register(answer, workers=[2])
    choices: list[Any] = [[3, 2], np.array([2, 3])]
    for workers in choices:
        handle = mixed.register(answer, workers=workers)
        assert call(mixed, handle) == "answer"
        mixed.unregister(handle)


@pytest.mark.parametrize(
    ("workers", "error", "match"),
    [
        ([], ArgumentError, "expected a list of worker ids"),
        ("0", ArgumentError, "expected a list of worker ids"),
        ([2.0, 3.0], ArgumentError, "worker 2.0 is not a whole number"),
        ([[2], 3], ArgumentError, r"worker \[2\] is not a whole number"),
        ([2, 3, 2], ArgumentError, "names a worker twice"),
        ([9], LevelError, "there is no worker 9"),
        ([0], RegistrationError, "worker 0, a CHIP worker, cannot run"),
    ],
)
def test_impossible_workers_are_refused(
    mixed: Worker, workers: Any, error: type[SimplerError], match: str
) -> None:  # C9
    with pytest.raises(error, match=match):
        mixed.register(answer, workers=workers)


def test_workers_are_kept_to_when_registered_before_the_start(kernels: tuple[ChipCallable, ChipCallable]) -> None:  # C9
    worker = Worker(3, device_ids=[0, 1])
    scoped, free = worker.register(kernels[0], workers=[0]), worker.register(kernels[1])
    with refused("REMOTE_CALLABLE_ENDPOINT_SCOPE_MISMATCH"):
        worker.register(kernels[0])
    with worker:
        run_on(worker, scoped, 0)
        run_on(worker, free, 1)
        with pytest.raises(ArgumentError, match="not for worker 1"):
            run_on(worker, scoped, 1)


# ---- how many


def test_a_full_table_names_the_setting(tmp_path: Path) -> None:  # C3
    with Worker(3, num_sub_workers=1, max_callables=2) as worker:
        one, two = worker.register(lambda args: 1), worker.register(answer)
        for _ in range(2):
            with refused("LOCAL_SLOT_EXHAUSTED", "raise max_callables"):
                worker.register(lambda args: 3)
        worker.register(answer)  # one more handle takes no place
        worker.unregister(one)
        assert call(worker, worker.register(lambda args: 3)) == 3
        assert call(worker, two) == "answer"


def test_a_start_with_too_many_callables_names_the_setting() -> None:  # C3, W1
    worker = Worker(3, num_sub_workers=1, max_callables=1)
    for number in range(2):
        worker.register(lambda args, number=number: number)
    with refused("LOCAL_SLOT_EXHAUSTED", "raise max_callables"):
        worker.init()


def test_a_hashid_is_no_handle_to_give_back(worker: Worker) -> None:  # C3
    handle = worker.register(answer)
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(ArgumentError, match="expected a CallableHandle"))
        worker.unregister(handle.hashid)  # type: ignore[arg-type]
    assert call(worker, handle) == "answer"


# ---- who waits for whom


def fill(worker: Worker, gate: Gate, blocks: CallableHandle) -> RunHandle:
    """A run of which one task waits at the gate, and as many others wait for that as there is room for."""

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        gate.submit(orch, blocks)
        gate.wait_until_it_runs()
        waiting = 6 - worker.stats().live
        for _ in range(waiting):
            orch.submit_sub(blocks, TaskArgs().add_scalar("/dev/null"))

    return worker.submit(orchestrate)


def test_nobody_waits_for_room_to_take_a_callable_back(tmp_path: Path) -> None:  # C5, G6
    with Worker(3, num_sub_workers=1, max_tasks=7) as worker:
        gate, blocks = Gate(worker, tmp_path, "gate"), worker.register(wait_at_gate)
        one, two = worker.register(answer), worker.register(lambda args: 2)
        old = worker.submit(lambda orch, args, config: worker.unregister(one))
        full = fill(worker, gate, blocks)
        assert old.wait(0)  # though it is the one that sees that nobody needs the callable any more
        worker.unregister(two)
        assert is_in_table(worker, one)
        gate.open()
        full.result()
        for handle in (one, two):
            worker.unregister(worker.register(lambda args: 3))
            while is_in_table(worker, handle):
                worker.unregister(worker.register(lambda args: 3))


def test_a_callable_waits_for_the_place_of_one_that_is_going() -> None:  # C3
    with Worker(3, num_sub_workers=1, max_callables=1) as worker:

        def orchestrate(orch: Orchestrator, args: Any, config: Any) -> Any:
            handle = worker.register(answer)
            task = orch.submit_sub(handle)
            worker.unregister(handle)  # it goes when this run has ended
            return task

        for number in range(20):
            assert worker.run(orchestrate).result() == "answer"
            handle = worker.register(lambda args, number=number: number)  # at once
            assert call(worker, handle) == number
            worker.unregister(handle)


def test_a_callable_behind_a_busy_worker_holds_up_no_other(worker: Worker, tmp_path: Path) -> None:  # C6
    gate, blocks = Gate(worker, tmp_path, "gate"), worker.register(wait_at_gate)
    others = [worker.register(lambda args, number=number: number) for number in range(150)]
    run = worker.submit(lambda orch, args, config: gate.submit(orch, blocks))
    gate.wait_until_it_runs()
    with ThreadPoolExecutor(1) as threads:
        registering = threads.submit(worker.register, answer)
        while worker.stats().live < 2:
            os.sched_yield()
        for handle in others:
            worker.unregister(handle)
        assert not registering.done()
        gate.open()
        assert call(worker, registering.result(60)) == "answer"
    run.result()


def test_what_a_worker_cannot_load_is_told_by_name(worker: Worker) -> None:  # C3
    class Unloadable:
        def __call__(self, args: Any) -> None:
            raise AssertionError("never called")

        def __reduce__(self) -> Any:
            return int, ("no number",)

    with refused("CALLABLE_IMPORT_FAILED", r"Unloadable: sha256:\w+ cannot be loaded here") as caught:
        worker.register(Unloadable())
    assert caught.value.context["callable"].endswith("Unloadable")
