"""SUB_CALL, as a session's command lane has it: callables on the SUB workers, beside one another, each ended alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from daemon.conftest import Client, client_of, until
from simpler import limits
from simpler.callables import content_of
from simpler.errors import RegistrationError, SessionLost, SimplerError, TaskError, TaskTimeout, WorkerDied
from simpler.result_record import decode_result
from simpler.tensor import DataType, TensorArgType
from simpler.wire.command_messages import Free, Malloc, Register, SubCall, SubCallReply, Task
from simpler.wire.control_messages import OpenReply
from simpler.wire.data_messages import CopyFrom, CopyTo
from simpler.wire.link import Link, PendingReply
from simpler.wire.task_args import BufferTensor, RemoteArgs
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow
SECOND_NS = 10**9


@pytest.fixture(scope="module")
def daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


async def lane_of(client: Client, workers: int = 2, heap_bytes: int = 1 << 24) -> tuple[OpenReply, Link]:
    session = await client.open(num_sub_workers=workers, heap_bytes=heap_bytes)
    return session, await client.lane(session, "command")


async def registered(lane: Link, function: Any) -> bytes:
    content = content_of(function)
    await lane.request(Register(digest=content.digest), content.encode())
    return content.digest


def call_of(digest: bytes, *scalars: Any, timeout_ns: int = 0, **args: Any) -> SubCall:
    return SubCall(digest=digest, args=RemoteArgs(scalars=list(scalars), **args).encode(), timeout_ns=timeout_ns)


async def value(lane: Link, call: SubCall, pending: PendingReply | None = None) -> Any:
    pending = pending or await lane.begin(call)
    reply = lane.reply_of(call, await pending.wait())
    return None if reply.result is None else decode_result(reply.result)


async def waits(lane: Link) -> bytes:
    """A callable that says which process it runs in, and then waits until it may end: by two pipes."""

    def wait(args: Any) -> int:
        import os
        from pathlib import Path

        Path(args.scalar(0)).write_text(str(os.getpid()))
        return len(Path(args.scalar(1)).read_bytes())

    return await registered(lane, wait)


def pipes(folder: Path, name: str) -> tuple[str, str]:
    """Where a call says that it has begun, and where it is told to end."""
    both = str(folder / f"{name}-begun"), str(folder / f"{name}-end")
    for path in both:
        os.mkfifo(path)
    return both


async def begun(path: str) -> int:
    return int(await trio.to_thread.run_sync(Path(path).read_text))


async def end(path: str) -> None:
    await trio.to_thread.run_sync(Path(path).write_bytes, b"end")


async def test_calls_run_beside_one_another_and_end_in_any_order(daemon: ForegroundDaemon, tmp_path: Path) -> None:
    async with client_of(daemon.endpoint, protocol=2) as client:  # X1
        session, lane = await lane_of(client)
        wait = await waits(lane)
        echo = await registered(lane, lambda orch, args, config: args.scalar(0))  # now: it needs idle workers
        both = [pipes(tmp_path, name) for name in ("first", "second")]
        calls = [call_of(wait, *each) for each in both]
        pending = [await lane.begin(call) for call in calls]
        pids = {await begun(each[0]) for each in both}
        assert len(pids) == 2
        reply, _ = await lane.request(Task(digest=echo, args=RemoteArgs(scalars=["beside them"]).encode()))
        assert decode_result(reply.result or b"") == "beside them"
        for number in (1, 0):
            await end(both[number][1])
            assert await value(lane, calls[number], pending[number]) == 3
        await client.close(session)


async def test_what_a_call_raises_and_what_cannot_be_called_are_its_answers(daemon: ForegroundDaemon) -> None:
    def fail(args: Any) -> None:
        raise KeyError("no such thing")

    async with client_of(daemon.endpoint, protocol=2) as client:
        session, lane = await lane_of(client)
        with pytest.raises(TaskError, match="no such thing") as failed:
            await value(lane, call_of(await registered(lane, fail)))
        assert isinstance(failed.value.__cause__, KeyError)
        assert failed.value.context["session"] == session.session
        with pytest.raises(RegistrationError, match="is not registered"):
            await value(lane, call_of(bytes(32)))
        nothing = await registered(lane, lambda args: None)
        assert await value(lane, call_of(nothing)) is None
        with pytest.raises(SimplerError, match="cannot be read"):
            await value(lane, SubCall(digest=nothing, args=b"\xc1"))
        await client.close(session)


async def test_a_session_without_sub_workers_refuses_calls(daemon: ForegroundDaemon) -> None:
    async with client_of(daemon.endpoint, protocol=2) as client:
        session, lane = await lane_of(client, workers=0)
        with pytest.raises(RegistrationError, match="has no SUB worker to run it; give it some"):
            await value(lane, call_of(await registered(lane, lambda args: None)))
        await client.close(session)


async def test_a_killed_worker_costs_its_call_and_another_takes_its_place(
    daemon: ForegroundDaemon, tmp_path: Path
) -> None:  # X5
    async with client_of(daemon.endpoint, protocol=2) as client:
        session, lane = await lane_of(client, workers=1)
        wait, (told, ends) = await waits(lane), pipes(tmp_path, "killed")
        call = call_of(wait, told, ends)
        pending = await lane.begin(call)
        os.kill(await begun(told), signal.SIGKILL)
        with pytest.raises(WorkerDied, match="SIGKILL") as died:
            await value(lane, call, pending)
        assert died.value.context["session"] == session.session
        assert await value(lane, call_of(await registered(lane, lambda args: 7))) == 7
        await client.close(session)


async def test_a_call_that_takes_too_long_is_killed_once(daemon: ForegroundDaemon) -> None:  # X5
    def loop(args: Any) -> None:
        while True:
            pass

    async with client_of(daemon.endpoint, protocol=2) as client:
        session, lane = await lane_of(client, workers=1)
        with pytest.raises(TaskTimeout):
            await value(lane, call_of(await registered(lane, loop), timeout_ns=SECOND_NS // 20))
        assert await value(lane, call_of(await registered(lane, lambda args: 7), timeout_ns=SECOND_NS * 60)) == 7
        await client.close(session)


async def test_a_call_reads_buffers_and_its_large_result_is_one(daemon: ForegroundDaemon) -> None:  # X2
    def doubled(args: Any) -> Any:
        return args.tensor(0) * 2

    async with client_of(daemon.endpoint, protocol=2) as client:
        session, lane = await lane_of(client)
        data = await client.lane(session, "data")
        numbers = np.arange(1 << 18, dtype="float64")
        memory, _ = await lane.request(Malloc(nbytes=numbers.nbytes))
        named = {"buffer": memory.buffer, "generation": memory.generation}
        await data.request(CopyTo(**named, offset=0), numbers.data.cast("B"))
        tensor = BufferTensor(
            tag=TensorArgType.INPUT.value, dtype=DataType.FLOAT64.value, shape=[numbers.size], offset=0, **named
        )
        reply, _ = await lane.request(call_of(await registered(lane, doubled), tensors=[tensor]))
        assert isinstance(reply, SubCallReply)
        assert reply.result is None
        result = {"buffer": reply.buffer, "generation": reply.generation}
        _, record = await data.request(CopyFrom(**result, offset=0, nbytes=reply.nbytes))
        assert np.array_equal(decode_result(record), numbers * 2)  # type: ignore[arg-type]
        for buffer in (named, result):
            await lane.request(Free(**buffer))
        await client.close(session)


async def test_what_answered_calls_brought_does_not_count_any_more(daemon: ForegroundDaemon) -> None:
    async with client_of(daemon.endpoint, protocol=2) as client:
        session, lane = await lane_of(client, heap_bytes=1 << 26)
        length = await registered(lane, lambda args: len(args.scalar(0)))
        call = call_of(length, bytes(limits.FRAME_PAYLOAD_BYTES - 1024))
        for _ in range(limits.REQUEST_BYTES_HELD // limits.FRAME_PAYLOAD_BYTES + 1):
            assert await value(lane, call) == limits.FRAME_PAYLOAD_BYTES - 1024
        await client.close(session)


async def test_a_session_that_is_closed_does_not_wait_for_its_calls(daemon: ForegroundDaemon, tmp_path: Path) -> None:
    async with client_of(daemon.endpoint, protocol=2) as client:
        session, lane = await lane_of(client)
        wait, (told, ends) = await waits(lane), pipes(tmp_path, "closed")
        call = call_of(wait, told, ends)
        pending = await lane.begin(call)
        pid = await begun(told)
        with trio.fail_after(8):
            await client.close(session)
        with pytest.raises(SessionLost):
            await value(lane, call, pending)
        await until(lambda: not Path(f"/proc/{pid}").exists())
