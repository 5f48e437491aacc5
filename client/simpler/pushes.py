"""What orchestration functions push while their run goes on, until the program's listeners have been told.

Rules
  1. Values of one run are told in the order in which they came, each topic to its listeners: by one thread at a time.
  2. What somebody listens to waits until it is told, up to PUSHES_WAITING values and PUSH_BYTES_WAITING of one run;
     whoever pushes more waits for room. One value alone always has room.
  3. Of what nobody listens to, the last PUSHES_KEPT values of a run are kept for who does so later; older ones are
     dropped, which is said once.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from simpler import limits
from simpler.errors import ArgumentError, CapacityError
from simpler.result_record import decode_result, encode_result

_log = logging.getLogger("simpler.pushes")
Listener = Callable[[object], object]
Put = Callable[[str, bytes, Callable[[], object]], bool]
"""Takes a topic and a record as ``RunPushes.put`` does."""
Take = Callable[[int, str, bytes, Callable[[], object]], bool]
"""The same for a run, by its id."""


class RunPushes:
    """Those of one run. Any thread may call; values are records (result_record.py)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[str, list[Listener]] = {}
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._waiting_bytes = 0
        self._kept: deque[tuple[str, bytes]] = deque()
        self._kept_bytes = 0
        self._wants_room: list[Callable[[], object]] = []
        self._has_dropped = False
        self._is_telling = False

    def put(self, topic: str, record: bytes, when_room: Callable[[], object]) -> bool:
        """Takes a value. False when there is no room for it: ``when_room`` is called once there may be."""
        with self._lock:
            if topic not in self._listeners:
                self._keep(topic, record)
                return True
            is_full = (
                len(self._waiting) >= limits.PUSHES_WAITING
                or self._waiting_bytes + len(record) > limits.PUSH_BYTES_WAITING
            )
            if self._waiting and is_full:
                self._wants_room.append(when_room)
                return False
            self._wait_for_telling(topic, record)
        return True

    def listen(self, topic: str, listener: Listener) -> None:
        """Has ``tell`` call ``listener`` for what was pushed under ``topic``, what was kept of it first."""
        with self._lock:
            self._listeners.setdefault(topic, []).append(listener)
            others: deque[tuple[str, bytes]] = deque()
            for kept, record in self._kept:
                if kept == topic:
                    self._kept_bytes -= len(record)
                    self._wait_for_telling(topic, record)
                else:
                    others.append((kept, record))
            self._kept = others

    def tell(self) -> bool:
        """Calls the listeners for all that waits; whether anything did. False where somebody does so already, who goes
        on until nothing waits. What listeners raise is logged, but for what is no Exception.
        """
        told = is_mine = False
        try:
            with self._lock:
                if self._is_telling:
                    return False
                self._is_telling = is_mine = True
            while self._tell_next():
                told = True
            is_mine = False
            return told
        finally:
            if is_mine:  # interrupted
                self._is_telling = False

    def _tell_next(self) -> bool:
        with self._lock:
            if not self._waiting:
                self._is_telling = False
                return False
            topic, record = self._waiting.popleft()
            self._waiting_bytes -= len(record)
            listeners = list(self._listeners[topic])
            wants_room, self._wants_room = self._wants_room, []
        for when_room in wants_room:
            when_room()
        _tell(topic, record, listeners)
        return True

    def _wait_for_telling(self, topic: str, record: bytes) -> None:
        self._waiting.append((topic, record))
        self._waiting_bytes += len(record)

    def _keep(self, topic: str, record: bytes) -> None:
        kept = self._kept
        kept.append((topic, record))
        self._kept_bytes += len(record)
        while len(kept) > limits.PUSHES_KEPT or (len(kept) > 1 and self._kept_bytes > limits.PUSH_BYTES_WAITING):
            oldest, dropped = kept.popleft()
            self._kept_bytes -= len(dropped)
            if not self._has_dropped:
                self._has_dropped = True
                _log.warning(
                    "nobody listens to what is pushed as %r (RunHandle.on_push); the oldest is dropped", oldest
                )


def push_record(topic: str, value: object) -> bytes:
    """The record of a value to push. Raises ArgumentError for what is too large, TaskError for what cannot be sent."""
    record = b"".join(encode_result(value, f"what is pushed as {topic!r}"))
    if len(record) > limits.PUSH_BYTES:
        raise ArgumentError(
            f"what is pushed as {topic!r} takes {len(record)} bytes; at most {limits.PUSH_BYTES} do: return larger "
            "values, or put them into buffers"
        )
    return record


def no_room(topic: str) -> CapacityError:
    """The error for whoever has waited long enough."""
    return CapacityError(
        f"what was pushed as {topic!r} found no room within {limits.PUSH_TIMEOUT_S:g} s: the listeners of its run "
        f"(RunHandle.on_push) have yet to be told {limits.PUSHES_WAITING} values or {limits.PUSH_BYTES_WAITING} bytes"
    )


def check_topic(topic: object) -> None:
    """Raises ArgumentError for what is no topic."""
    if not isinstance(topic, str) or not 0 < len(topic.encode(errors="replace")) <= limits.PUSH_TOPIC_BYTES:
        raise ArgumentError(f"a topic is a text of 1 to {limits.PUSH_TOPIC_BYTES} bytes, such as 'loss', not {topic!r}")


def _tell(topic: str, record: bytes, listeners: list[Listener]) -> None:
    for listener in listeners:
        try:
            listener(decode_result(record, "the value"))  # each has its own
        except Exception:
            _log.exception("what was to be told of a push as %r raised", topic)
