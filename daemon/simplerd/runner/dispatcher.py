"""What a session's command lane can ask for, carried out on the inner Worker.

Rules
  1. Every method is called in the orchestration thread, so the Worker sees one caller.
  2. A Python callable is loaded here, where it may be an orchestration function, and registered with the inner Worker
     too when that has sub-workers; a kernel is registered with the inner Worker alone. Registering twice counts twice.
  3. What a task borrows (buffers, arrays sent along) it keeps until its run has ended, and gives back whatever happens.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from simpler import limits
from simpler.args import DecodedArgs, ReceivedArgs, TensorRecord
from simpler.callables import CallableHandle, CallableKind, load, validate_content
from simpler.descriptors import format_hashid
from simpler.errors import RegistrationError
from simpler.region import Region
from simpler.result_record import encode_result
from simpler.run import TaskRef
from simpler.tensor import DataType, TensorArgType
from simpler.wire.messages import Task
from simpler.wire.task_args import BufferTensor, InlineTensor, RemoteArgs
from simpler.worker import Worker
from simplerd.runner.buffers import SessionBuffers
from simplerd.runner.control_protocol import Launch


class DispatchedRun(NamedTuple):
    """One run of an orchestration function; times are CLOCK_MONOTONIC nanoseconds."""

    digest: bytes
    started_ns: int
    ended_ns: int
    succeeded: bool


class _Registered:
    """A callable of the session. `function` is None for kernels, `handles` empty where only the dispatcher has it."""

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self.function = function
        self.references = 0
        self.handles: list[CallableHandle] = []


class Dispatcher:
    """The session's callables and the runs of its orchestration functions."""

    def __init__(self, launch: Launch, worker: Worker, buffers: SessionBuffers, import_paths: Sequence[str]) -> None:
        assert worker.region is not None
        self._launch = launch
        self._worker = worker
        self._region: Region = worker.region
        self._buffers = buffers
        self._import_paths = list(import_paths)
        self._registered: dict[bytes, _Registered] = {}
        self.runs: deque[DispatchedRun] = deque(maxlen=limits.TRACE_EVENTS)
        """The last runs, for the trace."""

    def register(self, digest: bytes, encoded: bytes) -> None:
        """Installs a callable wherever this session can use it. Raises RegistrationError, changing nothing."""
        content = validate_content(digest, encoded)
        entry = self._registered.get(digest)
        if entry is None:
            entry = _Registered(None if content.kind is CallableKind.CHIP else load(content, self._import_paths))
        if self._inner_takes(content.kind, content.hashid):
            entry.handles.append(self._worker.register(content))
        entry.references += 1
        self._registered[digest] = entry

    def unregister(self, digest: bytes) -> None:
        """Gives one reference back. Raises RegistrationError when there is none."""
        entry = self._find(digest)
        if entry.handles:
            self._worker.unregister(entry.handles.pop())
        entry.references -= 1
        if entry.references == 0:
            del self._registered[digest]

    def run(self, task: Task) -> bytes | None:
        """Runs an orchestration function to the end of its graph; gives the result record of what it returned, if any,
        or of what the task returned whose TaskRef it returned.

        Raises whatever it or its tasks raised.
        """
        started_ns, succeeded = time.monotonic_ns(), False
        try:
            function = self._find(task.digest).function
            if function is None:
                raise RegistrationError(
                    f"{format_hashid(task.digest)} is a kernel, which a session runs only inside an orchestration "
                    "function: submit a Python function that calls orch.submit_next_level",
                    code="CALLABLE_KIND_UNSUPPORTED",
                )
            with ExitStack() as borrowed:
                args = self._receive(RemoteArgs.decode(task.args), borrowed)
                value = self._worker.run(function, args)
                if isinstance(value, TaskRef):  # it means nothing outside of the session; what its task returned does
                    value = value.result()
            result = None if value is None else b"".join(encode_result(value))
            succeeded = True
            return result
        finally:
            self.runs.append(DispatchedRun(task.digest, started_ns, time.monotonic_ns(), succeeded))

    # ---- arguments

    def _receive(self, remote: RemoteArgs, borrowed: ExitStack) -> ReceivedArgs:
        tensors = []
        for tensor in remote.tensors:
            offset = self._place(tensor, borrowed)
            tag, dtype = TensorArgType(tensor.tag), DataType(tensor.dtype)
            tensors.append(TensorRecord(tag, dtype, tensor.shape, None, 0, offset, tensor.nbytes))
        return ReceivedArgs([self._region], DecodedArgs(tensors, remote.scalars))

    def _place(self, tensor: BufferTensor | InlineTensor, borrowed: ExitStack) -> int:
        """Heap offset of the tensor's first byte."""
        if isinstance(tensor, InlineTensor):
            offset = self._region.store(tensor.data)
            borrowed.callback(self._region.unref, offset)
            return offset
        held = self._buffers.hold(tensor.buffer, tensor.generation, tensor.offset, tensor.nbytes)
        borrowed.callback(held.release)
        return held.offset

    # ---- registry

    def _find(self, digest: bytes) -> _Registered:
        entry = self._registered.get(digest)
        if entry is None:
            hashid = format_hashid(digest)
            raise RegistrationError(
                f"{hashid} is not registered in session {self._launch.session}",
                code="CALLABLE_NOT_REGISTERED",
                hashid=hashid,
            )
        return entry

    def _inner_takes(self, kind: CallableKind, hashid: str) -> bool:
        manifest = self._launch.manifest
        if kind is not CallableKind.CHIP:
            return manifest.num_sub_workers > 0
        if not manifest.device_ids:
            raise RegistrationError(
                f"{hashid} is a kernel, and session {self._launch.session} has no chip to run it; "
                "give the session devices (device_ids)",
                code="CALLABLE_KIND_UNSUPPORTED",
                hashid=hashid,
            )
        return True
