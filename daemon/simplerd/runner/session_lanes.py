"""The command and the data lane of a session, each served in its own way until the session ends."""

from __future__ import annotations

import contextlib
import sys
from functools import partial

import trio

from simpler.errors import AuthError, StaleHandle
from simpler.wire.conversation import Conversation
from simpler.wire.link import Link
from simpler.wire.links import Links
from simpler.wire.tls_stream import TlsStream, socket_of
from simplerd.runner.command_lane import CommandLane
from simplerd.runner.control_protocol import Lane, Launch
from simplerd.runner.data_lane import DataLane
from simplerd.runner.lane_security import LaneSecurity
from simplerd.runner.lane_socket import LaneSocket
from simplerd.runner.refusal_reports import RefusalReports


class SessionLanes:
    """Used in the event loop."""

    def __init__(
        self,
        launch: Launch,
        security: LaneSecurity,
        commands: CommandLane,
        data: DataLane,
        *,
        links: Links,
        refusals: RefusalReports,
    ) -> None:
        self._launch, self._security = launch, security
        self._refusals = refusals
        self._commands, self._data = commands, data
        self._threads: list[LaneSocket] = []
        self._links = links

    async def serve(self, lane: Lane, fd: int) -> None:
        """Serves the connection ``fd``, which is taken over, until it is over or this is cancelled."""
        name = f"the client's {lane.lane} lane of session {self._launch.session}"
        try:
            stream, received = await self._security.accept(fd, lane.frame, name)
        except (AuthError, trio.BrokenResourceError, trio.TooSlowError) as error:
            print(f"simplerd: {name} was given up: {str(error) or 'no handshake in time'}", file=sys.stderr, flush=True)
            return
        if lane.lane == "command":
            await self._serve_commands(stream, received, name)
        else:
            await self._serve_data(stream, received, name)

    async def hang_up(self) -> None:
        """On all connections; what is being written to a client that reads nothing ends with it."""
        for handle in self._links.handles():
            with contextlib.suppress(StaleHandle):  # it has ended meanwhile
                await self._links.close(handle)
        for thread in self._threads:
            thread.hang_up()

    def join(self, timeout_s: float) -> None:
        """Waits for what the orchestration thread is at. Call it when nothing here is served any more."""
        for thread in self._threads:
            thread.join(timeout_s)

    async def _serve_commands(self, stream: trio.SocketStream | TlsStream, received: bytes, name: str) -> None:
        conversation = Conversation(name=name, place=self._commands.place, at_once=None, pickles=True)
        conversation.session = self._launch.session_number
        thread = LaneSocket(
            socket_of(stream),
            conversation,
            self._commands.serve,
            self._commands.later,
            received=received,
            refused=partial(self._refusals.report, name),
        )
        self._threads.append(thread)
        self._commands.asks(thread)
        thread.start()
        await thread.read_ahead()

    async def _serve_data(self, stream: trio.abc.Stream, received: bytes, name: str) -> None:
        link = Link(stream, self._data, name=name, in_order=True, received=received, pickles=True)
        link.session = self._launch.session_number
        await self._links.run(link, inbound=True)
        if link.cause is not None:
            self._refusals.report(name, link.cause)
