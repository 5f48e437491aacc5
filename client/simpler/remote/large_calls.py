"""SUB_CALLs whose arguments or results are too large to be sent along: they lie in buffers of the session meanwhile.

Rules
  1. Where the session's memory is mapped here, a copy is one in memory, in pieces between which the loop goes on; else
     it goes over the data lane.
  2. Together the arguments of calls leave SPARE_FOR_RESULTS of the session's heap free, those that are sent along, too:
     a call whose result found no room would keep its worker, and the calls behind it what they lie in. One alone may
     take all there is.
  3. One call at a time has buffers made. Where the session's heap has no room for all of them it gives back those it
     has, and waits until another call has ended; with none under way it is refused.
  4. Buffers are given back as soon as the call is answered, and nobody waits for that.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from simpler import limits
from simpler.args import DecodedArgs, TensorRecord
from simpler.errors import ArgumentError, CapacityError, SimplerError
from simpler.region import Region
from simpler.region_records import Done, TaskState
from simpler.remote.transfers import copy_from, copy_to
from simpler.tensor import TensorArgType
from simpler.wire.command_messages import Free, Malloc, MallocReply, SubCallReply
from simpler.wire.control_messages import PROTOCOL_2
from simpler.wire.task_args import BufferTensor, InlineTensor, RemoteArgs

if TYPE_CHECKING:
    from simpler.remote.session import RemoteSession

_log = logging.getLogger("simpler.remote")


class LargeCalls:
    """Those of one session; used in its loop. Refers to nobody who has it: a closed session's memory goes at once."""

    def __init__(self, session: RemoteSession, region: Region) -> None:
        self._session, self._region = session, region
        self._making = trio.Lock()
        self._asking = self._fetching = 0
        """How many have no buffers yet, and how many results are still being copied."""
        self._held_bytes = 0
        """Of arguments, in the session."""
        self._over = trio.Event()
        """A call has ended; then there is another event."""

    def check(self) -> None:
        """Raises SimplerError UNSUPPORTED when the session takes no SUB_CALL."""
        self._session.require_protocol(PROTOCOL_2, "a call of a session's SUB workers")

    def sent_along(self, args: DecodedArgs) -> RemoteArgs | None:
        """The arguments with small tensors in them; None where ``send`` has to see to them. Raises as it does.

        Of what there are tensors in, ``give_back`` is to be told.
        """
        if not args.tensors:
            return RemoteArgs(scalars=list(args.scalars))
        for tensor in args.tensors:
            _check(tensor)
        nbytes = _tensor_bytes(args)
        if nbytes > limits.INLINE_BYTES or not self._leaves_room(nbytes):
            return None
        self._held_bytes += nbytes
        return RemoteArgs(tensors=[self._inline(tensor) for tensor in args.tensors], scalars=list(args.scalars))

    def _leaves_room(self, nbytes: int) -> bool:
        return self._held_bytes + nbytes <= self._session.heap_bytes * (1 - limits.SPARE_FOR_RESULTS)

    def _inline(self, tensor: TensorRecord) -> InlineTensor:
        return InlineTensor(
            tag=tensor.tag.value,
            dtype=tensor.dtype.value,
            shape=list(tensor.shape),
            data=bytes(self._region.view(tensor.offset, tensor.nbytes)),
        )

    async def send(self, args: DecodedArgs, under_way: Callable[[], int]) -> tuple[RemoteArgs, list[MallocReply]]:
        """The arguments with their tensors in the session, and the buffers that these are in, for ``give_back``.

        ``under_way``: how many calls the pump has taken and not seen end.

        Raises CapacityError where the session has no room at all, ArgumentError for a tensor that is no plain input.
        """
        self._asking += 1
        try:
            async with self._making:
                buffers = await self._made(args, under_way)
        finally:
            self._asking -= 1
        try:
            for tensor, buffer in zip(args.tensors, buffers, strict=True):
                await self._copy(buffer, self._region.view(tensor.offset, tensor.nbytes), into=True)
        except BaseException:
            self.give_back(args, buffers)
            raise
        remote = RemoteArgs(tensors=[*map(_described, args.tensors, buffers)], scalars=list(args.scalars))
        return remote, buffers

    async def _made(self, args: DecodedArgs, under_way: Callable[[], int]) -> list[MallocReply]:
        nbytes = _tensor_bytes(args)
        while True:
            await self._session.ensure_usable()
            is_alone, over = under_way() == self._asking and not self._fetching, self._over
            if is_alone or self._leaves_room(nbytes):
                self._held_bytes += nbytes
                made: list[MallocReply] = []
                try:
                    for tensor in args.tensors:
                        made.append((await self._session.request(Malloc(nbytes=tensor.nbytes)))[0])
                    return made
                except CapacityError:
                    self.give_back(args, made)
                    if is_alone:
                        raise
                except BaseException:
                    self.give_back(args, made)
                    raise
            await over.wait()  # no deadline: the calls that have the room may take any time

    def give_back(self, args: DecodedArgs, buffers: Sequence[MallocReply] = ()) -> None:
        """What the tensors of one call took in the session, once; without waiting."""
        self._held_bytes -= _tensor_bytes(args)
        for buffer in buffers:
            self._free(buffer.buffer, buffer.generation)

    def one_is_over(self) -> None:
        """A call has ended, and what it had is given back; or it is lost with its session."""
        if self._asking:
            self._over.set()
            self._over = trio.Event()

    async def fetch(self, reply: SubCallReply) -> Done:
        """The result, now in the program's heap. Raises CapacityError where that has no room for long."""
        record = 0
        self._fetching += 1
        try:
            record = await self._alloc(reply.nbytes)
            await self._copy(reply, self._region.view(record, reply.nbytes), into=False)
            return Done(TaskState.SUCCEEDED, record, reply.nbytes)
        except BaseException:
            if record:
                self._region.unref(record)
            raise
        finally:
            self._fetching -= 1
            self._free(reply.buffer, reply.generation)
            self.one_is_over()

    async def _alloc(self, nbytes: int) -> int:
        deadline = trio.current_time() + limits.RESULT_ROOM_S
        while True:
            try:
                return self._region.alloc(nbytes)
            except CapacityError as full:
                if nbytes > self._region.heap_bytes or trio.current_time() > deadline:
                    full.message = f"no room for a result of {nbytes} bytes: {full.message}"
                    raise
            await trio.sleep(limits.RESULT_LOOK_S)  # nobody tells the loop when results are let go

    async def _copy(self, buffer: MallocReply | SubCallReply, data: memoryview, *, into: bool) -> None:
        """``data`` into the buffer, or the buffer into ``data``."""
        place = await self._session.locate(buffer.buffer, buffer.generation)
        memory = self._session.memory
        if place is None or memory is None:
            over_lane = copy_to if into else copy_from
            work = partial(over_lane, buffer=buffer.buffer, generation=buffer.generation, offset=0, data=data)
            await self._session.on_data_lane(work)
            return
        copy = memory.copy_to if into else memory.copy_from
        for begin in range(0, len(data), limits.CHUNK_BYTES):
            copy(place + begin, data[begin : begin + limits.CHUNK_BYTES])
            await trio.lowlevel.checkpoint()

    def _free(self, buffer: int, generation: int) -> None:
        self._session.ask_first(Free(buffer=buffer, generation=generation), _freed)
        self._session.ring()


def _tensor_bytes(args: DecodedArgs) -> int:
    """Of all its tensors."""
    return sum(tensor.nbytes for tensor in args.tensors)


def _check(tensor: TensorRecord) -> None:
    if tensor.tag is not TensorArgType.INPUT or tensor.place or tensor.nbytes != _plain_bytes(tensor):
        raise ArgumentError("a call to a session takes arrays of the program's heap, tagged INPUT and without gaps")


def _plain_bytes(tensor: TensorRecord) -> int:
    return -1 if tensor.strides else math.prod(tensor.shape) * tensor.dtype.itemsize


def _described(tensor: TensorRecord, buffer: MallocReply) -> BufferTensor:
    return BufferTensor(
        tag=tensor.tag.value,
        dtype=tensor.dtype.value,
        shape=list(tensor.shape),
        buffer=buffer.buffer,
        generation=buffer.generation,
        offset=0,
    )


def _freed(refusal: SimplerError | None) -> None:
    if refusal is not None:
        _log.warning("a buffer of a call could not be freed: %s", refusal.message)
