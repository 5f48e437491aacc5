"""What the daemon asks about a session, answered from its runner's event loop while user code runs beside it.

Rules
  1. An answer changes nothing, waits for nobody and is bounded: an orchestration function never notices a question.
  2. It goes to the daemon that asked. What that does not take at once is dropped, since it asks again.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

import msgspec

from simpler.error_record import encode_error
from simpler.errors import ArgumentError
from simpler.region import Region
from simpler.spawn_protocol import ancillary
from simpler.worker_stats import worker_stats
from simplerd.runner import control_protocol
from simplerd.runner.answers import Question, Stats, WorkerCounters
from simplerd.runner.control_protocol import Answer, Ask
from simplerd.sealed_memory import seal


class Questions:
    """Of one session. ``names``: of its workers, by id."""

    def __init__(self, region: Region, names: Mapping[int, str]) -> None:
        self._region, self._names = region, names

    def answer(self, ask: Ask, daemon: socket.socket) -> None:
        """Tells ``daemon``, a non-blocking socket, what it asked, or why that cannot be told."""
        try:
            text, failed = msgspec.json.encode(self._answer(ask)), False
        except Exception as error:  # whatever it is, it is the answer: the session goes on
            text, failed = encode_error(error, may_pickle=False), True
        memfd = seal(text, "answer")
        try:
            with contextlib.suppress(OSError):  # no room, or no daemon
                daemon.sendmsg([control_protocol.encode(Answer(ask.number, failed))], ancillary([memfd]))
        finally:
            os.close(memfd)

    def _answer(self, ask: Ask) -> msgspec.Struct:
        match ask.what:
            case Question.STATS.value:
                return self._stats()
        raise ArgumentError(
            f"this runner knows no answer to {ask.what!r}; it is of another release", code="UNSUPPORTED"
        )

    def _stats(self) -> Stats:
        counts = worker_stats(self._region, self._names)
        workers = [
            WorkerCounters(
                worker=worker,
                name=name,
                kind=info.kind.name.lower(),
                state=info.state.name.lower(),
                pid=info.pid,
                queued=info.queued,
                tasks=info.tasks,
                failures=info.failures,
                deaths=info.deaths,
                abandoned=info.abandoned,
            )
            for (worker, name), info in zip(self._names.items(), counts.workers, strict=True)
        ]
        return Stats(
            tasks=counts.tasks,
            failures=counts.failures,
            poisoned=counts.poisoned,
            cancelled=counts.cancelled,
            live=counts.live,
            runs_live=counts.runs_live,
            shared_queue=counts.shared_queue,
            heap_bytes=counts.heap_bytes,
            heap_used=counts.heap_used,
            heap_peak=counts.heap_peak,
            restarts=counts.restarts,
            workers=workers,
        )
