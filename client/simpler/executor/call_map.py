"""``map``: inputs go out in chunks, results come back in order.

Rules
  1. Whoever iterates takes the inputs, and nobody else: an iterator of the program runs in no thread that it does not
     know. What was taken is sent by whoever learns that a chunk is over, so that a map goes on while nobody looks.
  2. With a buffer, at most that many inputs have been taken whose results have not been given; one more is taken for
     each result. Without, all are taken at once.
  3. What an input raises is raised in its place, after the results before it; that, a timeout, and the end of the
     iterator cancel what has not begun. An iterator that nobody has begun cancels nothing: its calls were submitted.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

from simpler import limits
from simpler.errors import StateError
from simpler.executor.chunk_sizes import ChunkSizes
from simpler.executor.future import CallFuture
from simpler.executor.progress import Progress

Arguments = tuple[Any, ...]


_live: weakref.WeakSet[CallMap] = weakref.WeakSet()
_live_lock = threading.RLock()  # a signal handler may begin a map, too


def live_maps() -> list[CallMap]:
    """Those that may still have something to send, of all executors."""
    with _live_lock:
        return list(_live)


def _send_rest() -> None:
    for call_map in live_maps():
        call_map.send_all()


# Before the calls of all executors are waited for, which was registered when the first of them was made.
threading._register_atexit(_send_rest)  # type: ignore[attr-defined]


class CallMap:
    """One ``map``. ``entrance``: the executor's. ``send``: submits a chunk; ``most_sent`` may be sent and not over.

    ``buffersize``: None to take all inputs at once.
    """

    def __init__(
        self,
        entrance: object,
        send: Callable[[list[Arguments]], CallFuture],
        inputs: Iterator[Arguments],
        sizes: ChunkSizes,
        *,
        buffersize: int | None,
        most_sent: int,
        progress: Progress | None,
    ) -> None:
        self.entrance = entrance
        self._send_chunk, self._inputs, self._sizes = send, inputs, sizes
        self._buffersize, self._most_sent, self._progress = buffersize, most_sent, progress
        self._room = buffersize or 0
        """How many inputs may be taken; this alone is for whoever iterates, and needs no lock."""
        self._lock = threading.RLock()  # a future that is done at once says so while its chunk is being sent
        self._waiting: deque[Arguments] = deque()
        """Taken and not sent."""
        self._all_taken = False
        self._chunks: deque[CallFuture] = deque()
        """Sent, in order, and not yet asked for their results."""
        self._sent: dict[CallFuture, tuple[int, float, float]] = {}
        """Those that are not over: how many inputs, when they were sent, and what that took, in seconds."""
        self._refused: BaseException | None = None
        """Why nothing can be sent any more."""
        self._sending = False
        self._is_cut = False
        """Whether inputs were lost for that."""

    def begin(self) -> None:
        """Takes the first inputs, and sends what may be sent. Raises what has them refused."""
        with _live_lock:
            _live.add(self)
        if self._buffersize is None:
            self._waiting.extend(self._inputs)
            self._all_taken = True
        if self._progress is not None:
            self._progress.begin(len(self._waiting) if self._all_taken else None)
        self._take()
        if self._is_cut and not self._chunks:
            assert self._refused is not None
            raise self._refused

    def results(self, deadline: float | None) -> Iterator[Any]:
        """The results in order. ``deadline``: on the clock of time.monotonic; after it, TimeoutError."""
        error: BaseException | None = None
        try:
            while (chunk := self._oldest()) is not None:
                values, error = self._outcome(chunk, deadline)
                del chunk
                values.reverse()
                if self._buffersize is None:
                    while values:
                        yield values.pop()  # which keeps nothing that was given
                while values:
                    self._room += 1
                    self._take()
                    yield values.pop()
                if error is not None:
                    raise error
        finally:
            del error  # whose traceback has this frame
            self._abandon()

    def send_all(self) -> None:
        """Sends whatever was taken: nothing can be sent any more once the executor is shut down."""
        with self._lock:
            self._most_sent = len(self._waiting) + len(self._sent)
            self._send(with_rest=True)
            self._refuse(StateError("the executor was shut down before all inputs of the map were taken"))

    def cut(self, reason: BaseException) -> None:
        """Sends nothing more; ``reason`` is what is raised in the place of those results."""
        with self._lock:
            self._refuse(reason)

    def _take(self) -> None:
        """Fills the buffer, and sends what fills a chunk."""
        taken = [] if self._all_taken else list(itertools.islice(self._inputs, self._room))
        with self._lock:
            self._all_taken = self._all_taken or len(taken) < self._room
            self._room -= len(taken)
            self._waiting.extend(taken)
            if self._refused is not None:
                self._refuse(self._refused)
            self._send(with_rest=self._all_taken)

    def _oldest(self) -> CallFuture | None:
        """The chunk whose results are next; None after the last one."""
        with self._lock:
            if not self._chunks or not self._chunks[0].done():
                self._send(with_rest=True)  # whoever iterates waits for that chunk, and takes no input meanwhile
            if self._chunks:
                return self._chunks[0]
            if self._is_cut:
                assert self._refused is not None
                raise self._refused
            return None

    def _outcome(self, chunk: CallFuture, deadline: float | None) -> tuple[list[Any], BaseException | None]:
        """Its results, and the error that came after them."""
        error = chunk.exception(None if deadline is None else max(0.0, deadline - time.monotonic()))
        self._over(chunk)
        with self._lock:  # until here, whatever is raised has it cancelled
            self._chunks.popleft()
        return (chunk.result(), None) if error is None else (list(chunk.results_before_error), error)

    def _send(self, *, with_rest: bool) -> None:
        """Sends while there is room; ``with_rest``: also what does not fill a chunk."""
        if self._sending:
            return
        self._sending = True
        try:
            while self._waiting and self._refused is None and len(self._sent) < self._most_sent:
                n_waiting = len(self._waiting)
                size = self._sizes.next_size(n_waiting if self._all_taken else None)
                if size > n_waiting and not with_rest:
                    return
                self._send_one([self._waiting.popleft() for _ in range(min(size, n_waiting))])
        finally:
            self._sending = False

    def _send_one(self, inputs: list[Arguments]) -> None:
        begun = time.perf_counter()
        try:
            chunk = self._send_chunk(inputs)
        except Exception as refused:
            self._is_cut = True
            self._refuse(refused)
            return
        self._sent[chunk] = (len(inputs), begun, time.perf_counter() - begun)
        self._chunks.append(chunk)
        chunk.add_done_callback(self._over)

    def _over(self, chunk: Future[Any]) -> None:
        """Learns from a chunk, and sends more. Called by whoever learns first that it is over, and by the other."""
        assert isinstance(chunk, CallFuture)
        with self._lock:
            n_inputs, begun, sending_s = self._sent.pop(chunk, (0, 0.0, 0.0))
            if n_inputs == 0:
                return
            has_failed = not chunk.cancelled() and chunk.exception() is not None
            metrics = chunk.metrics
            if metrics is not None and not has_failed:
                # Large results take time that no worker sees; others of the same worker were under way, too.
                all_s = (time.perf_counter() - begun) / limits.CHUNKS_PER_WORKER
                self._sizes.took(n_inputs, max(metrics.wall_s, sending_s, all_s))
            self._send(with_rest=self._all_taken or not self._sent)
            if self._progress is not None and not chunk.cancelled():
                n_done = len(chunk.results_before_error) if has_failed else n_inputs
                self._progress.advance(n_done, int(has_failed))
                if self._all_taken and not self._waiting and not self._sent:
                    self._progress.end()

    def _refuse(self, reason: BaseException) -> None:
        self._refused = self._refused or reason
        self._is_cut = self._is_cut or bool(self._waiting)
        self._waiting.clear()

    def _abandon(self) -> None:
        """Nobody wants the results that are left."""
        with self._lock:
            self._refuse(CancelledError())
            left = list(self._chunks)
            self._chunks.clear()
        for chunk in left:
            chunk.cancel()
        if self._progress is not None:
            self._progress.end()
