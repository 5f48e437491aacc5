"""One remote session against a peer that answers as the protocol says, and misbehaves where a test wants it to."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from simpler import limits
from simpler.content import Content
from simpler.descriptors import ImportDescriptor
from simpler.error_record import decode_error
from simpler.errors import (
    AccessDenied,
    AuthError,
    ConnectError,
    SessionLost,
    SimplerError,
    StartupError,
    StateError,
    VersionMismatch,
)
from simpler.region import Region, TaskState, WorkerKind
from simpler.registration import Answered
from simpler.remote.printer import Printer
from simpler.remote.registration import ask
from simpler.remote.session import RemoteSession
from simpler.remote.session_life import TRANSITIONS, SessionEvent, SessionState
from simpler.remote.spec import RemoteWorkerSpec
from simpler.remote.transfers import copy_from, copy_to
from simpler.wire.command_messages import (
    Commit,
    CommitReply,
    Drop,
    DropReply,
    Free,
    FreeReply,
    Malloc,
    MallocReply,
    Register,
    RegisterReply,
    Task,
    TaskReply,
    Unregister,
    UnregisterReply,
)
from simpler.wire.control_messages import (
    Attach,
    AttachReply,
    Close,
    CloseReply,
    Ended,
    Hello,
    HelloReply,
    Open,
    OpenReply,
)
from simpler.wire.data_messages import CopyFrom, CopyFromReply, CopyTo, CopyToReply
from simpler.wire.first_frame import receive_first
from simpler.wire.frames import Buffer
from simpler.wire.link import Link
from simpler.wire.links import Links
from simpler.wire.messages import Message
from simpler.wire.serving import Handler

NUMBER = 77


class Peer(Handler):
    """simplerd and a session's runner in one. ``trouble`` answers instead of the usual reply, once per message type."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.memory = bytearray(3 * limits.CHUNK_BYTES)
        self.trouble: dict[type[Message], SimplerError | Message | trio.Event] = {}
        self.requests: list[Message] = []
        self.lanes: dict[str, Link] = {}
        self.control: Link

    async def serve_connections(self, *, task_status: trio.TaskStatus[None]) -> None:
        listening = trio.socket.socket(trio.socket.AF_UNIX)
        await listening.bind(str(self.path))
        listening.listen()
        task_status.started()
        await trio.serve_listeners(self._connection, [trio.SocketListener(listening)])

    async def _connection(self, stream: trio.SocketStream) -> None:
        try:
            first, received = await receive_first(stream)
        except SessionLost:  # it went before it said anything
            return
        link = Link(stream, self, name="the program", received=received, pickles=True)
        link.session = first.header.session
        await link.run()

    def place(self, link: Link, request: Message, nbytes: int) -> memoryview:
        if isinstance(request, CopyTo):
            return memoryview(self.memory)[request.offset : request.offset + nbytes]
        return super().place(link, request, nbytes)

    async def serve(self, link: Link, request: Message, data: memoryview) -> Message | tuple[Message, Buffer]:
        self.requests.append(request)
        trouble = self.trouble.get(type(request))
        if isinstance(trouble, SimplerError):
            raise trouble
        if isinstance(trouble, trio.Event):
            await trouble.wait()
        elif trouble is not None:
            return trouble
        return self._answer(link, request)

    def _answer(self, link: Link, request: Message) -> Message | tuple[Message, Buffer]:
        match request:
            case Hello():
                self.control = link
                return HelloReply(version=1, daemon="peer", host="here")
            case Open():
                return OpenReply(session="s-1", number=NUMBER, token=b"t", devices=[], chips=[], subs=[], pid=1)
            case Attach():
                assert (request.session, request.token) == ("s-1", b"t")
                assert link.session == NUMBER
                self.lanes[request.lane] = link
                return AttachReply(clock_ns=time.monotonic_ns())
            case Task():
                return TaskReply(result=request.args[::-1])
            case CopyFrom():
                return CopyFromReply(), memoryview(self.memory)[request.offset : request.offset + request.nbytes]
            case Malloc():
                return MallocReply(buffer=0, generation=1)
            case _:
                usual: dict[type[Message], Message] = {
                    Close: CloseReply(),
                    Register: RegisterReply(),
                    Unregister: UnregisterReply(),
                    CopyTo: CopyToReply(),
                    Free: FreeReply(),
                    Drop: DropReply(),
                    Commit: CommitReply(),
                }
                return usual[type(request)]


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region.create(workers=2, heap_bytes=1 << 16)
    for worker in (0, 1):
        made.define(worker, WorkerKind.REMOTE)
    yield made
    made.shutdown()
    made.close()


