"""Lanes on their way to runners: from clients, and from one runner to another; and what a READY runner says.

Rules
  1. A lane is a descriptor that is handed over; not a byte of it is read here beyond the frame that named its session.
  2. A runner may leave its control socket unread for attach_timeout_s, and then does not get the lane.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

import trio

from simpler.errors import ProtocolError, SessionLost, SimplerError, StateError
from simpler.wire.descriptor_reply import refuse
from simplerd.config import Config
from simplerd.fault_points import fault_point
from simplerd.inquiries import Inquiries
from simplerd.log import get_logger
from simplerd.refusals import Refusals
from simplerd.runner.control_protocol import NO_SUCH_SESSION, Answer, Lane, PeerLane, Refused
from simplerd.runner_process import Runner
from simplerd.session_table import SessionTable
from simplerd.sessions import Peer, Session, SessionState

_log = get_logger("sessions")


class LanePassing:
    """To the live `runners`, by session. Belongs to the trio thread."""

    def __init__(
        self,
        runners: Mapping[str, Runner],
        sessions: SessionTable,
        refusals: Refusals,
        inquiries: Inquiries,
        config: Config,
    ) -> None:
        self._runners = runners
        self._sessions = sessions
        self._refusals = refusals
        self._inquiries = inquiries
        self._config = config

    async def attach(self, session: Session, lane: str, frame: bytes, fd: int) -> None:
        """Hands an accepted descriptor to the session's runner; the caller closes its own copy.

        Raises StateError when the lane was attached before or the session cannot take it, SessionLost when its runner
        does not take it in time.
        """
        runner = self._runners.get(session.id)
        if runner is not None:
            with trio.move_on_after(self._config.attach_timeout_s):
                await runner.is_ready.wait()  # after a restart it says then which lanes there are
        if runner is None or session.state is not SessionState.READY or lane in session.lanes:
            why = "it was attached before" if lane in session.lanes else f"the session is {session.state.value}"
            raise StateError(f"the {lane} lane of session {session.id} cannot be attached: {why}", session=session.id)
        session.lanes.add(lane)
        fault_point("attach:asked")
        try:
            await self._hand_over(session, runner, Lane(lane, frame), fd)
        except SessionLost:  # the client may try again
            session.lanes.discard(lane)
            raise
        fault_point("attach:handed-over")

    async def attach_peer(self, session: Session, frame: bytes, fd: int, *, importer: str) -> None:
        """Hands a lane from another session's runner to this one's, which checks what it may. `importer`: whose it is,
        "" for one of another daemon.

        Raises as `attach` does.
        """
        runner = self._runners.get(session.id)
        if runner is None or session.state is not SessionState.READY:
            raise StateError(f"session {session.id} is {session.state.value}", session=session.id)
        await self._hand_over(session, runner, Lane("peer", frame, importer), fd)

    async def _hand_over(self, session: Session, runner: Runner, lane: Lane, fd: int) -> None:
        try:
            with trio.fail_after(self._config.attach_timeout_s):
                await runner.is_ready.wait()
                await runner.send(lane, [fd])
        except (OSError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise SessionLost(
                f"the runner of session {session.id} did not take its {lane.lane} lane: "
                f"{str(error) or 'no room in time'}",
                session=session.id,
            ) from None

    async def listen(self, session: Session, runner: Runner) -> None:
        """Carries out what a READY runner says, until it is gone. It runs user code, so it may say anything."""
        try:
            while (received := await runner.receive()) is not None:
                report, fds = received
                with contextlib.ExitStack() as closing:
                    for fd in fds:
                        closing.callback(os.close, fd)
                    match report:
                        case PeerLane() if len(fds) == 1:
                            await self._connect_peer(session, report, fds[0])
                        case Answer():
                            self._inquiries.answered(session, report, fds)
                        case Refused():
                            who = Peer(f"a peer of session {session.id}") if report.stranger else session.peer
                            self._refusals.note(who, report.code, f"{report.lane}: {report.reason}")
                        case _:
                            raise ProtocolError(f"a runner that is ready said {type(report).__name__}")
        except ProtocolError as violation:
            runner.violation = violation.message
            _log.warning("a runner is not listened to any more", session=session.id, reason=violation.message)
        await runner.exited.wait()

    async def _connect_peer(self, session: Session, report: PeerLane, fd: int) -> None:
        try:
            await self.attach_peer(self._sessions.find(report.session), report.frame, fd, importer=session.id)
        except SimplerError as refusal:
            if refusal.code != NO_SUCH_SESSION:  # then it asks another daemon
                self._refusals.note(session.peer, refusal.code, f"peer lane of session {session.id}: {refusal.message}")
            _refuse_lane(fd, refusal)


def _refuse_lane(fd: int, refusal: SimplerError) -> None:
    """Tells who is at the other end of `fd`, which stays open, and may be no socket at all."""
    duplicate = os.dup(fd)
    try:
        connection = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return
    with connection, contextlib.suppress(OSError):  # it has left
        refuse(connection, refusal)
