"""PUSH, as a session's command lane has it: the session asks amid a task, and goes on when it is answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from daemon.conftest import Client, client_of
from simpler.callables import content_of
from simpler.errors import AccessDenied, SessionLost, SimplerError
from simpler.result_record import decode_result
from simpler.wire.command_messages import Push, PushReply, Register, Task
from simpler.wire.control_messages import Attach, Hello, OpenReply
from simpler.wire.link import Link
from simpler.wire.messages import Message
from simpler.wire.serving import Handler
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


class Program(Handler):
    """Answers each PUSH when it may, or with ``refusal``."""

    def __init__(self) -> None:
        self.pushed_here: list[Push] = []
        self.asked, self.may_answer = trio.Event(), trio.Event()
        self.refusal: SimplerError | None = None

    async def serve(self, link: Link, request: Message, data: memoryview) -> Message:
        assert isinstance(request, Push)
        self.pushed_here.append(request)
        self.asked.set()
        await self.may_answer.wait()
        if self.refusal is not None:
            raise self.refusal
        return PushReply()


async def lane_of(client: Client, program: Program, protocol: int = 2) -> tuple[OpenReply, Link]:
    await client.link.request(Hello(versions=[protocol], program="test", pid=1))
    session = await client.open()
    lane = await client.dial(program)
    lane.session = session.number
    await lane.request(Attach(session=session.session, token=session.token, lane="command"))
    return session, lane


async def pushing(lane: Link) -> bytes:
    """An orchestration function that pushes, by value: sessions do not know this module."""

    def pushes(orch: Any, args: Any, config: Any) -> str:
        orch.push("topic", [1, "two"])
        return "pushed"

    return await registered(lane, pushes)


async def registered(lane: Link, function: Any) -> bytes:
    content = content_of(function)
    await lane.request(Register(digest=content.digest), content.encode())
    return content.digest


async def test_what_comes_while_the_session_asks_is_served_afterwards_in_its_order(daemon: ForegroundDaemon) -> None:
    async with client_of(daemon.endpoint) as client:  # R3
        program = Program()
        session, lane = await lane_of(client, program)
        first, then = await pushing(lane), await registered(lane, lambda orch, args, config: "second")
        sent = [await lane.begin(Task(digest=digest, args=b"")) for digest in (first, then, then)]
        while not program.pushed_here:
            await trio.lowlevel.checkpoint()
        (push,) = program.pushed_here
        assert (push.task, push.topic, decode_result(push.value)) == (sent[0].sequence, "topic", [1, "two"])
        await trio.testing.wait_all_tasks_blocked()
        assert not any(pending.answer for pending in sent), "the session waits for the answer"
        program.may_answer.set()
        replies = [lane.reply_of(Task(digest=first, args=b""), await pending.wait()) for pending in sent]
        assert [decode_result(reply.result or b"") for reply in replies] == ["pushed", "second", "second"]
        await client.close(session)


async def test_a_refusal_is_raised_where_it_was_pushed_and_the_session_goes_on(daemon: ForegroundDaemon) -> None:
    async with client_of(daemon.endpoint) as client:  # R6
        program = Program()
        program.may_answer.set()
        session, lane = await lane_of(client, program)
        digest = await pushing(lane)
        program.refusal = AccessDenied("nobody may push here")
        with pytest.raises(AccessDenied, match="nobody may push here"):
            await lane.request(Task(digest=digest, args=b""))
        program.refusal = None
        reply, _ = await lane.request(Task(digest=digest, args=b""))
        assert decode_result(reply.result or b"") == "pushed"
        await client.close(session)


async def test_a_program_of_protocol_1_is_asked_for_nothing(daemon: ForegroundDaemon) -> None:  # R7
    async with client_of(daemon.endpoint) as client:
        program = Program()
        session, lane = await lane_of(client, program, protocol=1)
        digest = await pushing(lane)
        with pytest.raises(SimplerError, match=r"orch\.push needs protocol 2 or newer; the program speaks 1") as caught:
            await lane.request(Task(digest=digest, args=b""))
        assert caught.value.code == "UNSUPPORTED"
        assert not program.pushed_here
        await client.close(session)


async def test_a_program_that_leaves_instead_of_answering_ends_the_lane_and_no_more(daemon: ForegroundDaemon) -> None:
    async with client_of(daemon.endpoint) as client:  # R9
        program = Program()
        session, lane = await lane_of(client, program)
        digest = await pushing(lane)
        pending = await lane.begin(Task(digest=digest, args=b""))
        while not program.pushed_here:
            await trio.lowlevel.checkpoint()
        await lane.aclose()
        with pytest.raises(SessionLost):
            await pending.wait()
        await client.close(session)
