"""What the daemon asks runners about their sessions, and their answers.

Rules
  1. Who asks waits for the answer until ANSWER_TIMEOUT_S; a runner whose interpreter user code holds may take longer,
     and holds up nobody else.
  2. A runner has run user code: an answer is read with bounds on its size and checked against its type, and one that
     nobody waits for is dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import trio

from simpler import limits
from simpler.error_record import decode_error
from simpler.errors import CapacityError, ProtocolError, SessionLost, SimplerError, StateError
from simplerd.first_of import first_of
from simplerd.runner.answers import Question
from simplerd.runner.control_protocol import Answer, Ask
from simplerd.runner_process import Runner
from simplerd.sealed_memory import unseal
from simplerd.sessions import Session, SessionState

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


class _Asked:
    """A question that waits: `heard` once there is an answer in `text`, or an error in `failure`."""

    def __init__(self, session: str, max_bytes: int) -> None:
        self.session = session
        self.max_bytes = max_bytes
        self.heard = trio.Event()
        self.text = b""
        self.failure: SimplerError | None = None


class Inquiries:
    """To the live `runners`, by session. Belongs to the trio thread."""

    def __init__(self, runners: Mapping[str, Runner], *, timeout_s: float = limits.ANSWER_TIMEOUT_S) -> None:
        self._runners = runners
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}

    async def ask(
        self,
        session: Session,
        question: Question,
        answer: type[AnswerT],
        params: Mapping[str, Any] | None = None,
        *,
        of: int = 1,
    ) -> AnswerT:
        """What the session's runner answers. `of`: how many sessions are asked the same, and share ANSWERS_BYTES.

        Raises StateError when the session is not READY, its runner does not answer in time or is not listened to any
        more (RUNNER_SILENT), CapacityError for more than its share, SessionLost when it ends meanwhile, ProtocolError
        for an answer that is none, and what the runner itself says.
        """
        runner = self._runners.get(session.id)
        if runner is None or session.state is not SessionState.READY:
            why = f"session {session.id} is {session.state.value}; it can be looked into while it is ready"
            raise StateError(why, session=session.id)
        if runner.violation is not None:
            raise _silent(session, f"is not listened to any more, since it broke the protocol: {runner.violation}")
        number = next(self._numbers)
        asked = self._asked[number] = _Asked(session.id, limits.ANSWERS_BYTES // max(1, of))
        try:
            with trio.fail_after(self._timeout_s):
                await runner.is_ready.wait()
                await runner.send(Ask(number, question.value, dict(params or {})))
                await first_of(asked.heard.wait, runner.exited.wait)
        except trio.TooSlowError:
            raise _silent(
                session,
                f"did not answer within {self._timeout_s:g} s; code of the session may hold its interpreter, or it may "
                "be stopped",
            ) from None
        except (OSError, trio.ClosedResourceError) as error:
            raise self._lost(session, str(error)) from None
        finally:
            del self._asked[number]
        if asked.failure is not None:
            raise asked.failure
        if not asked.heard.is_set():
            raise self._lost(session, "it has ended")
        return _decoded(session, asked.text, question, answer)

    def answered(self, session: Session, report: Answer, fds: list[int]) -> None:
        """The session's runner has answered; `fds` stay the caller's. Raises ProtocolError for what is no answer."""
        if len(fds) != 1:
            raise ProtocolError(f"a runner answered with {len(fds)} descriptors instead of one")
        asked = self._asked.get(report.number)
        if asked is None or asked.session != session.id:
            return
        text = unseal(fds[0], "an answer of a runner", limits.ANSWER_BYTES)
        if len(text) > asked.max_bytes:
            asked.failure = CapacityError(
                f"session {session.id} answered with {len(text)} bytes, where {asked.max_bytes} are for each of those "
                "that were asked; ask for this session alone"
            )
        elif report.failed:
            asked.failure = decode_error(text, trust_pickle=False)
        asked.text = text
        asked.heard.set()

    def _lost(self, session: Session, why: str) -> SessionLost:
        return SessionLost(f"the runner of session {session.id} could not be asked: {why}", session=session.id)


def _silent(session: Session, why: str) -> StateError:
    return StateError(
        f"the runner of session {session.id} (pid {session.pid}) {why}", code="RUNNER_SILENT", session=session.id
    )


def _decoded(session: Session, text: bytes, question: Question, answer: type[AnswerT]) -> AnswerT:
    try:
        return msgspec.json.decode(text, type=answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(
            f"the runner of session {session.id} answered {question.value!r} with something else: {error}",
            session=session.id,
        ) from None
