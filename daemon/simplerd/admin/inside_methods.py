"""The methods that look into sessions: what they run, hold and know. Their runners answer."""

from typing import Annotated, Any, TypeVar

import trio
from msgspec import Meta, Struct

from simpler.errors import SimplerError
from simplerd.admin.method import Caller, Method, Role, Text
from simplerd.admin.session_methods import SessionName
from simplerd.runner.answers import Buffers, Callables, Question, Stats, Tasks, TraceFrom, TracePage
from simplerd.sessions import Session, SessionState

AnswerT = TypeVar("AnswerT", bound=Struct)


class TraceQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which page of a session's trace."""

    session: Annotated[Text, Meta(description="its id, from session.list")]
    begin: Annotated[TraceFrom, Meta(description="`next` of the page before; by default from the beginning")] = (
        TraceFrom()
    )


class SessionChoice(Struct, frozen=True, forbid_unknown_fields=True):
    """One session, or all that are ready."""

    session: Annotated[Text, Meta(description="its id; null: all that are ready")] | None = None


class HeldBuffers(Struct, frozen=True):
    """The buffers of one session, or why it did not tell them."""

    session: str
    held: Buffers | None
    problem: str | None = None


class KnownCallables(Struct, frozen=True):
    """The callables of one session, or why it did not tell them."""

    session: str
    known: Callables | None
    problem: str | None = None


async def session_stats(caller: Caller, params: SessionName) -> Stats:
    return await _ask(caller, params.session, Question.STATS, Stats)


async def session_tasks(caller: Caller, params: SessionName) -> Tasks:
    return await _ask(caller, params.session, Question.TASKS, Tasks)


async def session_trace(caller: Caller, params: TraceQuery) -> TracePage:
    begin = {"tasks": params.begin.tasks, "runs": params.begin.runs}
    return await _ask(caller, params.session, Question.TRACE, TracePage, begin)


async def buffer_list(caller: Caller, params: SessionChoice) -> list[HeldBuffers]:
    answers = await _ask_all(caller, params, Question.BUFFERS, Buffers)
    return [HeldBuffers(session, answer, problem) for session, answer, problem in answers]


async def callable_list(caller: Caller, params: SessionChoice) -> list[KnownCallables]:
    answers = await _ask_all(caller, params, Question.CALLABLES, Callables)
    return [KnownCallables(session, answer, problem) for session, answer, problem in answers]


async def _ask(
    caller: Caller, session: str, question: Question, answer: type[AnswerT], params: dict[str, Any] | None = None
) -> AnswerT:
    daemon = caller.daemon
    return await daemon.supervisor.inquiries.ask(daemon.sessions.find(session), question, answer, params)


async def _ask_all(
    caller: Caller, choice: SessionChoice, question: Question, answer: type[AnswerT]
) -> list[tuple[str, AnswerT | None, str | None]]:
    """What each session answers, oldest first. One that does not, or ends meanwhile, says why and holds up no other;
    where one was chosen its error is raised."""
    if choice.session is not None:
        return [(choice.session, await _ask(caller, choice.session, question, answer), None)]
    answers: dict[str, tuple[AnswerT | None, str | None]] = {}

    async def ask(session: Session) -> None:
        try:
            heard = await caller.daemon.supervisor.inquiries.ask(session, question, answer, of=len(ready))
            answers[session.id] = heard, None
        except SimplerError as error:
            answers[session.id] = None, error.message

    ready = [session for session in caller.daemon.sessions.live() if session.state is SessionState.READY]
    async with trio.open_nursery() as nursery:
        for session in ready:
            nursery.start_soon(ask, session)
    return [(session.id, *answers[session.id]) for session in ready]


METHODS: tuple[Method[Any], ...] = (
    Method(
        "session.stats",
        Role.READ,
        session_stats,
        SessionName,
        Stats,
        "What a ready session has done and does, counted.",
    ),
    Method("session.tasks", Role.READ, session_tasks, SessionName, Tasks, "What a ready session runs now."),
    Method("session.trace", Role.READ, session_trace, TraceQuery, TracePage, "What a ready session ran, page by page."),
    Method("buffer.list", Role.READ, buffer_list, SessionChoice, list[HeldBuffers], "The memory that sessions hold."),
    Method("callable.list", Role.READ, callable_list, SessionChoice, list[KnownCallables], "What sessions can run."),
)
