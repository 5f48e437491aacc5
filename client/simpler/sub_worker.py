"""A SUB worker: a process that runs Python callables, ``fn(args)``, one at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from simpler.args import DecodedArgs, ReceivedArgs, decode
from simpler.callable_loading import load
from simpler.content import Content
from simpler.errors import SimplerError
from simpler.imported_memory import FORGET, Places
from simpler.region import Region, Task
from simpler.region_records import Done
from simpler.result_record import EncodedResult, encode_result
from simpler.worker_process import WorkerSpec, run_worker


class SubExecutor:
    """Runs Python callables; each is loaded once."""

    source_file = __file__

    def __init__(self, heaps: Sequence[Region], spec: WorkerSpec) -> None:
        self._places, self._import_paths = Places(heaps), spec.import_paths
        self._functions: dict[bytes, Callable[[ReceivedArgs], Any]] = {}
        self._no_args = ReceivedArgs(heaps, DecodedArgs([], []))

    def load(self, content: Content) -> None:
        """Unpickles or imports the function."""
        self._functions[content.digest] = load(content, self._import_paths)

    def start(self) -> None:
        """It needs nothing else."""

    def unload(self, digest: bytes) -> None:
        """Forgets the function."""
        del self._functions[digest]

    def call(self, task: Task) -> Sequence[bytes | memoryview] | Done | None:
        """Calls the task's function; its return value, pickled, unless it is None or a record already."""
        args = self._received(task.args) if task.args else self._no_args
        value = self._functions[task.digest](args)
        if value is None or type(value) is Done:
            return value
        return value.parts if type(value) is EncodedResult else encode_result(value)

    def _received(self, payload: bytes) -> ReceivedArgs:
        decoded = decode(payload)
        if decoded.imports:
            self._places.admit(decoded.imports)
        return ReceivedArgs(self._places, decoded)

    def control(self, task: Task) -> None:
        """Forgets an import; a SUB worker takes no other requests."""
        match decode(task.args).scalars:
            case [str(request), int(place)] if request == FORGET:
                self._places.forget(place)
            case unknown:
                raise SimplerError(f"a SUB worker does not know the request {unknown}", code="UNSUPPORTED")

    def must_leave(self, error: BaseException) -> bool:
        """Never: what a callable raises harms nobody else."""
        return False


def main(argument: bytes, fds: list[int]) -> None:
    """Entry of the process."""
    random = sys.modules.get("numpy.random")
    if random is not None:  # loaded before the fork: without this every worker would draw the same numbers
        random.seed()
    run_worker(argument, fds, SubExecutor)
