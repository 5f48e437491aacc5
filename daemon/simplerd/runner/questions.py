"""What the daemon asks about a session, answered from its runner's event loop while user code runs beside it.

Rules
  1. An answer changes nothing, waits for nobody and is bounded: an orchestration function never notices a question.
  2. It goes to the daemon that asked. What that does not take at once is dropped, since it asks again.
"""

from __future__ import annotations

import os

import msgspec

from simpler.error_record import encode_error
from simpler.errors import ArgumentError
from simplerd.runner.answers import Question, TraceFrom
from simplerd.runner.control_protocol import Answer, Ask
from simplerd.runner.daemon_socket import DaemonSocket
from simplerd.runner.session_view import SessionView
from simplerd.sealed_memory import seal


class Questions:
    """About the session that ``view`` looks into."""

    def __init__(self, view: SessionView) -> None:
        self._view = view

    def answer(self, ask: Ask, daemon: DaemonSocket) -> None:
        """Tells ``daemon`` what it asked, or why that cannot be told."""
        try:
            text, failed = msgspec.json.encode(self._answer(ask)), False
        except Exception as error:  # whatever it is, it is the answer: the session goes on
            text, failed = encode_error(error, may_pickle=False), True
        memfd = seal(text, "answer")
        try:
            daemon.send_now(Answer(ask.number, failed), [memfd])
        finally:
            os.close(memfd)

    def _answer(self, ask: Ask) -> msgspec.Struct:
        match ask.what:
            case Question.STATS.value:
                return self._view.stats()
            case Question.TASKS.value:
                return self._view.tasks()
            case Question.TRACE.value:
                return self._view.trace(msgspec.convert(ask.params, TraceFrom))
            case Question.BUFFERS.value:
                return self._view.buffers()
            case Question.CALLABLES.value:
                return self._view.callables()
        raise ArgumentError(
            f"this runner knows no answer to {ask.what!r}; it is of another release", code="UNSUPPORTED"
        )
