"""A session's lane for bulk data, as its client uses it: copies to and from buffers.

It works on the session's heap itself: bytes go from the socket to the buffer and back without a copy in between. A
buffer is held from the moment its bytes are announced until they are through, or the lane breaks.
"""

from __future__ import annotations

import time
import weakref

from simpler.errors import SimplerError
from simpler.region import Region
from simpler.wire.control_messages import Attach, AttachReply
from simpler.wire.data_messages import CopyFrom, CopyFromReply, CopyTo, CopyToReply, Locate, LocateReply
from simpler.wire.frames import Buffer, MessageType
from simpler.wire.link import Link
from simpler.wire.messages import Message
from simpler.wire.serving import Handler
from simplerd.runner.buffers import Held, SessionBuffers
from simplerd.runner.refusal_reports import RefusalReports


class DataLane(Handler):
    """COPY_TO, COPY_FROM and LOCATE."""

    def __init__(self, region: Region, buffers: SessionBuffers, refusals: RefusalReports) -> None:
        self._region = region
        self._buffers = buffers
        self._refusals = refusals

    def refused(self, link: Link, kind: MessageType, error: Exception) -> None:
        """For the daemon's log."""
        self._refusals.report(link.name, error)

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
