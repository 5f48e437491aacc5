"""Several threads register, use and unregister the same few callables in live runs, while workers are killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import Any

import pytest

from simpler import CallableHandle, Orchestrator, Worker
from simpler.errors import RegistrationError, SimplerError, StaleHandle, WorkerDied
from simpler.region import WorkerState

pytestmark = pytest.mark.slow

N_CALLABLES, N_THREADS, N_KILLS = 4, 3, 20
TRANSIENT = {"REGISTER_TOMBSTONE_ACTIVE", "UNREGISTER_TOMBSTONE_ACTIVE"}


def make(number: int) -> Any:
    def returns_its_number(args: Any) -> int:
        return number

    return returns_its_number


AT_WORK = {WorkerState.SPINNING, WorkerState.PARKED, WorkerState.RUNNING}
CALLABLES = [make(number) for number in range(N_CALLABLES)]


class Program:
    """One thread: a few handles that it holds, and what went wrong that may not."""

    def __init__(self, worker: Worker, seed: int) -> None:
        self.worker, self.random = worker, random.Random(seed)
        self.held: list[tuple[int, CallableHandle]] = []
        self.wrong: list[object] = []
        self.done = 0

    def run(self, over: threading.Event) -> None:
        while not over.is_set():
            try:
                self.random.choice((self.register, self.use, self.use_then_unregister, self.unregister))()
            except WorkerDied:  # who was killed had just been given it
                continue
            except RegistrationError as error:
                if error.code not in TRANSIENT:
                    self.wrong.append(error)
            except SimplerError as error:
                self.wrong.append(error)
        for _, handle in self.held:
            self.worker.unregister(handle)

    def register(self) -> None:
        number = self.random.randrange(N_CALLABLES)
        self.held.append((number, self.worker.register(CALLABLES[number])))

    def use(self) -> None:
        chosen = [self.random.choice(self.held) for _ in range(3) if self.held]

        def orchestrate(orch: Orchestrator, args: Any, config: Any) -> Any:
            return [orch.submit_sub(handle) for _, handle in chosen]

        refs = self.worker.run(orchestrate)
        self.check([number for number, _ in chosen], [ref.result() for ref in refs])

    def unregister(self) -> None:
        while self.held:
            self.worker.unregister(self.held.pop()[1])

    def use_then_unregister(self) -> None:
        if not self.held:
            return
        number, handle = self.held.pop(self.random.randrange(len(self.held)))

        def orchestrate(orch: Orchestrator, args: Any, config: Any) -> Any:
            refs = [orch.submit_sub(handle) for _ in range(3)]
            self.worker.unregister(handle)
            return refs

        refs = self.worker.run(orchestrate)
        self.check([number] * 3, [ref.result() for ref in refs])
        try:
            self.worker.unregister(handle)
        except StaleHandle:
            return
        self.wrong.append(f"{handle} was taken back twice")

    def check(self, expected: list[int], found: list[Any]) -> None:
        self.done += 1
        if expected != found:
            self.wrong.append((expected, found))


def kill(worker: Worker, programs: list[Program]) -> None:
    """One worker after the other, each when its predecessor has been replaced and everybody has got on."""
    choose = random.Random(7)
    for kills in range(1, N_KILLS + 1):
        os.kill(choose.choice(worker.stats().workers).pid, signal.SIGKILL)
        while worker.stats().restarts < kills or not all(each.state in AT_WORK for each in worker.stats().workers):
            time.sleep(0.001)
        while any(program.done < 3 * kills for program in programs):
            time.sleep(0.001)


def test_threads_and_deaths_leave_the_registry_whole() -> None:  # C6, C3, W4
    with Worker(3, num_sub_workers=2, max_callables=N_CALLABLES) as worker:
        programs, over = [Program(worker, seed) for seed in range(N_THREADS)], threading.Event()
        threads = [threading.Thread(target=program.run, args=(over,)) for program in programs]
        for thread in threads:
            thread.start()
        kill(worker, programs)
        over.set()
        for thread in threads:
            thread.join(60)
        assert [program.wrong for program in programs] == [[]] * N_THREADS
        for number, target in enumerate(CALLABLES):
            handle = worker.register(target)
            assert worker.run(lambda orch, args, config, handle=handle: orch.submit_sub(handle)).result() == number
            worker.unregister(handle)
        assert worker.region is not None
        assert list(worker.region.callables) == []
        worker.region.check()
