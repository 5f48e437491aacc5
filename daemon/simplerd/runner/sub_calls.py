"""SUB_CALLs: callables that a session's client has run by the session's SUB workers, beside one another and all else.

Rules
  1. Each is a task of one completion stream, begun in the order in which they came, and answered when it has ended.
  2. What a call borrows it keeps until it is answered.
  3. When no SUB worker will come back, because their spawner has died, calls are answered that the session is lost: its
     client then gives it up.
  4. A call that the client does not wait for any more, because its lane has ended, is not begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import NamedTuple, NoReturn, TypeVar

from simpler import limits
from simpler.args import encode
from simpler.completion_stream import CompletionStream, Ended, StreamLost
from simpler.descriptors import format_hashid
from simpler.error_record import decode_error
from simpler.errors import CapacityError, SessionLost, SimplerError, StateError, WorkerDied
from simpler.inner_callables import InnerCallables
from simpler.inner_worker import InnerWorker
from simpler.region import ANY_SUB, RegionClosed, TaskState
from simpler.wire.command_messages import SubCall, SubCallReply
from simpler.wire.messages import Message
from simpler.wire.task_args import RemoteArgs
from simpler.wire.unanswered import Call
from simplerd.runner.buffers import SessionBuffers
from simplerd.runner.control_protocol import Launch
from simplerd.runner.located import located
from simplerd.runner.received import Receiver

T = TypeVar("T")
_LOST = "a process was killed while it changed the task graph; whether the call has run is not known"


class _Begun(NamedTuple):
    call: Call
    digest: bytes
    borrowed: ExitStack


class SubCalls:
    """Those of one session; used in the orchestration thread."""

    def __init__(
        self,
        launch: Launch,
        worker: InnerWorker,
        callables: InnerCallables,
        receiver: Receiver,
        buffers: SessionBuffers,
    ) -> None:
        assert worker.region is not None
        self._where = {"host": launch.host, "session": launch.session}
        self._worker, self._callables = worker, callables
        self._receiver, self._buffers = receiver, buffers
        n_chips = len(launch.manifest.device_ids)
        self._workers = range(n_chips, n_chips + launch.manifest.num_sub_workers)
        self._region = worker.region
        self._stream: CompletionStream | None = None
        """Since the first call."""
        self._begun: dict[int, _Begun] = {}
        self._lost: list[_Begun] = []
        """Those of a stream that was lost."""

    @property
    def fd(self) -> int:
        """Readable when some may have ended since it was read."""
        return self._worker.ends_fd

    @property
    def are_under_way(self) -> bool:
        """Whether any is."""
        return bool(self._begun or self._lost)

    def begin(self, call: Call) -> None:
        """Has a worker run it. Raises what refuses it at once."""
        request = call.request
        assert isinstance(request, SubCall)
        self._located(partial(self._begin, call, request), call, request.digest)

    def _begin(self, call: Call, request: SubCall) -> None:
        self._callables.check_on_subs(request.digest)
        with ExitStack() as borrowed:
            received = self._receiver.receive(RemoteArgs.decode(request.args), borrowed)
            if received.imports:
                raise SimplerError("a SUB_CALL uses memory of its own session only, no imports", code="UNSUPPORTED")
            payload = encode(received.decoded.tensors, received.decoded.scalars)
            try:
                task = self._submit(request, payload)
            except RegionClosed:
                self._begin_again()
                task = self._submit(request, payload)
            self._begun[task] = _Begun(call, request.digest, borrowed.pop_all())

    def _submit(self, request: SubCall, payload: bytes) -> int:
        if self._stream is None:
            self._stream = self._region.stream_begin(notify=True)
        return self._stream.submit(ANY_SUB, request.digest, payload, timeout_ns=request.timeout_ns)

    def _begin_again(self) -> None:
        """The stream is lost: which of its tasks have run is not known; they are not run again."""
        self._stream = None
        self._lost += self._begun.values()
        self._begun.clear()

    def ended(self) -> Iterator[tuple[Call, Message | Exception]]:
        """Those that have ended, each with its answer, or the error that is it."""
        try:
            while self._begun and self._stream is not None and (ended := self._stream.reap()):
                for each in ended:
                    begun = self._begun.pop(each.task)
                    with begun.borrowed:
                        yield begun.call, self._answer(each, begun)
                self._stream.forget(ended[0].task, len(ended))
        except StreamLost:
            self._begin_again()
        while self._lost:
            begun = self._lost.pop()
            with begun.borrowed:
                yield begun.call, self._failure(begun, WorkerDied(_LOST))

    def look_after_workers(self) -> None:
        """What nobody runs any more has ended then."""
        self._worker.look_after_workers()

    def end(self) -> None:
        """What has not begun never will; nobody waits for any of them."""
        if self._stream is not None:
            with suppress(RegionClosed):
                self._stream.cancel()
        self._begin_again()
        for begun in self._lost:
            begun.borrowed.close()

    def _answer(self, ended: Ended, begun: _Begun) -> Message | Exception:
        if ended.state == TaskState.SUCCEEDED:
            return self._reply(ended)
        if ended.record:
            error = decode_error(bytes(self._region.view(ended.record, ended.nbytes)))
            if isinstance(error, WorkerDied) and self._has_no_workers():
                error = SessionLost(f"the session has no SUB workers any more: {error.message}")
            return self._failure(begun, error)
        if ended.state == TaskState.CANCELLED:
            return self._failure(begun, StateError("the session ends"))
        full = "the call failed, and the session's heap had no room for its error; raise heap_bytes"
        return self._failure(begun, CapacityError(full))

    def _has_no_workers(self) -> bool:
        return all(self._region.worker_info(worker).abandoned for worker in self._workers)

    def _reply(self, ended: Ended) -> SubCallReply:
        if not ended.record:
            return SubCallReply()
        if ended.nbytes <= limits.INLINE_RESULT_BYTES:
            return SubCallReply(result=bytes(self._region.view(ended.record, ended.nbytes)))
        self._region.ref(ended.record)
        buffer, generation = self._buffers.adopt(ended.record, ended.nbytes)
        return SubCallReply(buffer=buffer, generation=generation, nbytes=ended.nbytes)

    def _failure(self, begun: _Begun, error: SimplerError) -> Exception:
        try:
            self._located(partial(_raise, error), begun.call, begun.digest)
        except Exception as located_error:
            return located_error

    def _located(self, work: Callable[[], T], call: Call, digest: bytes) -> T:
        return located(work, **self._where, sequence=call.header.sequence, hashid=format_hashid(digest))


def _raise(error: SimplerError) -> NoReturn:
    raise error
