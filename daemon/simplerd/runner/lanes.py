"""A session's two lanes, as its client uses them: one ordered for commands, one for bulk data.

Rules
  1. The command lane is served one request after the other, as they came; each is carried out in the orchestration
     thread before the next begins.
  2. The data lane works on the session's heap itself: bytes go from the socket to the buffer and back without a copy in
     between. A buffer is held from the moment its bytes are announced until they are through, or the lane breaks.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from simpler import limits
from simpler.descriptors import format_hashid
from simpler.errors import ArgumentError, SimplerError
from simpler.region import Region
from simpler.wire.command_messages import (
    Abort,
    AbortReply,
    Commit,
    CommitReply,
    Free,
    FreeReply,
    Malloc,
    MallocReply,
    Register,
    RegisterReply,
    Task,
    TaskReply,
    Trace,
    Unregister,
    UnregisterReply,
)
from simpler.wire.control_messages import Attach, AttachReply
from simpler.wire.data_messages import CopyFrom, CopyFromReply, CopyTo, CopyToReply, Locate, LocateReply
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
from simpler.wire.link import Link
from simpler.wire.messages import Message
from simpler.wire.serving import Handler
from simplerd.runner.buffers import Held, SessionBuffers
from simplerd.runner.control_protocol import Launch
from simplerd.runner.dispatcher import Dispatcher
from simplerd.runner.grants import Grants
from simplerd.runner.imports import Imports
from simplerd.runner.located import located
from simplerd.runner.orchestration_thread import OrchestrationThread
from simplerd.runner.session_trace import SessionTrace

T = TypeVar("T")


class CommandLane(Handler):
    """TASK, REGISTER, COMMIT, ABORT, UNREGISTER, MALLOC, FREE, GRANT, REVOKE, IMPORT, RELEASE, TRACE."""

    def __init__(
        self,
        launch: Launch,
        thread: OrchestrationThread,
        dispatcher: Dispatcher,
        *,
        buffers: SessionBuffers,
        grants: Grants,
        imports: Imports,
        trace: SessionTrace,
    ) -> None:
        self._where = {"host": launch.host, "session": launch.session}
        self._thread = thread
        self._dispatcher = dispatcher
        self._buffers = buffers
        self._grants = grants
        self._imports = imports
        self._trace = trace

    def place(self, link: Link, request: Message, nbytes: int) -> memoryview:
        """Room for the content of a callable."""
        if nbytes > limits.CALLABLE_BYTES:
            raise ArgumentError(f"a callable of {nbytes} bytes; at most {limits.CALLABLE_BYTES} are taken")
        return memoryview(bytearray(nbytes))

    async def serve(self, link: Link, request: Message, data: memoryview) -> Message | tuple[Message, Buffer]:
        """Carries the request out and gives its reply."""
        match request:
            case Attach():
                return AttachReply(clock_ns=time.monotonic_ns())
            case Task():
                result = await self._call(partial(self._dispatcher.run, request), request.digest)
                return TaskReply(result=result)
            case Register():
                work = partial(self._dispatcher.register, request, bytes(data))
                await self._call(work, request.digest)
                return RegisterReply()
            case Commit():
                await self._call(partial(self._dispatcher.commit, request.digest), request.digest)
                return CommitReply()
            case Abort():
                await self._call(partial(self._dispatcher.abort, request.digest), request.digest)
                return AbortReply()
            case Unregister():
                await self._call(partial(self._dispatcher.unregister, request.digest), request.digest)
                return UnregisterReply()
            case Malloc():
                buffer, generation = await self._call(partial(self._buffers.malloc, request.nbytes))
                return MallocReply(buffer=buffer, generation=generation)
            case Free():
                await self._call(partial(self._buffers.free, request.buffer, request.generation))
                return FreeReply()
            case Grant():
                return GrantReply(secret=await self._call(partial(self._grants.give, request)))
            case Revoke():
                await self._call(partial(self._grants.revoke, request.secret))
                return RevokeReply()
            case Import():
                buffer, generation = await self._call(lambda: self._buffers.add_import(self._imports.get(request)))
                return ImportReply(buffer=buffer, generation=generation)
            case Release():
                await self._call(partial(self._buffers.release, request.buffer, request.generation))
                return ReleaseReply()
            case Trace():
                return await self._call(partial(self._trace.since, request.since_ns))
        raise SimplerError(f"{request.TYPE.name} does not belong on a command lane", code="UNSUPPORTED")

    async def _call(self, work: Callable[[], T], digest: bytes | None = None) -> T:
        hashid = {"hashid": format_hashid(digest)} if digest is not None else {}
        return await self._thread.call(partial(located, work, **self._where, **hashid))


class DataLane(Handler):
    """COPY_TO, COPY_FROM and LOCATE."""

    def __init__(self, region: Region, buffers: SessionBuffers) -> None:
        self._region = region
        self._buffers = buffers

    def place(self, link: Link, request: Message, nbytes: int) -> memoryview:
        """The bytes of the buffer that COPY_TO writes."""
        if not isinstance(request, CopyTo):
            raise SimplerError(f"{request.TYPE.name} carries no data on a data lane", code="UNSUPPORTED")
        return self._view(self._buffers.hold(request.buffer, request.generation, request.offset, nbytes))

    async def serve(self, link: Link, request: Message, data: memoryview) -> Message | tuple[Message, Buffer]:
        """The bytes of COPY_TO are there already; those of COPY_FROM go out of the heap."""
        match request:
            case Attach():
                return AttachReply(clock_ns=time.monotonic_ns())
            case CopyTo():
                return CopyToReply()
            case CopyFrom():
                held = self._buffers.hold(request.buffer, request.generation, request.offset, request.nbytes)
                return CopyFromReply(), self._view(held)
            case Locate():
                offset, nbytes = self._buffers.locate(request.buffer, request.generation)
                return LocateReply(offset=self._region.file_offset + offset, nbytes=nbytes)
        raise SimplerError(f"{request.TYPE.name} does not belong on a data lane", code="UNSUPPORTED")

    def _view(self, held: Held) -> memoryview:
        """The held bytes, given back when nobody looks at them any more, however that comes about."""
        view = self._region.view(held.offset, held.nbytes)
        weakref.finalize(view, held.release).atexit = False
        return view
