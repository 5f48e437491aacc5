"""Registering and unregistering Python callables with a local Worker."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from simpler import CallableHandle, Orchestrator, RemoteCallable, TaskArgs, Worker, limits
from simpler.errors import RegistrationError, SimplerError, StaleHandle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=2) as worker:
        yield worker


def call(worker: Worker, handle: CallableHandle | str) -> Any:
    return worker.run(lambda orch, args, config: orch.submit_sub(handle)).result()


def test_a_callable_registered_before_init_is_there_after_it() -> None:  # C3
    worker = Worker(3, num_sub_workers=1)
    handle = worker.register(lambda args: "early")
    with worker:
        assert call(worker, handle) == "early"


def test_register_returns_when_every_worker_has_loaded_it(worker: Worker, tmp_path: Path) -> None:  # C3
    """Loading leaves a file named after the process that loads."""

    class Marks:
        def __call__(self, args: Any) -> None:
            return None

        def __reduce__(self) -> Any:
            return leave_a_mark, (str(tmp_path),)

    worker.register(Marks())
    assert {int(path.name) for path in tmp_path.iterdir()} == {each.pid for each in worker.stats().workers}


def leave_a_mark(folder: str) -> Any:
    (Path(folder) / str(os.getpid())).touch()
    return print


def test_a_callable_that_cannot_be_loaded_is_refused_and_forgotten(worker: Worker) -> None:  # C3
    target = RemoteCallable("no_such_module_anywhere:function")
    for _ in range(2):
        with pytest.raises(RegistrationError, match="no_such_module_anywhere") as caught:
            worker.register(target)
        assert caught.value.code == "CALLABLE_IMPORT_FAILED"
    with pytest.raises(RegistrationError, match="not registered"):
        call(worker, target.hashid)


def test_two_handles_of_one_hashid_live_independently(worker: Worker) -> None:  # C3
    def twice(args: Any) -> str:
        return "twice"

    first, second = worker.register(twice), worker.register(twice)
    assert first.hashid == second.hashid
    assert first is not second
    worker.unregister(first)
    assert call(worker, second) == call(worker, second.hashid) == "twice"
    with pytest.raises(StaleHandle, match="unregistered"):
        call(worker, first)
    with pytest.raises(StaleHandle):
        worker.unregister(first)
    worker.unregister(second)
    with pytest.raises(RegistrationError, match="not registered"):
        call(worker, second.hashid)


def test_what_is_unregistered_is_given_back(worker: Worker) -> None:  # C3
    used = worker.stats().heap_used
    for number in range(50):
        worker.unregister(worker.register(lambda args, number=number: number))
    assert worker.stats().heap_used == used


def test_foreign_forged_and_changed_handles_are_refused(worker: Worker) -> None:  # C3
    handle = worker.register(lambda args: 1)
    foreign = Worker(3, num_sub_workers=1).register(lambda args: 1)
    with pytest.raises(StaleHandle, match="another Worker"):
        call(worker, foreign)
    with pytest.raises(RegistrationError, match=r"Worker\.register"):
        CallableHandle()
    forged = object.__new__(CallableHandle)
    changed = worker.register(lambda args: 2)
    object.__setattr__(changed, "digest", handle.digest)
    for bad in (forged, changed):
        with pytest.raises(RegistrationError) as caught:
            call(worker, bad)
        assert caught.value.code == "CALLABLE_HANDLE_MUTATED"
    with pytest.raises(RegistrationError) as caught:
        call(worker, "sha256:XYZ")
    assert caught.value.code == "HASHID_FORMAT_INVALID"


def test_registering_in_a_run_and_from_several_threads_is_safe(worker: Worker) -> None:  # C6
    answers: list[list[int]] = []

    def register_and_use(orch: Orchestrator, args: Any, config: Any) -> Any:
        refs = []
        for number in range(10):
            handle = worker.register(lambda args, number=number: number)
            refs.append(orch.submit_sub(handle))
        return refs

    def use() -> None:
        answers.append([ref.result() for ref in worker.run(register_and_use)])

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [list(range(10))] * 3


def test_registering_waits_for_room_when_a_run_has_taken_all_of_it(worker: Worker, tmp_path: Path) -> None:  # C6
    """More tasks than there are slots, none of which can start: submission waits, and so does register."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    block = worker.register(lambda args: Path(args.scalar(0)).read_text())
    work = worker.register(lambda args: None)

    def fill(orch: Orchestrator, args: Any, config: Any) -> None:
        first = [orch.submit_sub(block, TaskArgs().add_scalar(str(fifo)))]
        for _ in range(limits.TASKS):
            orch.submit_sub(work, after=first)

    with ThreadPoolExecutor(2) as threads:
        run = threads.submit(worker.run, fill)
        pipe = fifo.open("w")
        while worker.stats().live < limits.TASKS:
            assert not run.done()
            os.sched_yield()
        registered = threads.submit(worker.register, lambda args: "there was room")
        pipe.close()
        run.result(60)
        assert call(worker, registered.result(60)) == "there was room"


def test_what_cannot_be_serialized_is_named_by_path(worker: Worker) -> None:  # C7
    lock = threading.Lock()

    def outer(args: Any) -> Any:
        return lock

    with pytest.raises(RegistrationError, match="lock") as caught:
        worker.register(outer)
    assert caught.value.code == "CALLABLE_NOT_SERIALIZABLE"


def test_import_paths_bound_what_may_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # C4
    (tmp_path / "allowed").mkdir()
    for folder, module in ((tmp_path / "allowed", "inside_module"), (tmp_path, "outside_module")):
        (folder / f"{module}.py").write_text("def where(args):\n    return __name__\n")
        monkeypatch.syspath_prepend(str(folder))
    with Worker(3, num_sub_workers=1, import_paths=[str(tmp_path / "allowed")]) as worker:
        assert call(worker, worker.register(RemoteCallable("inside_module:where"))) == "inside_module"
        with pytest.raises(SimplerError, match="outside_module"):
            worker.register(RemoteCallable("outside_module:where"))


def hand_back(args: Any) -> Any:
    return args


def test_what_looks_into_shared_memory_is_refused_without_a_look_at_all_of_it(worker: Worker) -> None:  # C1, G10
    held: list[Any] = [worker]
    run = worker.submit(lambda orch, args, config: held.append(orch))
    for part in (*held, run):
        whole = rf"\.__defaults__\[0\] is of type {type(part).__name__}, "  # and no part of it that was found to refuse
        with pytest.raises(RegistrationError, match=whole):
            worker.register(lambda args, part=part: part)
    with pytest.raises(SimplerError, match="of type ReceivedArgs, which cannot be pickled"):
        call(worker, worker.register(hand_back))
    assert worker.region is not None
    with pytest.raises(TypeError, match="not copied as a whole"):
        pickle.dumps(worker.region)
