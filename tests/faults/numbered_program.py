"""A program whose tasks have numbers, which they note where they are carried out: so none is lost or done twice unseen.

Sessions import this file, too.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

from simpler import CallableHandle, Orchestrator, RemoteWorkerSpec, RunHandle, TaskArgs, Worker
from simpler.errors import SimplerError

HEAP_BYTES = 1 << 24
DEFAULTS: dict[str, Any] = {"heap_bytes": HEAP_BYTES, "import_paths": [str(Path(__file__).parents[1])]}
RESULT_S = 30.0
_programs = itertools.count()


def carry_out(orch: Orchestrator, args: Any, config: object = None) -> list[Any]:
    """Notes number 0 in the file 1, waits for the file 2 if there is a name; says in which session, and process."""
    with Path(args.scalar(1)).open("a") as notes:
        notes.write(f"{args.scalar(0)}\n")
    gate = args.scalar(2)
    while gate and not Path(gate).exists():
        time.sleep(0.002)
    return [Path.cwd().name, os.getpid()]


class NumberedProgram:
    """A Worker with one session at ``endpoint``. ``folder``: for its tasks' notes; ``spec``: see RemoteWorkerSpec."""

    def __init__(self, endpoint: str, folder: Path, **spec: Any) -> None:
        self.worker = Worker(level=4, heap_bytes=HEAP_BYTES)
        self.worker.add_remote_worker(RemoteWorkerSpec(endpoint, **(DEFAULTS | spec)))
        self.sessions: set[str] = set()
        self.runner = 0
        """The pid that the last task was carried out by."""
        self.answered: set[int] = set()
        self.failed: set[int] = set()
        self._notes = folder / f"carried-out-{next(_programs)}"
        self._notes.touch()
        self._count = 0
        self._task: CallableHandle | None = None
        self._begun: dict[int, RunHandle] = {}

    def begin(self, gate: str = "") -> int:
        """The next task, by its number; it ends once the file ``gate`` is there."""
        if self._task is None:
            self._task = self.worker.register(carry_out)
        task, self._count = self._task, self._count + 1
        args = TaskArgs().add_scalar(self._count).add_scalar(str(self._notes)).add_scalar(gate)
        self._begun[self._count] = self.worker.submit(lambda orch, a, c: orch.submit_next_level(task, args, worker=0))
        return self._count

    def end(self, number: int) -> None:
        """Waits for the task. Raises its error."""
        try:
            session, self.runner = self._begun.pop(number).result(timeout=RESULT_S).result()
        except SimplerError:
            self.failed.add(number)
            raise
        self.sessions.add(session)
        self.answered.add(number)

    def do(self) -> None:
        """One task. Raises its error."""
        self.end(self.begin())

    def carried_out(self) -> list[int]:
        """The numbers that its tasks have noted, as they came."""
        return [int(line) for line in self._notes.read_text().split()]

    def wait_begun(self, number: int, timeout_s: float = RESULT_S) -> None:
        """Until the task is being carried out."""
        deadline = time.monotonic() + timeout_s
        while number not in self.carried_out():
            assert time.monotonic() < deadline, f"task {number} was not begun"
            time.sleep(0.002)
