"""The kill matrix: each step by each kill. The daemon stands at a step of an operation when the kill comes; afterwards
the program has what it asked for or a clear error, there is one session or none, and nothing is left once it is closed.

By hand: ``python -m tests.faults.kill_matrix [WORDS OF CELLS]`` goes on after a cell that fails.
"""

from __future__ import annotations

import itertools
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # by hand it is started from the top

from faults.numbered_program import RESULT_S, NumberedProgram
from faults.restart_scene import KEEP, Kill, RestartScene, kill_all
from simpler.errors import SessionLost, SimplerError, StartupError
from simplerd.fault_points import FaultPoint

DEVICE = 0


OPERATIONS = ("open", "close", "resume", "adopt", "end", "stop")


class Step(NamedTuple):
    """A point that the daemon comes to in an operation, after it has ``passed`` it so often."""

    operation: str
    point: FaultPoint
    passed: int = 0


COMMAND, DATA, MEMORY = range(3)
OPENING: tuple[FaultPoint, ...] = (
    "open:asked",
    "open:opened",
    "open:leased",
    "open:recorded",
    "open:forked",
    "open:started",
    "open:ready",
    "open:answering",
)
CLOSING: tuple[FaultPoint, ...] = ("close:asked", "close:closing", "record:writing", "close:stopping", "close:stopped")
ENDING: tuple[FaultPoint, ...] = ("end:gone", "end:released", "state:writing", "end:told", "end:removed")
ADOPTING: tuple[FaultPoint, ...] = (
    "adopt:begun",
    "adopt:spawner",
    "adopt:adopted",
    "adopt:connecting",
    "adopt:connected",
    "adopt:heard",
    "adopt:serving",
)
STEPS = (
    *(Step("open", point) for point in OPENING),
    *(Step("open", "record:writing", record) for record in range(3)),
    *(Step("open", "attach:asked", lane) for lane in (COMMAND, DATA, MEMORY)),
    *(Step("open", "attach:handed-over", lane) for lane in (COMMAND, DATA, MEMORY)),
    Step("resume", "resume:asked"),
    Step("resume", "resume:answering"),
    *(Step("close", point) for point in (*CLOSING, *ENDING, "close:answering")),
    *(Step("end", point) for point in ENDING),
    *(Step("adopt", point) for point in ADOPTING),
    Step("stop", "stop:told"),
    Step("stop", "stop:leaving"),
)


EVERY_TIME: tuple[FaultPoint, ...] = ("adopt:begun", "adopt:serving")
"""What a daemon that adopts always comes by, whatever it finds."""


class Cell(NamedTuple):
    """One death at one place. ``again_at``: where the next daemon dies, when two do."""

    step: Step
    kill: Kill
    again_at: FaultPoint

    def __str__(self) -> str:
        operation, point, passed = self.step
        return f"{operation}, {point}{f' ({passed} passed)' if passed else ''} x {self.kill.value}"


def cells() -> list[Cell]:
    """All of them."""
    adopting = itertools.cycle(EVERY_TIME)
    return [Cell(step, kill, next(adopting)) for step in STEPS for kill in Kill]


def diagonal() -> list[Cell]:
    """Each point once, in one of its steps, and with the kills in turn: what every run of the tests has time for."""
    every = cells()
    chosen = []
    for place, point in enumerate(dict.fromkeys(step.point for step in STEPS)):
        steps = [step for step in STEPS if step.point == point]
        step, kill = steps[place % len(steps)], list(Kill)[place % len(Kill)]
        chosen += [cell for cell in every if (cell.step, cell.kill) == (step, kill)]
    return chosen


