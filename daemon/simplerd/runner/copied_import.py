"""Memory of a session at another daemon that this one uses: a copy in its own heap, made anew for each task.

Rules
  1. What a task may read is fetched from the owner's runner before the task; what it writes is stored there before the
     task is answered. The client orders the tasks of all sessions by the owner's bytes, so nobody changes them between.
  2. Only the bytes of the task's tensors travel, and from runner to runner.
  3. A task that may not read what it writes has to write all of it: the rest is undefined. One that failed stores
     nothing.
  4. The lane to the owner's runner is the import: when it ends, tasks that name the import fail with the cause.
  5. Two imports are two copies. A task that names the same bytes by both, and writes them, is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from simpler import limits
from simpler.errors import ProtocolError, SessionLost, SimplerError
from simpler.region import Region
from simpler.remote.transfers import copy_from, copy_to
from simpler.tensor import Access, TensorArgType
from simpler.wire.frames import Reason
from simpler.wire.import_messages import Release
from simpler.wire.link import Link
from simplerd.runner.trio_calls import TrioCalls


class CopiedImport:
    """An import of this session, until its last holder has let go. For the orchestration thread.

    ``block``: of the session's heap, which belongs to this from here on. ``owner``: the number of the owner's session,
    and where in its memory the import begins.
    """

    kind, place = "copied", 0

    def __init__(
        self,
        region: Region,
        block: int,
        nbytes: int,
        access: Access,
        *,
        owner: tuple[int, int],
        lane: Link,
        trio_calls: TrioCalls,
    ) -> None:
        self.memory, self.offset, self.nbytes, self.access = region, block, nbytes, access
        self._owner, self._lane, self._trio_calls = owner, lane, trio_calls
        self._holds = 1

    def take(self) -> Callable[[], None]:
        """One more holder; it calls what this returns, once. Raises SessionLost when the lane to the owner is over."""
        if self._lane.cause is not None:
            raise SessionLost(
                f"the imported memory cannot be reached any more: {self._lane.cause}. If its owner still lives, "
                "release the import (remote_release_import) and import it again"
            )
        self._holds += 1
        return self.drop

    def drop(self) -> None:
        """One holder less; the last returns once the owner has let go."""
        self._holds -= 1
        if self._holds:
            return
        try:
            self._trio_calls.call(self._hang_up)
        except SimplerError:  # the owner or this session is ending, and the lane with it
            return
        finally:
            self.memory.unref(self.offset)

    def shares(self, offset: int, nbytes: int, other: CopiedImport, other_offset: int, other_nbytes: int) -> bool:
        """Whether bytes of the heap are copies of the same bytes as those of another import."""
        (owner, start), (others, others_start) = self._owner, other._owner
        if other is self or owner != others:
            return False
        begin, others_begin = start + offset - self.offset, others_start + other_offset - other.offset
        return begin < others_begin + other_nbytes and others_begin < begin + nbytes

    def before(self, tag: TensorArgType, offset: int, nbytes: int) -> None:
        """Fetches what a task is to find at ``offset`` of the heap. Raises SessionLost, ConnectError, and UNSUPPORTED
        for a tag that orders nothing: there would be no right moment to fetch and to store.
        """
        if tag is TensorArgType.NO_DEP:
            raise SimplerError(
                "NO_DEP is not possible for memory that is imported from another daemon: the copy is made and brought "
                "back by the order of tasks. Tag it INPUT or INOUT",
                code="UNSUPPORTED",
            )
        if tag is not TensorArgType.OUTPUT and Access.READ in self.access:
            self._exchange(copy_from, offset, nbytes)

    def after(self, tag: TensorArgType, offset: int, nbytes: int) -> None:
        """Stores what a task has written there. Raises SessionLost, ConnectError."""
        if Access.WRITE in tag.ordering:
            self._exchange(copy_to, offset, nbytes)

    def _exchange(self, copy: Callable[..., Awaitable[None]], offset: int, nbytes: int) -> None:
        if nbytes:
            data = self.memory.view(offset, nbytes)
            work = partial(copy, self._lane, buffer=0, generation=0, offset=offset - self.offset, data=data)
            try:
                self._trio_calls.call(work)
            except ProtocolError as broken:
                if broken.context.get("reason") != Reason.TRUNCATED:
                    raise
                raise SessionLost(f"{self._lane.name} is gone, while imported memory was copied") from broken

    async def _hang_up(self) -> None:
        try:
            await self._lane.request(Release(buffer=0, generation=0), timeout_s=limits.HANG_UP_TIMEOUT_S)
        finally:
            await self._lane.aclose()
