"""Memory granted to another session, the wire spoken by hand: who gets in with which secret, and to which bytes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from attacks.scene import descriptors
from daemon.conftest import Client, client_of, event
from simpler.callables import content_of
from simpler.errors import AccessDenied, ArgumentError, CapacityError, SimplerError, StaleHandle
from simpler.limits import GRANTS_WAITING
from simpler.result_record import decode_result
from simpler.tensor import DataType, TensorArgType
from simpler.wire.command_messages import Free, Malloc, MallocReply, Register, Task
from simpler.wire.control_messages import Attach, OpenReply
from simpler.wire.data_messages import CopyFrom, CopyTo
from simpler.wire.import_messages import Grant, Import, ImportReply, Release, Revoke
from simpler.wire.link import Link
from simpler.wire.task_args import BufferTensor, RemoteArgs
from simplerd.foreground import ForegroundDaemon

NBYTES = 64
READ, WRITE, BOTH = 1, 2, 3


@pytest.fixture(scope="module")
def daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running
        assert running.stop() == 0


class Session:
    """A session with its command lane, and a buffer of NBYTES in it."""

    def __init__(self, client: Client, opened: OpenReply, lane: Link, buffer: MallocReply) -> None:
        self.client, self.opened, self.lane, self.buffer = client, opened, lane, buffer

    async def grant(self, importer: Session | None, **fields: Any) -> bytes:
        """A secret for all of the buffer; ``fields`` differ from that."""
        whole: dict[str, Any] = {
            **{"buffer": self.buffer.buffer, "generation": self.buffer.generation, "offset": 0, "nbytes": NBYTES},
            **{"access": BOTH, "importer": importer.opened.session if importer else "s-00000000"},
        }
        reply, _ = await self.lane.request(Grant(**(whole | fields)))
        return reply.secret

    async def import_(self, owner: Session, secret: bytes, **fields: Any) -> ImportReply:
        whole: dict[str, Any] = {"nbytes": NBYTES, "access": BOTH, "secret": secret}
        request = Import(owner=owner.opened.session, number=owner.opened.number, **(whole | fields))
        reply, _ = await self.lane.request(request)
        return reply

    async def peer_lane(self, secret: bytes) -> Link:
        """What the runner of a session of another daemon has; its ATTACH is answered already."""
        link = await self.client.dial()
        link.session = self.opened.number
        await link.request(Attach(session=self.opened.session, token=secret, lane="peer"))
        return link


async def opened(client: Client) -> Session:
    reply = await client.open(num_sub_workers=0)
    lane = await client.lane(reply, "command")
    buffer, _ = await lane.request(Malloc(nbytes=NBYTES))
    return Session(client, reply, lane, buffer)


@asynccontextmanager
async def sessions(daemon: ForegroundDaemon, count: int = 2) -> AsyncIterator[list[Session]]:
    async with client_of(daemon.endpoint) as client:
        yield [await opened(client) for _ in range(count)]


async def use(session: Session, name: ImportReply, tag: TensorArgType, *, offset: int = 0, count: int = 8) -> Any:
    """Adds 1 to what the name stands for, where the tag allows it, and returns the sum before."""

    def add_one(orch: Any, args: Any, config: Any) -> int:
        from simpler.tensor import TensorArgType

        before = int(args.tensor(0).sum())
        if args.tag(0) is not TensorArgType.INPUT:
            args.tensor(0)[...] += 1
        return before

    content = content_of(add_one)
    await session.lane.request(Register(digest=content.digest), content.encode())
    tensor = BufferTensor(
        tag=tag.value,
        dtype=DataType.INT64.value,
        shape=[count],
        buffer=name.buffer,
        generation=name.generation,
        offset=offset,
    )
    reply, _ = await session.lane.request(Task(digest=content.digest, args=RemoteArgs(tensors=[tensor]).encode()))
    assert reply.result is not None
    return decode_result(reply.result)


async def test_a_secret_is_good_once_for_one_session_and_for_what_was_granted(daemon: ForegroundDaemon) -> None:  # B1
    async with sessions(daemon, 3) as (owner, importer, stranger):
        secret = await owner.grant(importer)
        with pytest.raises(AccessDenied, match=r"has granted session .* nothing by that secret"):
            await stranger.import_(owner, secret)
        await importer.import_(owner, secret)
        with pytest.raises(AccessDenied, match="a grant is good once"):
            await importer.import_(owner, secret)
        with pytest.raises(AccessDenied):
            await importer.import_(owner, os.urandom(32))
        with pytest.raises(AccessDenied):
            await importer.import_(stranger, await owner.grant(importer))
        revoked = await owner.grant(importer)
        await owner.lane.request(Revoke(secret=revoked))
        with pytest.raises(AccessDenied):
            await importer.import_(owner, revoked)


async def test_the_owner_grants_only_what_it_has(daemon: ForegroundDaemon) -> None:  # B3
    async with sessions(daemon) as (owner, importer):
        for wrong in ({"offset": 1}, {"nbytes": NBYTES + 1}, {"offset": 1 << 63, "nbytes": 1}):
            with pytest.raises(ArgumentError, match="of a buffer of 64"):
                await owner.grant(importer, **wrong)
        with pytest.raises(StaleHandle):
            await owner.grant(importer, generation=owner.buffer.generation + 1)
        name = await importer.import_(owner, await owner.grant(importer))
        with pytest.raises(ArgumentError, match="the buffer is an import"):
            await importer.grant(owner, buffer=name.buffer, generation=name.generation)
        late = await owner.grant(importer)
        await owner.lane.request(Free(buffer=owner.buffer.buffer, generation=owner.buffer.generation))
        with pytest.raises(StaleHandle):
            await importer.import_(owner, late)
        with pytest.raises(StaleHandle, match="there is no session"):
            await importer.lane.request(Import(owner="s-00000000", number=1, secret=b"", nbytes=1, access=READ))


async def test_grants_that_nobody_uses_are_bounded(daemon: ForegroundDaemon) -> None:  # B1
    async with sessions(daemon) as (owner, importer):
        secrets = [await owner.grant(importer) for _ in range(GRANTS_WAITING)]
        with pytest.raises(CapacityError, match="wait to be used"):
            await owner.grant(importer)
        await owner.lane.request(Revoke(secret=secrets[0]))
        assert len({*secrets, await owner.grant(importer)}) == GRANTS_WAITING + 1


async def test_the_importer_checks_range_rights_and_name_itself(daemon: ForegroundDaemon) -> None:  # B2, B3
    async with sessions(daemon) as (owner, importer):
        name = await importer.import_(owner, await owner.grant(importer, access=READ), access=READ)
        assert isinstance(await use(importer, name, TensorArgType.INPUT), int)
        for tag in (TensorArgType.INOUT, TensorArgType.OUTPUT_EXISTING, TensorArgType.NO_DEP):
            with pytest.raises(AccessDenied, match="may be used for READ"):
                await use(importer, name, tag)
        for offset, count in ((8, 8), (NBYTES, 1), (1 << 62, 1)):
            with pytest.raises(ArgumentError, match="of a buffer of 64"):
                await use(importer, name, TensorArgType.INPUT, offset=offset, count=count)
        with pytest.raises(ArgumentError, match="the buffer is an import"):
            await importer.lane.request(Free(buffer=name.buffer, generation=name.generation))
        with pytest.raises(ArgumentError, match="the session's own"):
            await importer.lane.request(Release(buffer=importer.buffer.buffer, generation=importer.buffer.generation))
        await importer.lane.request(Release(buffer=name.buffer, generation=name.generation))
        for attempt in (
            use(importer, name, TensorArgType.INPUT),
            importer.lane.request(Release(buffer=name.buffer, generation=name.generation)),
        ):
            with pytest.raises(StaleHandle):
                await attempt


async def test_an_import_that_claims_more_rights_than_were_granted_cannot_be_written(
    daemon: ForegroundDaemon,
) -> None:  # B2
    async with sessions(daemon) as (owner, importer):
        with pytest.raises(SimplerError, match="Permission denied"):
            await importer.import_(owner, await owner.grant(importer, access=READ), access=BOTH)


async def test_a_lane_from_another_daemon_has_the_granted_bytes_only(daemon: ForegroundDaemon) -> None:  # B1, B2, B3
    content = np.arange(8, dtype="int64")
    async with sessions(daemon, 1) as [owner]:
        data = await owner.client.lane(owner.opened, "data")
        whole = {"buffer": owner.buffer.buffer, "generation": owner.buffer.generation}
        await data.request(CopyTo(offset=0, **whole), content.tobytes())
        middle = await owner.peer_lane(await owner.grant(None, offset=16, nbytes=24, access=READ))
        _, got = await middle.request(CopyFrom(buffer=0, generation=0, offset=8, nbytes=16))
        assert np.frombuffer(got, "int64").tolist() == [3, 4]
        for offset, nbytes in ((0, 25), (24, 1), (1 << 62, 1)):
            with pytest.raises(ArgumentError, match="the granted 24 bytes"):
                await middle.request(CopyFrom(buffer=0, generation=0, offset=offset, nbytes=nbytes))
        with pytest.raises(ArgumentError):
            await middle.request(CopyFrom(offset=0, nbytes=8, **whole | {"buffer": 1}))
        with pytest.raises(AccessDenied, match="WRITE"):
            await middle.request(CopyTo(buffer=0, generation=0, offset=0), bytes(8))
        with pytest.raises(SimplerError, match="does not belong on a peer lane"):
            await middle.request(Malloc(nbytes=1))
        await middle.request(Release(buffer=0, generation=0))
        with pytest.raises(AccessDenied, match="was given back"):
            await middle.request(CopyFrom(buffer=0, generation=0, offset=0, nbytes=8))


async def test_nobody_attaches_a_peer_lane_without_a_secret_of_that_session(daemon: ForegroundDaemon) -> None:  # B1
    async with sessions(daemon) as (owner, other):
        for token in (b"", os.urandom(32), owner.opened.token, await other.grant(None)):
            with pytest.raises(AccessDenied, match="nothing by that secret"):
                await owner.peer_lane(token)
        secret = await owner.grant(None)
        await owner.peer_lane(secret)
        with pytest.raises(AccessDenied):
            await owner.peer_lane(secret)
        assert await owner.grant(None)  # the session goes on


async def test_a_runner_that_sends_anything_harms_only_itself(daemon: ForegroundDaemon) -> None:  # B1, R9
    def stuff(orch: Any, args: Any, config: Any) -> None:
        """Finds the socket to the daemon, and asks for the other session with what is no lane, and with no frame."""
        import contextlib
        import os
        import socket
        from pathlib import Path

        from simpler.spawn_protocol import ancillary
        from simplerd.runner.control_protocol import PeerLane, encode

        packet, ours = encode(PeerLane(args.scalar(0), b"no frame")), socket.socketpair()
        to_nobody = encode(PeerLane("s-00000000", b"no frame"))
        with contextlib.suppress(OSError):  # of what is no socket, or no such one
            for name in sorted(path.name for path in Path("/proc/self/fd").iterdir()):
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as control:
                    if (control.family, control.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
                        for _ in range(50):
                            control.sendmsg([to_nobody], ancillary([1]))
                        for beside in ([1], [ours[0].fileno()], [ours[0].fileno(), ours[1].fileno()], []):
                            control.sendmsg([packet], ancillary(beside))

    before = descriptors(daemon.pid)
    async with sessions(daemon, 3) as (owner, attacker, importer):
        content = content_of(stuff)
        await attacker.lane.request(Register(digest=content.digest), content.encode())
        args = RemoteArgs(scalars=[owner.opened.session]).encode()
        await attacker.lane.request(Task(digest=content.digest, args=args))
        await event(daemon.admin_socket, "session.ready")  # the daemon goes on
        name = await importer.import_(owner, await owner.grant(importer))
        assert isinstance(await use(importer, name, TensorArgType.INOUT), int)
        for each in (owner, attacker, importer):
            await each.client.close(each.opened)
    assert descriptors(daemon.pid) < before + 50, "descriptors were kept"
    assert "is not listened to any more" in daemon.log.read_text()