@asynccontextmanager
async def peer_at(path: Path) -> AsyncIterator[tuple[Peer, trio.Nursery]]:
    async with trio.open_nursery() as nursery:
        peer = Peer(path / "peer.sock")
        await nursery.start(partial(peer.serve_connections))
        with trio.fail_after(10):
            yield peer, nursery
        nursery.cancel_scope.cancel()


async def opened(
    peer: Peer,
    region: Region,
    nursery: trio.Nursery,
    *,
    timeout_s: float = 5.0,
    on_lost: Callable[[int], None] = lambda worker: None,
    worker: int = 0,
) -> RemoteSession:
    spec = RemoteWorkerSpec(f"unix:{peer.path}")
    session = RemoteSession(
        worker,
        spec,
        region,
        program="test",
        links=Links(),
        on_lost=on_lost,
        on_dropped=lambda *_: None,
        printer=Printer(),
        take_push=lambda *_: True,
    )
    manifest = spec.manifest(name="test", startup_timeout_s=timeout_s, imports=[])
    contents = [Content.of(ImportDescriptor("mod", "fn"))]
    await session.open(manifest, contents, nursery, timeout_s)
    return session


async def submitted(region: Region, session: RemoteSession, args: bytes = b"abc") -> tuple[TaskState, bytes]:
    """A task's way through the session: how it ended, and its record."""
    run = region.run_begin()
    task = run.submit_with(0, bytes(32), payload=args)
    run.seal()
    session.ring()
    while not run.info().ended:
        await trio.lowlevel.checkpoint()
    info = run.task(task)
    assert info is not None
    assert info.record is not None
    return info.state, bytes(info.record)


async def test_opening_in_order_then_a_task(tmp_path: Path, region: Region) -> None:  # R1
    async with peer_at(tmp_path) as (peer, nursery):
        session = await opened(peer, region, nursery)
        assert [type(request) for request in peer.requests] == [Hello, Open, Attach, Attach, Register]
        assert await submitted(region, session) == (TaskState.SUCCEEDED, b"cba")
        await session.close("done")
        assert peer.requests[-1] == Close(session="s-1", reason="done")


@pytest.mark.parametrize(
    ("at", "answer", "expected"),
    [
        (Hello, VersionMismatch("speaks 7"), (VersionMismatch, "remote worker 0 at unix:.*: speaks 7")),
        (Hello, HelloReply(version=9, daemon="d", host="h"), (VersionMismatch, "d chose protocol 9")),
        (Open, AccessDenied("not you"), (AccessDenied, "remote worker 0 at unix:.*: not you")),
        (Attach, AuthError("the token is not that of"), (AuthError, "the token")),
        (Register, SimplerError("no such module"), (SimplerError, "no such module")),
        (Open, HelloReply(version=1, daemon="d", host="h"), (SimplerError, "a reply that does not fit: OpenReply")),
    ],
)
async def test_a_refusal_at_any_step_is_told_and_nothing_stays_open(
    tmp_path: Path,
    region: Region,
    at: type[Message],
    answer: SimplerError | Message,
    expected: tuple[type[SimplerError], str],
) -> None:  # R5
    async with peer_at(tmp_path) as (peer, nursery):
        peer.trouble[at] = answer
        with pytest.raises(expected[0], match=expected[1]):
            await opened(peer, region, nursery)
        if at is not Hello:
            await peer.control.wait_closed()
        assert (Close in map(type, peer.requests)) is (at in (Attach, Register)), "what was opened is closed"
        for lane in peer.lanes.values():
            await lane.wait_closed()


@pytest.mark.parametrize(
    ("at", "what"),
    [(Hello, "simplerd to answer HELLO"), (Open, "processes to become ready"), (Attach, "the command lane")],
)
async def test_the_deadline_says_what_was_waited_for(
    tmp_path: Path, region: Region, at: type[Message], what: str
) -> None:  # R1
    async with peer_at(tmp_path) as (peer, nursery):
        peer.trouble[at] = trio.Event()
        with pytest.raises(StartupError, match=f"not ready within 0.05 s: waited for .*{what}"):
            await opened(peer, region, nursery, timeout_s=0.05)


