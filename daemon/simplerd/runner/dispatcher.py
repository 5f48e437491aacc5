"""What a session's command lane can ask for, carried out on the inner Worker.

Rules
  1. Every method is called in the orchestration thread, so the Worker sees one caller.
  2. What a task borrows (buffers, arrays sent along) it keeps until its run has ended, and gives back whatever happens.
  3. What it wrote into copies of other hosts' memory is back there before it counts as done.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol, TypeVar

from simpler import limits
from simpler.callables import validate_content
from simpler.errors import SimplerError
from simpler.inner_callables import InnerCallables, KnownCallable
from simpler.inner_worker import InnerWorker
from simpler.wire.command_messages import Push, Register, Task
from simpler.wire.control_messages import PROTOCOL_2
from simpler.wire.messages import Message, Request
from simpler.wire.task_args import RemoteArgs
from simplerd.runner.buffers import SessionBuffers
from simplerd.runner.control_protocol import Launch
from simplerd.runner.outputs import SessionOutputs
from simplerd.runner.received import Receiver
from simplerd.runner.sub_calls import SubCalls

ReplyT = TypeVar("ReplyT", bound=Message)


class DispatchedRun(NamedTuple):
    """One run of an orchestration function, numbered from 1 on; times are CLOCK_MONOTONIC nanoseconds."""

    number: int
    digest: bytes
    started_ns: int
    ended_ns: int
    succeeded: bool


class Program(Protocol):
    """The session's program, for the thread that carries out what it asks for."""

    @property
    def serving(self) -> int:
        """The sequence of the request that is being carried out."""

    def ask(self, request: Request[ReplyT]) -> ReplyT:
        """What it answers. Raises the error that it answers with, SessionLost when it is gone."""


class Dispatcher:
    """The session's callables and the runs of its orchestration functions."""

    def __init__(self, launch: Launch, worker: InnerWorker, buffers: SessionBuffers) -> None:
        assert worker.region is not None
        self._worker = worker
        self._outputs = SessionOutputs(worker.region, launch.session)
        self._receiver = Receiver(worker.region, buffers, self._outputs)
        self._callables = InnerCallables(worker, launch.import_paths, f"session {launch.session}")
        self.calls = SubCalls(launch, worker, self._callables, self._receiver, buffers)
        self.runs: deque[DispatchedRun] = deque(maxlen=limits.TRACE_EVENTS)
        """The last runs, for the trace."""
        self.running: tuple[bytes, int] | None = None
        """The digest of the orchestration function that runs, and since when (CLOCK_MONOTONIC nanoseconds)."""
        self._protocol = launch.protocol
        self.program: Program | None = None
        """Since there is a command lane."""
        worker.pass_pushes(self._push)

    def known(self) -> list[KnownCallable]:
        """The session's callables, for people; any thread may ask."""
        return self._callables.known()

    def register(self, request: Register, encoded: bytes) -> None:
        """Installs a callable wherever this session can use it. Raises RegistrationError, changing nothing."""
        install = self._callables.prepare if request.phase else self._callables.register
        install(validate_content(request.digest, encoded))

    def commit(self, digest: bytes) -> None:
        """Makes what was prepared visible. Raises RegistrationError when nothing was."""
        self._callables.commit(digest)

    def abort(self, digest: bytes) -> None:
        """Gives back what was prepared. Raises RegistrationError when nothing was."""
        self._callables.abort(digest)

    def unregister(self, digest: bytes) -> None:
        """Gives one reference back. Raises RegistrationError when there is none."""
        self._callables.unregister(digest)

    def drop(self, outputs: Sequence[int]) -> None:
        """Frees outputs that tasks made; see SessionOutputs."""
        self._outputs.drop(outputs)

    def run(self, task: Task) -> bytes | None:
        """Runs an orchestration function as ``InnerCallables.run`` does; the result record in one piece."""
        started_ns, succeeded = time.monotonic_ns(), False
        self.running = task.digest, started_ns
        try:
            with ExitStack() as borrowed:
                received = self._receiver.receive(RemoteArgs.decode(task.args), borrowed)
                if received.imports:
                    borrowed.enter_context(self._worker.given(received.imports))
                parts = self._callables.run(task.digest, received.args, None)
                for copy, tag, offset, nbytes in received.copied:
                    copy.after(tag, offset, nbytes)
                result = None if parts is None else b"".join(parts)  # they may lie in what is borrowed
            succeeded = True
            return result
        finally:
            self.running = None
            number = self.runs[-1].number + 1 if self.runs else 1
            self.runs.append(DispatchedRun(number, task.digest, started_ns, time.monotonic_ns(), succeeded))

    def _push(self, topic: str, record: bytes, when_room: object) -> bool:
        """Gives the program what an orchestration function pushes; waits until that has room for it."""
        if self._protocol < PROTOCOL_2 or self.program is None:
            raise SimplerError(
                f"orch.push needs protocol {PROTOCOL_2} or newer; the program speaks {self._protocol}: install the "
                "same release on both hosts",
                code="UNSUPPORTED",
            )
        self.program.ask(Push(task=self.program.serving, topic=topic, value=record))
        return True
