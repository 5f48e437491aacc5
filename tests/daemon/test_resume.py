"""A session that changes from one control connection to another of the same client: RESUME, and what is refused."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cutting_proxy import CuttingProxy, Trouble
from daemon.conftest import Client, client_of, event, until
from simpler.errors import AuthError, StaleHandle
from simpler.remote.control import Control
from simpler.remote.dialer import Dialer
from simpler.remote.spec import RemoteWorkerSpec
from simpler.wire.control_messages import Close, Event, Manifest, Open, OpenReply, Ping, PingReply, Resume
from simpler.wire.frames import MessageType
from simpler.wire.links import Links
from simpler.wire.serving import Handler
from simplerd.foreground import ForegroundDaemon

GRACE_S = 0.5


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[ForegroundDaemon]:
    """A simplerd that waits for a lost client for GRACE_S."""
    config = tmp_path / "simplerd.toml"
    config.write_text(f"[limits]\nlost_client_grace_s = {GRACE_S}\n")
    with ForegroundDaemon("--config", str(config)) as running:
        yield running


@asynccontextmanager
async def two_clients(daemon: ForegroundDaemon) -> AsyncIterator[tuple[Client, Client, OpenReply]]:
    """Two control connections of this user; the first has opened a session."""
    async with client_of(daemon.endpoint, protocol=2) as first, client_of(daemon.endpoint, protocol=2) as second:
        yield first, second, await first.open(num_sub_workers=0)


async def resume(client: Client, session: OpenReply, token: bytes | None = None) -> None:
    await client.link.request(Resume(session=session.session, token=session.resume if token is None else token))


@pytest.mark.slow
async def test_a_session_outlives_the_connection_that_opened_it(hasty: ForegroundDaemon) -> None:  # R4 R9
    async with two_clients(hasty) as (first, second, session):
        await resume(second, session)
        await first.link.aclose()
        lane = await second.lane(session, "data")
        await trio.sleep(2 * GRACE_S)  # what would have ended it has had its time
        reply, _ = await lane.request(Ping())
        assert reply == PingReply()
        await second.close(session)


@pytest.mark.slow
async def test_a_session_that_nobody_takes_over_ends_after_the_grace(hasty: ForegroundDaemon) -> None:  # R9
    async with two_clients(hasty) as (first, second, session):
        await first.link.aclose()
        assert (await event(hasty.admin_socket, "session.ended"))["fields"]["session"] == session.session
        with pytest.raises(StaleHandle, match="has ended: its client is gone"):
            await resume(second, session)


@pytest.mark.slow
async def test_only_who_has_the_token_takes_a_session_over(daemon: ForegroundDaemon) -> None:  # B1 R9
    async with two_clients(daemon) as (first, second, session):
        for token in (b"", bytes(len(session.resume)), session.token, session.resume[:-1]):
            with pytest.raises(AuthError, match="the token or the client is not its own"):
                await resume(second, session, token)
        with pytest.raises(StaleHandle, match="was not opened on this connection"):
            await second.close(session)
        await first.close(session)
        with pytest.raises(StaleHandle, match="has ended"):
            await resume(first, session)


@pytest.mark.slow
async def test_who_was_relieved_neither_closes_the_session_nor_hears_of_it(daemon: ForegroundDaemon) -> None:  # H1
    async with two_clients(daemon) as (first, second, session):
        await resume(second, session)
        with pytest.raises(StaleHandle, match="was not opened on this connection"):
            await first.close(session)
        heard = len(first.told)
        await second.close(session)
        assert [one.type for one in second.told if isinstance(one, Event)][-1] in ("session.closing", "session.ended")
        assert len(first.told) == heard
        assert first.ended.statistics().current_buffer_used == 0


@pytest.mark.slow
async def test_each_thing_is_told_once_however_often_a_session_is_taken_over(daemon: ForegroundDaemon) -> None:  # R9
    async with two_clients(daemon) as (first, second, session):
        for client in (first, first, second, first, second, second):
            await resume(client, session)
        await second.close(session)

        def told() -> list[str]:
            return [one.type for one in (*first.told, *second.told) if isinstance(one, Event)]

        await until(lambda: "session.ended" in told())  # the reply to CLOSE may come before it
        assert told() == ["session.opened", "session.ready", "session.closing", "session.ended"]


@pytest.mark.slow
async def test_a_connection_whose_sessions_were_taken_over_is_not_kept(tmp_path: Path) -> None:  # R9 D5
    config = tmp_path / "simplerd.toml"
    config.write_text("[limits]\nlost_client_grace_s = 60\nconnections_per_client = 2\n")
    with ForegroundDaemon("--config", str(config)) as running:
        async with client_of(running.endpoint, protocol=2) as first:
            session = await first.open(num_sub_workers=0)
            async with client_of(running.endpoint, protocol=2) as second:
                await first.link.aclose()
                await resume(second, session)
                await until_there_is_room(running.endpoint)
                await second.close(session)


async def until_there_is_room(endpoint: str) -> None:
    with trio.fail_after(10):
        while True:
            with contextlib.suppress(ExceptionGroup):  # CapacityError
                async with client_of(endpoint):
                    return


def control_of(endpoint: str) -> Control:
    dialer = Dialer(RemoteWorkerSpec(endpoint), "the session")
    return Control(dialer, Handler(), program="test", links=Links(), waits_for=lambda what: None)


@pytest.mark.slow
async def test_who_gives_up_taking_over_uses_neither_connection(proxy: CuttingProxy, daemon: ForegroundDaemon) -> None:
    """The daemon may have heard it all the same, and the session be the fresh one's."""  # R4
    manifest = Manifest(platform="sim", runtime="graph", num_sub_workers=0, heap_bytes=1 << 24)
    async with trio.open_nursery() as nursery:
        control = control_of(proxy.endpoint)
        await control.open(nursery, patience_s=0)
        opened, _ = await control.link.request(Open(manifest=manifest))
        stall = proxy.stall(MessageType.RESUME, reply=True)
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_after, stall, scope)
            await control.resume(opened)
        assert scope.cancelled_caught
        assert control.cause is not None
        await control.resume(opened)
        await control.link.request(Close(session=opened.session, reason="done"))
        nursery.cancel_scope.cancel()
    assert "its client is gone" not in daemon.log.read_text()


async def cancel_after(trouble: Trouble, scope: trio.CancelScope) -> None:
    await trio.to_thread.run_sync(trouble.wait)
    scope.cancel()


async def test_an_older_client_gets_no_token_and_no_news(daemon: ForegroundDaemon) -> None:  # R2
    async with client_of(daemon.endpoint, protocol=1) as client:
        session = await client.open(num_sub_workers=0)
        await client.close(session)
        assert (session.resume, client.told) == (b"", [])