async def test_the_daemons_word_is_the_cause_and_fails_what_is_held_and_what_comes(
    tmp_path: Path, region: Region
) -> None:  # R4, D7
    async with peer_at(tmp_path) as (peer, nursery):
        session = await opened(peer, region, nursery)
        peer.trouble[Task] = peer.trouble[Malloc] = trio.Event()
        run = region.run_begin()
        task = run.submit_with(0, bytes(32), payload=b"held")
        run.seal()
        session.ring()
        async with trio.open_nursery() as asking:
            asking.start_soon(raises_lost, session)
            await trio.testing.wait_all_tasks_blocked()
            ended = Ended(session="s-1", cause="killed by SIGKILL", code="KILLED", signal=9, stderr=["one", "two"])
            await peer.control.post(ended)
        info = run.task(task)
        assert info is not None
        assert info.record is not None
        error = decode_error(bytes(info.record))
        assert isinstance(error, SessionLost)
        assert "has ended: killed by SIGKILL\nthe last lines of its stderr:\n  one\n  two" in str(error)
        assert error.context["signal"] == 9
        assert (await submitted(region, session))[0] is TaskState.FAILED
        await session.close("done")


async def raises_lost(session: RemoteSession) -> None:
    with pytest.raises(SessionLost, match="killed by SIGKILL"):
        await session.request(Malloc(nbytes=1))


async def test_the_end_of_another_session_is_not_ours(tmp_path: Path, region: Region) -> None:
    async with peer_at(tmp_path) as (peer, nursery):
        session = await opened(peer, region, nursery)
        await peer.control.post(Ended(session="s-2", cause="", code=""))
        assert await submitted(region, session) == (TaskState.SUCCEEDED, b"cba")
        await session.close("done")


@pytest.mark.parametrize("lane", ["command", "data"])
async def test_a_lane_that_is_lost_takes_the_session_with_it(
    tmp_path: Path, region: Region, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # R4
    monkeypatch.setattr(limits, "ENDED_GRACE_S", 0.05)
    async with peer_at(tmp_path) as (peer, nursery):
        lost = trio.Event()
        session = await opened(peer, region, nursery, on_lost=lambda worker: lost.set())
        await peer.lanes[lane].aclose()
        await lost.wait()
        with pytest.raises(SessionLost, match=f"was lost: the {lane} lane of remote worker 0 .* hung up"):
            await session.request(Malloc(nbytes=1))
        await session.close("done")
        assert peer.requests[-1] == Close(session="s-1", reason="done"), "it may go on at the daemon"


async def test_losing_the_control_connection_alone_loses_no_session(tmp_path: Path, region: Region) -> None:  # R4
    async with peer_at(tmp_path) as (peer, nursery):
        session = await opened(peer, region, nursery)
        await peer.control.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert await submitted(region, session) == (TaskState.SUCCEEDED, b"cba")
        await session.close("done")


async def test_a_task_too_large_for_a_frame_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "PAYLOAD_BYTES", 100)
    region = Region.create(workers=1, heap_bytes=1 << 16)
    region.define(0, WorkerKind.REMOTE)
    async with peer_at(tmp_path) as (peer, nursery):
        session = await opened(peer, region, nursery)
        state, record = await submitted(region, session, bytes(200))
        assert state is TaskState.FAILED
        assert "pass large values through remote buffers" in str(decode_error(record))
        assert await submitted(region, session) == (TaskState.SUCCEEDED, b"cba")
        await session.close("done")
    region.shutdown()
    region.close()


def told(peer: Peer, what: type[Message]) -> list[Message]:
    return [request for request in peer.requests if isinstance(request, what)]


CONTENT = Content.of(ImportDescriptor("mod", "more"))


async def test_every_session_answers_for_itself(tmp_path: Path, region: Region) -> None:  # C5
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with peer_at(tmp_path / "a") as (takes, nursery), peer_at(tmp_path / "b") as (refuses, _):
        sessions = [await opened(peer, region, nursery, worker=at) for at, peer in enumerate((takes, refuses))]
        refusal = refuses.trouble[Register] = SimplerError("not here")
        answers: Answered = {}
        await ask(sessions, lambda callables: callables.prepare(CONTENT), answers)
        assert answers[0] is None
        assert str(answers[1]) == str(refusal)
        assert told(takes, Register)[-1] == told(refuses, Register)[-1] == Register(digest=CONTENT.digest)
        for session in sessions:
            await session.close("done")