class Walk:
    """Walks cells, one after the other, in one scene. A context manager."""

    def __init__(self, scene: RestartScene) -> None:
        self._scene = scene
        self._asking = ThreadPoolExecutor(1)
        self._operations = {
            "open": self._opening,
            "close": self._closing,
            "resume": self._resuming,
            "adopt": self._adopting,
            "end": self._ending,
            "stop": self._stopping,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._asking.shutdown()

    def walk(self, cell: Cell) -> None:
        """Fails the test when something is not as it must be."""
        try:
            self._walk(cell)
        except BaseException as failure:
            failure.add_note(f"in the cell: {cell}")
            raise

    def _walk(self, cell: Cell) -> None:
        program = NumberedProgram(self._scene.daemon.endpoint, self._scene.folder, device_ids=[DEVICE])
        try:
            with self._operations[cell.step.operation](program, cell):
                self._scene.wait_stopped()
                self._scene.kill(cell.kill, cell.again_at)
        finally:
            program.worker.close()
        self._scene.settle()
        found = self._scene.problems(program)
        assert not found, "\n".join(found)

    # ---- operations: they bring the daemon to its point, and look at what became of it after the kill

    @contextmanager
    def _opening(self, program: NumberedProgram, cell: Cell) -> Iterator[None]:
        self._scene.arm(cell.step.point, cell.step.passed)
        asked = self._asking.submit(program.worker.init)
        yield
        if cell.kill.spares_runner:
            asked.result(RESULT_S)
            program.do()
            return
        try:  # it may not have been forked yet
            asked.result(RESULT_S)
            program.do()
        except (SessionLost, StartupError) as error:
            assert_explained(error)

    @contextmanager
    def _closing(self, program: NumberedProgram, cell: Cell) -> Iterator[None]:
        program.worker.init()
        program.do()
        self._scene.arm(cell.step.point, cell.step.passed)
        asked = self._asking.submit(program.worker.close)
        yield
        asked.result(RESULT_S)

    @contextmanager
    def _resuming(self, program: NumberedProgram, cell: Cell) -> Iterator[None]:
        with self._in_flight(program, cell):
            self._scene.daemon.kill()
            self._scene.arm(cell.step.point, cell.step.passed)
            self._scene.daemon.begin_again()
            yield

    @contextmanager
    def _adopting(self, program: NumberedProgram, cell: Cell) -> Iterator[None]:
        with self._in_flight(program, cell):
            self._scene.daemon.kill()
            self._scene.arm(cell.step.point, cell.step.passed)
            self._scene.daemon.begin_again()
            yield

    @contextmanager
    def _stopping(self, program: NumberedProgram, cell: Cell) -> Iterator[None]:
        with self._in_flight(program, cell):
            self._scene.arm(cell.step.point, cell.step.passed)
            self._scene.daemon.process.terminate()
            yield
            if cell.kill is Kill.RUNNER:  # it went on, and left
                self._scene.daemon.process.wait(RESULT_S)
                self._scene.daemon.start_again()

    @contextmanager
    def _ending(self, program: NumberedProgram, cell: Cell) -> Iterator[None]:
        program.worker.init()
        program.do()
        self._scene.arm(cell.step.point, cell.step.passed)
        kill_all([program.runner])
        yield
        with pytest.raises(SessionLost) as raised:
            program.do()
        assert_explained(raised.value)

    @contextmanager
    def _in_flight(self, program: NumberedProgram, cell: Cell) -> Iterator[None]:
        """A task is being carried out all the while, which notices nothing."""
        program.worker.init()
        program.do()
        runner, gate = program.runner, self._scene.folder / f"gate-{program.runner}"
        task = program.begin(str(gate))
        program.wait_begun(task)
        yield
        gate.touch()
        if cell.kill.spares_runner:
            program.end(task)
            program.do()
            assert program.runner == runner
            return
        with pytest.raises(SessionLost) as raised:
            program.end(task)
        assert_explained(raised.value)


def assert_explained(error: SimplerError) -> None:
    """It says who died, or that nobody knows how, or that there was no daemon to ask for so long."""
    assert re.search(r"SIGKILL|how, nobody knows|and so was its daemon", str(error)), str(error)


def main(words: str) -> int:
    """All cells that have ``words`` in their names, each failure in a line or more; a scene anew after each."""
    wanted, failed = [cell for cell in cells() if words in str(cell)], 0
    left, since = list(wanted), time.monotonic()
    while left:
        with tempfile.TemporaryDirectory() as folder, RestartScene(Path(folder), KEEP) as scene, Walk(scene) as walk:
            while left:
                cell = left.pop(0)
                begun = time.monotonic()
                try:
                    walk.walk(cell)
                    print(f"{time.monotonic() - begun:5.1f} s  {cell}", flush=True)
                except BaseException:
                    print(f"{traceback.format_exc()}{scene.daemon.log.read_text()}FAILED {cell}\n", flush=True)
                    failed += 1
                    break
    print(f"{len(wanted)} cells, {failed} failed, {time.monotonic() - since:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
