"""A lane from the runner of a session at another daemon: copies out of and into the range that it was granted."""

from __future__ import annotations

import time
from contextlib import ExitStack

from simpler.errors import AccessDenied, ArgumentError, SimplerError
from simpler.tensor import Access
from simpler.wire.control_messages import Attach, AttachReply
from simpler.wire.data_messages import CopyFrom, CopyFromReply, CopyTo, CopyToReply
from simpler.wire.frames import Buffer
from simpler.wire.import_messages import Release, ReleaseReply
from simpler.wire.link import Link
from simpler.wire.messages import Message
from simpler.wire.serving import Handler
from simplerd.runner.buffers import Held


class ImporterLane(Handler):
    """COPY_TO, COPY_FROM and RELEASE of the granted range, which is buffer 0, generation 0 here.

    ``holding`` keeps the range: until RELEASE, and no longer than the lane.
    """

    def __init__(self, held: Held, access: Access, holding: ExitStack) -> None:
        self._held, self._access, self._holding = held, access, holding

    def place(self, link: Link, request: Message, nbytes: int) -> memoryview:
        """The bytes that COPY_TO writes."""
        if not isinstance(request, CopyTo):
            raise SimplerError(f"{request.TYPE.name} carries no data on a peer lane", code="UNSUPPORTED")
        return self._range(request, nbytes, Access.WRITE)

    async def serve(self, link: Link, request: Message, data: memoryview) -> Message | tuple[Message, Buffer]:
        """The bytes of COPY_TO are there already; those of COPY_FROM go out of the heap."""
        match request:
            case Attach():
                return AttachReply(clock_ns=time.monotonic_ns(), start=self._held.offset)
            case CopyTo():
                return CopyToReply()
            case CopyFrom():
                return CopyFromReply(), self._range(request, request.nbytes, Access.READ)
            case Release():
                self._access = Access.NONE
                self._holding.close()
                return ReleaseReply()
        raise SimplerError(f"{request.TYPE.name} does not belong on a peer lane", code="UNSUPPORTED")

    def _range(self, request: CopyTo | CopyFrom, nbytes: int, access: Access) -> memoryview:
        held = self._held
        if not access & self._access:
            raise AccessDenied(f"the grant does not allow {access.name}, or was given back")
        if request.buffer or request.generation or request.offset + nbytes > held.nbytes:
            raise ArgumentError(
                f"bytes {request.offset} to {request.offset + nbytes} of buffer {request.buffer}; a peer lane has the "
                f"granted {held.nbytes} bytes, as buffer 0 of generation 0"
            )
        return held.memory.view(held.offset + request.offset, nbytes)