async def test_copies_are_cut_into_chunks_that_land_in_place(tmp_path: Path, region: Region) -> None:  # R10
    async with peer_at(tmp_path) as (peer, nursery):
        session = await opened(peer, region, nursery)
        data = bytes(range(251)) * (2 * limits.CHUNK_BYTES // 251)
        target = memoryview(bytearray(len(data)))
        await session.on_data_lane(lambda lane: copy_to(lane, 0, 1, 5, memoryview(data)))
        await session.on_data_lane(lambda lane: copy_from(lane, 0, 1, 5, target))
        assert target == data
        sizes = [request.nbytes for request in peer.requests if isinstance(request, CopyFrom)]
        assert sizes == [limits.CHUNK_BYTES, len(data) - limits.CHUNK_BYTES]
        await session.close("done")


async def test_a_copy_that_is_refused_leaves_the_lane_usable(tmp_path: Path, region: Region) -> None:  # R10
    async with peer_at(tmp_path) as (peer, nursery):
        session = await opened(peer, region, nursery)
        peer.trouble[CopyTo] = AccessDenied("not this buffer")
        with pytest.raises(AccessDenied, match="not this buffer"):
            await session.on_data_lane(lambda lane: copy_to(lane, 0, 1, 0, memoryview(bytes(3 * limits.CHUNK_BYTES))))
        del peer.trouble[CopyTo]
        await session.on_data_lane(lambda lane: copy_to(lane, 0, 1, 0, memoryview(b"fine")))
        assert peer.memory[:4] == b"fine"
        await session.close("done")


async def test_a_copy_that_comes_too_late_is_dropped(
    tmp_path: Path, region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:  # R10
    monkeypatch.setattr(limits, "CONTROL_TIMEOUT_S", 0.02)
    async with peer_at(tmp_path) as (peer, nursery):
        session = await opened(peer, region, nursery)
        held = peer.trouble[CopyFrom] = trio.Event()
        peer.memory[:4] = b"late"
        target = bytearray(4)
        with pytest.raises(ConnectError, match="has copied nothing"):
            await session.on_data_lane(lambda lane: copy_from(lane, 0, 1, 0, memoryview(target)))
        assert isinstance(held, trio.Event)
        held.set()
        await session.on_data_lane(lambda lane: copy_to(lane, 0, 1, 4, memoryview(b"next")))
        assert target == bytes(4)
        await session.close("done")


async def test_a_closed_session_takes_nothing(tmp_path: Path, region: Region) -> None:  # W3
    async with peer_at(tmp_path) as (peer, nursery):
        session = await opened(peer, region, nursery)
        await session.close("done")
        await session.close("again")
        with pytest.raises(StateError, match="is closed"):
            await session.request(Malloc(nbytes=1))
        assert sum(isinstance(request, Close) for request in peer.requests) == 1


async def test_closing_ends_calls_that_wait(tmp_path: Path, region: Region) -> None:  # W3
    async with peer_at(tmp_path) as (peer, nursery):
        session = await opened(peer, region, nursery)
        peer.trouble[Malloc] = trio.Event()
        async with trio.open_nursery() as calling:
            calling.start_soon(raises_closed, session)
            await trio.testing.wait_all_tasks_blocked()
            await session.close("done")


async def raises_closed(session: RemoteSession) -> None:
    with pytest.raises(StateError, match="is closed"):
        await session.request(Malloc(nbytes=1))


def test_every_state_may_be_closed_and_a_loss_is_never_forgotten() -> None:
    for state in SessionState:
        assert TRANSITIONS[state, SessionEvent.CLOSE] is SessionState.CLOSED
    for state in set(SessionState) - {SessionState.NEW, SessionState.CLOSED}:
        assert TRANSITIONS[state, SessionEvent.LOSS] is SessionState.LOST
    assert (SessionState.LOST, SessionEvent.OPENED) not in TRANSITIONS
    assert {state for state, _ in TRANSITIONS} == set(SessionState)
