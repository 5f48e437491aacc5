"""Random programs on device memory give what they would give one step after the other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from session.devices.chip_program import INCREASE, INOUT, INPUT, OUTPUT_EXISTING, TOTAL, launch, numbers
from simpler import Orchestrator, Worker

pytestmark = pytest.mark.slow

LENGTH = 12


class Step(NamedTuple):
    """One step on the buffer or the array of a chip. ``first`` and ``length`` say on which numbers."""

    what: str
    chip: int
    first: int
    length: int
    by: int


@st.composite
def steps(draw: st.DrawFn) -> Step:
    what = draw(st.sampled_from(["increase", "increase array", "total", "copy to", "copy from", "write", "allocate"]))
    first = draw(st.integers(0, LENGTH - 1))
    length = draw(st.integers(1, LENGTH - first))
    return Step(what, draw(st.integers(0, 1)), first, length, draw(st.integers(1, 9)))


class Reference:
    """The same, one step after the other, on arrays: per chip a buffer, and one array that both share."""

    def __init__(self) -> None:
        self.buffers = np.zeros((2, LENGTH), "int64")
        self.array = np.zeros(LENGTH, "int64")

    def take(self, step: Step) -> None:
        part = slice(step.first, step.first + step.length)
        buffer = self.buffers[step.chip]
        match step.what:
            case "increase":
                buffer[part] += step.by
            case "increase array":
                self.array[part] += step.by
            case "total":
                self.array[step.first] = buffer[part].sum()
            case "copy to":
                buffer[part] = self.array[part]
            case "copy from":
                self.array[part] = buffer[part]
            case "write":
                buffer[part] = step.by
            case "allocate":
                buffer[:] = 0


class OnChips:
    """The steps as tasks and copies of a Worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.array = worker.array(LENGTH, "int64")
        self.buffers = [self._allocate(chip) for chip in (0, 1)]

    def _allocate(self, chip: int) -> Any:
        buffer = self.worker.malloc(worker=chip, nbytes=8 * LENGTH)
        self.worker.copy_to(buffer, bytes(8 * LENGTH))
        return buffer

    def take(self, orch: Orchestrator, step: Step) -> None:
        part, begin, chip = slice(step.first, step.first + step.length), 8 * step.first, step.chip
        buffer = self.buffers[chip]
        there = numbers(buffer, step.first, step.length)
        match step.what:
            case "increase":
                launch(orch, INCREASE, (there, INOUT), chip=chip, by=step.by)
            case "increase array":
                launch(orch, INCREASE, (self.array[part], INOUT), chip=chip, by=step.by)
            case "total":
                result = self.array[step.first :][:1]
                launch(orch, TOTAL, (there, INPUT), (result, OUTPUT_EXISTING), chip=chip)
            case "copy to":
                self.worker.copy_to(buffer, self.array[part], offset=begin)
            case "copy from":
                self.worker.copy_from(buffer, self.array[part], offset=begin)
            case "write":
                self.worker.copy_to(buffer, np.full(step.length, step.by, "int64"), offset=begin)
            case "allocate":
                self.worker.free(buffer)
                self.buffers[chip] = self._allocate(chip)

    def read(self) -> list[list[int]]:
        found = np.zeros((2, LENGTH), "int64")
        for chip, buffer in enumerate(self.buffers):
            self.worker.copy_from(buffer, found[chip])
            self.worker.free(buffer)
        return found.tolist()


@settings(max_examples=150, deadline=None, database=None)
@given(program=st.lists(steps(), max_size=25))
def test_the_result_is_that_of_one_step_after_the_other(worker: Worker, program: list[Step]) -> None:  # G1
    reference, chips = Reference(), OnChips(worker)

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        for step in program:
            chips.take(orch, step)

    for step in program:
        reference.take(step)
    worker.run(orchestrate)
    assert chips.array.tolist() == reference.array.tolist()
    assert chips.read() == reference.buffers.tolist()
