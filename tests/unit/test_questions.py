"""What a daemon asks a runner about its session: the answers, and what user code may answer in their place."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
import trio

from simpler import limits, spawn_protocol
from simpler.errors import ArgumentError, CapacityError, ProtocolError, SessionLost, StateError
from simpler.inner_callables import KnownCallable
from simpler.region import Region, WorkerKind
from simpler.wire.control_messages import Manifest
from simplerd.inquiries import Inquiries
from simplerd.process_tree import ProcessTree
from simplerd.runner import control_protocol
from simplerd.runner.answers import Question, Stats
from simplerd.runner.buffers import SessionBuffers
from simplerd.runner.control_protocol import Answer, Ask
from simplerd.runner.daemon_socket import DaemonSocket
from simplerd.runner.dispatcher import DispatchedRun
from simplerd.runner.questions import Questions
from simplerd.runner.session_view import SessionView
from simplerd.runner_process import Runner
from simplerd.sealed_memory import seal
from simplerd.sessions import Peer, Session, SessionState

PROMPT_S = 20.0
SILENT_S = 0.05


class Scene:
    """The daemon's end of the conversation with one runner, whose end is `theirs`."""

    def __init__(self, timeout_s: float) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.runner = Runner(ProcessTree(None, 0), None, trio.socket.from_stdlib_socket(ours))
        self.runner.is_ready.set()
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.told = DaemonSocket(self.theirs, self.listening, Path(), adoption_timeout_s=1)
        self.session = Session(1, Manifest(platform="sim", runtime="graph"), Peer("test"), 0.0)
        self.session.state = SessionState.READY
        self.inquiries = Inquiries({self.session.id: self.runner}, timeout_s=timeout_s)

    async def hear(self) -> None:
        received = await self.runner.receive()
        assert received is not None
        report, fds = received
        try:
            assert isinstance(report, Answer)
            self.inquiries.answered(self.session, report, fds)
        finally:
            for fd in fds:
                os.close(fd)

    async def asked(self) -> Ask:
        await trio.lowlevel.wait_readable(self.theirs)
        ask = control_protocol.decode_command(self.theirs.recv(1 << 16))
        assert isinstance(ask, Ask)
        return ask


@contextmanager
def scene(timeout_s: float = PROMPT_S) -> Iterator[Scene]:
    made = Scene(timeout_s)
    try:
        yield made
    finally:
        made.runner.close()
        made.told.close()


class Idle:
    """A session that has no callables and ran nothing."""

    def __init__(self) -> None:
        self.runs: deque[DispatchedRun] = deque()
        self.running: tuple[bytes, int] | None = None

    def known(self) -> list[KnownCallable]:
        return []


def questions_about(region: Region, names: dict[int, str]) -> Questions:
    return Questions(SessionView(region, names, Idle(), SessionBuffers(region, "s-1")))


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region.create(workers=2, heap_bytes=1 << 20)
    made.define(0, WorkerKind.CHIP)
    made.define(1, WorkerKind.SUB)
    yield made
    made.close()


async def answer_with(at: Scene, reply: Any) -> None:
    """Answers the next question of the daemon with whatever `reply` sends."""
    ask = await at.asked()
    reply(ask)
    await at.hear()


def send(at: Scene, number: int, content: bytes, count: int = 1, *, failed: bool = False) -> None:
    fds = [seal(content, "answer") for _ in range(count)]
    at.theirs.sendmsg([control_protocol.encode(Answer(number, failed))], spawn_protocol.ancillary(fds))
    for fd in fds:
        os.close(fd)


async def test_the_counters_of_a_session_are_those_of_its_region(region: Region) -> None:
    questions = questions_about(region, {0: "chip0", 1: "sub0"})
    block = region.alloc(1000)
    with scene() as at:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_with, at, lambda ask: questions.answer(ask, at.told))
            stats = await at.inquiries.ask(at.session, Question.STATS, Stats)
    assert stats.heap_used == region.stats().heap_used >= 1000
    assert [(each.worker, each.name, each.kind, each.state) for each in stats.workers] == [
        (0, "chip0", "chip", "absent"),
        (1, "sub0", "sub", "absent"),
    ]
    region.unref(block)


async def test_an_unknown_question_is_answered_with_an_error(region: Region) -> None:
    questions = questions_about(region, {})
    with scene() as at:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_with, at, lambda ask: questions.answer(Ask(ask.number, "horoscope"), at.told))
            with pytest.raises(ArgumentError, match="no answer to 'horoscope'") as caught:
                await at.inquiries.ask(at.session, Question.STATS, Stats)
    assert caught.value.code == "UNSUPPORTED"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"tasks": -1}', b'{"tasks": "many"}', b"\xff\xff", b"[" * 10_000]
)
async def test_an_answer_that_is_none_is_an_error_that_says_so(content: bytes) -> None:  # R2
    with scene() as at:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_with, at, lambda ask: send(at, ask.number, content))
            with pytest.raises(ProtocolError, match="answered 'stats' with something else"):
                await at.inquiries.ask(at.session, Question.STATS, Stats)


async def test_an_error_that_is_answered_is_text_whatever_it_says() -> None:  # R2
    fields = {"class": "StateError", "code": "X\udc80", "message": "\udcff", "context": {"a\udc80": "\udc80"}}
    record = msgpack.packb({**fields, "traceback": "", "pickle": None}, unicode_errors="surrogatepass")
    with scene() as at:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_with, at, lambda ask: send(at, ask.number, record, failed=True))
            with pytest.raises(StateError) as caught:
                await at.inquiries.ask(at.session, Question.STATS, Stats)
    said = [caught.value.message, caught.value.code, dict(caught.value.context)]
    assert msgspec.json.decode(msgspec.json.encode(said)) == [r"\udcff", r"X\udc80", {r"a\udc80": r"\udc80"}]


async def test_an_answer_that_nobody_waits_for_is_dropped_and_one_without_content_refused() -> None:
    with scene() as at:
        send(at, 99, b"{}")
        await at.hear()
        send(at, 99, b"{}", count=2)
        with pytest.raises(ProtocolError, match="2 descriptors instead of one"):
            await at.hear()


async def test_a_runner_that_does_not_answer_is_not_waited_for() -> None:  # R9
    with scene(SILENT_S) as at, pytest.raises(StateError, match="did not answer within") as caught:
        await at.inquiries.ask(at.session, Question.STATS, Stats)
    assert caught.value.code == "RUNNER_SILENT"


async def test_of_many_sessions_none_answers_more_than_its_share() -> None:  # R2
    with scene() as at:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_with, at, lambda ask: send(at, ask.number, b" " * 70_000))
            with pytest.raises(CapacityError, match="answered with 70000 bytes, where 65536 are for each"):
                await at.inquiries.ask(at.session, Question.STATS, Stats, of=limits.MAX_SESSIONS)


async def test_a_runner_that_ends_while_it_is_asked_is_not_waited_for() -> None:
    with scene() as at:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_with_the_end, at)
            with pytest.raises(SessionLost, match="it has ended"):
                await at.inquiries.ask(at.session, Question.STATS, Stats)


async def answer_with_the_end(at: Scene) -> None:
    await at.asked()
    at.runner.exited.set()


async def test_only_a_session_that_is_ready_is_looked_into() -> None:
    with scene() as at:
        at.session.state = SessionState.STARTING
        with pytest.raises(StateError, match="is starting; it can be looked into while it is ready"):
            await at.inquiries.ask(at.session, Question.STATS, Stats)
