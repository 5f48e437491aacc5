"""The two phases of registering, as a session's command lane takes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from daemon.conftest import client_of
from simpler.callables import Content, content_of
from simpler.errors import RegistrationError, SimplerError
from simpler.result_record import decode_result
from simpler.wire.command_messages import Abort, Commit, Register, Task, Unregister
from simpler.wire.link import Link
from simpler.wire.messages import Message, Request
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def daemon() -> Any:
    with ForegroundDaemon() as running:
        yield running


@asynccontextmanager
async def lane_of(daemon: ForegroundDaemon) -> AsyncIterator[Link]:
    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        yield await client.lane(session, "command")
        await client.close(session)


async def prepared(lane: Link, function: Callable[..., Any]) -> Content:
    content = content_of(function)
    await lane.request(Register(digest=content.digest, phase="prepare"), content.encode())
    return content


async def code_of(lane: Link, request: Request[Message], data: bytes = b"") -> str:
    """The code of its refusal, "" when it is carried out."""
    try:
        await lane.request(request, data)
    except SimplerError as refusal:
        return refusal.code
    return ""


async def run(lane: Link, digest: bytes) -> object:
    reply, _ = await lane.request(Task(digest=digest, args=b""))
    return None if reply.result is None else decode_result(reply.result)


UNKNOWN = "CALLABLE_NOT_REGISTERED"


async def test_what_is_prepared_can_be_named_once_it_is_committed(daemon: ForegroundDaemon) -> None:  # C5
    async with lane_of(daemon) as lane:
        content = await prepared(lane, lambda orch, args, config: 7)
        assert await code_of(lane, Task(digest=content.digest, args=b"")) == UNKNOWN
        assert await code_of(lane, Unregister(digest=content.digest)) == UNKNOWN
        assert await code_of(lane, Commit(digest=content.digest)) == ""
        assert await run(lane, content.digest) == 7
        assert await code_of(lane, Commit(digest=content.digest)) == UNKNOWN
        assert await code_of(lane, Abort(digest=content.digest)) == UNKNOWN


async def test_what_is_aborted_is_gone(daemon: ForegroundDaemon) -> None:  # C5
    async with lane_of(daemon) as lane:
        content = await prepared(lane, lambda orch, args, config: 7)
        assert await code_of(lane, Abort(digest=content.digest)) == ""
        for request in (Abort, Commit, Unregister):
            assert await code_of(lane, request(digest=content.digest)) == UNKNOWN
        assert await code_of(lane, Register(digest=content.digest), content.encode()) == ""
        assert await run(lane, content.digest) == 7


async def test_orchestration_functions_name_it_as_tasks_do(daemon: ForegroundDaemon) -> None:  # C5, R8
    async with lane_of(daemon) as lane:
        sub = await prepared(lane, lambda args: "from the sub-worker")
        hashid = sub.hashid
        calls = content_of(lambda orch, args, config: orch.submit_sub(hashid))
        await lane.request(Register(digest=calls.digest), calls.encode())
        with pytest.raises(RegistrationError, match=f"{hashid} is not registered with this Worker"):
            await run(lane, calls.digest)
        await lane.request(Commit(digest=sub.digest))
        assert await run(lane, calls.digest) == "from the sub-worker"
        await lane.request(Unregister(digest=sub.digest))
        with pytest.raises(RegistrationError, match="is not registered with this Worker"):
            await run(lane, calls.digest)


async def test_references_are_counted_in_both_phases(daemon: ForegroundDaemon) -> None:  # C5, C3
    async with lane_of(daemon) as lane:
        content = await prepared(lane, lambda orch, args, config: 7)
        await lane.request(Commit(digest=content.digest))
        await lane.request(Register(digest=content.digest, phase="prepare"), content.encode())
        assert await run(lane, content.digest) == 7
        await lane.request(Unregister(digest=content.digest))
        assert await code_of(lane, Task(digest=content.digest, args=b"")) == UNKNOWN, "only a prepared one is left"
        await lane.request(Commit(digest=content.digest))
        assert await run(lane, content.digest) == 7
        await lane.request(Unregister(digest=content.digest))
        assert await code_of(lane, Task(digest=content.digest, args=b"")) == UNKNOWN


async def test_both_phases_pass_the_same_validator(daemon: ForegroundDaemon) -> None:  # C4
    async with lane_of(daemon) as lane:
        one, other = content_of(lambda: 1), content_of(lambda: 2)
        for phase in ("", "prepare"):
            request = Register(digest=one.digest, phase=phase)
            assert await code_of(lane, request, other.encode()) == "HASHID_DESCRIPTOR_MISMATCH"
            assert await code_of(lane, request, one.encode() + b"x") == "HASHID_DESCRIPTOR_MISMATCH"
        assert await code_of(lane, Commit(digest=one.digest)) == UNKNOWN


async def test_a_phase_that_there_is_not_is_refused(daemon: ForegroundDaemon) -> None:  # R2
    async with lane_of(daemon) as lane:
        content = content_of(lambda: 1)
        request = Register(digest=content.digest, phase="commit")  # type: ignore[arg-type]
        assert await code_of(lane, request, content.encode()) == "ARGUMENT"
