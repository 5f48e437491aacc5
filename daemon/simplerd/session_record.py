"""What is kept of a session for the daemon after this one: all that its clients and its runner may hold against it.

`<runtime>/<session>/record.json` is written before each step of the session takes effect, as a whole or not at all. It
holds the session's tokens, and so is for the daemon's user alone.

Another release may have written it, or may read it: fields are added with defaults and never change their meaning, and
unknown ones are skipped. What cannot be read that way gets another FORMAT.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

import simpler
from simpler.errors import ProtocolError
from simpler.wire.control_messages import Manifest
from simplerd.runner_process import Runner
from simplerd.sessions import FINAL, Peer, Session, SessionState

FORMAT = 1
Number = Annotated[int, Meta(ge=1, le=2**32 - 1)]
Pid = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`version`: the release whose runner it is. `start_time`: of process `pid`, in clock ticks after boot, so that a
    pid that was used again is not mistaken for it. `spawner`: whose child it is. `tree`: see `ProcessTree.inode`.
    """

    format: int = FORMAT
    version: str
    session: str
    number: Number
    state: str
    opened_at: float
    protocol: int
    peer: Peer
    manifest: dict[str, Any]
    token: bytes
    resume_token: bytes
    open_key: bytes = b""
    lane_certificate: bytes = b""
    runner_certificate: bytes = b""
    chips: list[int] = []
    subs: list[int] = []
    close_reason: str | None = None
    spawner: Pid = 0
    pid: Pid = 0
    start_time: int = 0
    tree: int = 0

    @classmethod
    def of(cls, session: Session, spawner: int, runner: Runner | None) -> SessionRecord:
        """As it is now."""
        return cls(
            version=session.version,
            session=session.id,
            number=session.number,
            state=session.state.value,
            opened_at=session.opened_at,
            protocol=session.protocol,
            peer=session.peer,
            manifest=msgspec.to_builtins(session.manifest),
            token=session.token,
            resume_token=session.resume_token,
            open_key=session.open_key,
            lane_certificate=session.lane_certificate,
            runner_certificate=session.runner_certificate,
            chips=session.chips,
            subs=session.subs,
            close_reason=session.close_reason,
            spawner=spawner,
            pid=runner.pid if runner else 0,
            start_time=runner.start_time if runner else 0,
            tree=runner.tree.inode if runner else 0,
        )

    def encode(self) -> bytes:
        """The file."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, content: bytes) -> SessionRecord:
        """What `encode` made. Raises ProtocolError for anything else."""
        try:
            record = msgspec.json.decode(content, type=cls)
            state = SessionState(record.state)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise ProtocolError(f"it is no record of a session: {error}") from None
        if record.format > FORMAT:
            raise ProtocolError(f"it has format {record.format}; simplerd {simpler.__version__} reads up to {FORMAT}")
        if state in FINAL:
            raise ProtocolError(f"it is of a session that is {state.value}, of which there is no record")
        return record

    def restored(self) -> Session:
        """The session. Raises ProtocolError when there is none in it."""
        known = {name: self.manifest[name] for name in Manifest.__struct_fields__ if name in self.manifest}
        try:
            manifest = msgspec.convert(known, Manifest)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"its manifest cannot be read: {error}") from None
        session = Session(self.number, manifest, self.peer, self.opened_at)
        if session.id != self.session:
            raise ProtocolError(f"it is of {self.session}, and its number is that of {session.id}")
        session.version, session.protocol = self.version, self.protocol
        session.token, session.resume_token, session.open_key = self.token, self.resume_token, self.open_key
        session.lane_certificate, session.runner_certificate = self.lane_certificate, self.runner_certificate
        session.chips, session.subs, session.pid = list(self.chips), list(self.subs), self.pid
        session.state = SessionState(self.state)
        if self.close_reason is not None:
            session.ask_to_close(self.close_reason)
        if session.state in (SessionState.READY, SessionState.CLOSING):
            session.decided.set()
        return session
