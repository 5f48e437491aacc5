"""What a session's client asks of it on the command lane, each in its turn, carried out in the orchestration thread.

SUB_CALL is begun in its turn, and answered when it has ended: see sub_calls.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from simpler import limits
from simpler.descriptors import format_hashid
from simpler.errors import ArgumentError, SimplerError
from simpler.wire.command_messages import (
    Abort,
    AbortReply,
    Commit,
    CommitReply,
    Drop,
    DropReply,
    Free,
    FreeReply,
    Malloc,
    MallocReply,
    Register,
    RegisterReply,
    SubCall,
    Task,
    TaskReply,
    Trace,
    Unregister,
    UnregisterReply,
)
from simpler.wire.control_messages import Attach, AttachReply, Ping, PingReply
from simpler.wire.frames import Buffer
from simpler.wire.import_messages import (
    Grant,
    GrantReply,
    Import,
    ImportReply,
    Release,
    ReleaseReply,
    Revoke,
    RevokeReply,
)
from simpler.wire.messages import Message
from simpler.wire.unanswered import Call
from simplerd.runner.buffers import SessionBuffers
from simplerd.runner.control_protocol import Launch
from simplerd.runner.dispatcher import Dispatcher, Program
from simplerd.runner.grants import Grants
from simplerd.runner.imports import Imports
from simplerd.runner.located import located
from simplerd.runner.session_trace import SessionTrace
from simplerd.runner.sub_calls import SubCalls

T = TypeVar("T")


class CommandLane:
    """TASK, SUB_CALL, REGISTER, COMMIT, ABORT, UNREGISTER, MALLOC, FREE, DROP, GRANT, REVOKE, IMPORT, RELEASE, TRACE,
    and PING."""

    def __init__(
        self,
        launch: Launch,
        dispatcher: Dispatcher,
        *,
        buffers: SessionBuffers,
        grants: Grants,
        imports: Imports,
        trace: SessionTrace,
    ) -> None:
        self._where = {"host": launch.host, "session": launch.session}
        self._dispatcher = dispatcher
        self._buffers = buffers
        self._grants = grants
        self._imports = imports
        self._trace = trace
        self._program: Program

    def asks(self, program: Program) -> None:
        """Says whom orchestration functions may ask for something: the other end of the lane."""
        self._program = self._dispatcher.program = program

    def place(self, request: Message, nbytes: int) -> memoryview:
        """Room for the content of a callable."""
        if nbytes > limits.CALLABLE_BYTES:
            raise ArgumentError(f"a callable of {nbytes} bytes; at most {limits.CALLABLE_BYTES} are taken")
        return memoryview(bytearray(nbytes))

    @property
    def later(self) -> SubCalls:
        """What is answered when it has ended."""
        return self._dispatcher.calls

    def serve(self, call: Call) -> Message | tuple[Message, Buffer] | None:
        """Carries the request out and gives its reply; None: see ``later``. An error raised here is the reply."""
        match request := call.request:
            case SubCall():
                self._dispatcher.calls.begin(call)
                return None
            case Task():
                return TaskReply(result=self._call(partial(self._dispatcher.run, request), request.digest))
            case Attach():
                return AttachReply(clock_ns=time.monotonic_ns())
            case Register():
                self._call(partial(self._dispatcher.register, request, bytes(call.data)), request.digest)
                return RegisterReply()
            case Commit():
                self._call(partial(self._dispatcher.commit, request.digest), request.digest)
                return CommitReply()
            case Abort():
                self._call(partial(self._dispatcher.abort, request.digest), request.digest)
                return AbortReply()
            case Unregister():
                self._call(partial(self._dispatcher.unregister, request.digest), request.digest)
                return UnregisterReply()
            case Malloc():
                buffer, generation = self._call(partial(self._buffers.malloc, request.nbytes))
                return MallocReply(buffer=buffer, generation=generation)
            case Free():
                self._call(partial(self._buffers.free, request.buffer, request.generation))
                return FreeReply()
            case Drop():
                self._call(partial(self._dispatcher.drop, request.outputs))
                return DropReply()
            case Grant():
                return GrantReply(secret=self._call(partial(self._grants.give, request)))
            case Revoke():
                self._call(partial(self._grants.revoke, request.secret))
                return RevokeReply()
            case Import():
                buffer, generation = self._call(lambda: self._buffers.add_import(self._imports.get(request)))
                return ImportReply(buffer=buffer, generation=generation)
            case Release():
                self._call(partial(self._buffers.release, request.buffer, request.generation))
                return ReleaseReply()
            case Ping():
                return PingReply()
            case Trace():
                return self._call(partial(self._trace.since, request.since_ns))
        raise SimplerError(f"{call.header.type.name} does not belong on a command lane", code="UNSUPPORTED")

    def _call(self, work: Callable[[], T], digest: bytes | None = None) -> T:
        hashid = {"hashid": format_hashid(digest)} if digest is not None else {}
        return located(work, **self._where, sequence=self._program.serving, **hashid)
