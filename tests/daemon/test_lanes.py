"""What a session does for its client over its lanes: real runners, real workers, the wire spoken by hand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from daemon.conftest import Client, client_of, event
from simpler.callables import ChipCallable, Content, Direction, RemoteCallable, content_of
from simpler.descriptors import format_hashid
from simpler.errors import (
    ArgumentError,
    RegistrationError,
    SessionLost,
    StaleHandle,
    TaskError,
    WorkerDied,
)
from simpler.region_records import Op, unpack_trace
from simpler.result_record import decode_result
from simpler.tensor import DataType, TensorArgType
from simpler.wire.command_messages import Free, Malloc, MallocReply, Register, Task, Trace, Unregister
from simpler.wire.control_messages import Attach, OpenReply
from simpler.wire.data_messages import CopyFrom, CopyTo
from simpler.wire.endpoint import connect, parse_endpoint
from simpler.wire.frames import Flags, encode_header
from simpler.wire.link import Link
from simpler.wire.messages import Message
from simpler.wire.task_args import BufferTensor, InlineTensor, OutputTensor, RemoteArgs
from simplerd.foreground import ForegroundDaemon

MIB = 1 << 20


async def register(lane: Link, target: object) -> Content:
    content = content_of(target)
    await lane.request(Register(digest=content.digest), content.encode())
    return content


async def run(lane: Link, target: Content, args: RemoteArgs | None = None) -> Any:
    """What the orchestration function returns."""
    reply, _ = await lane.request(Task(digest=target.digest, args=args.encode() if args else b""))
    return None if reply.result is None else decode_result(reply.result)


async def malloc(lane: Link, nbytes: int) -> MallocReply:
    reply, _ = await lane.request(Malloc(nbytes=nbytes))
    return reply


def named(memory: MallocReply) -> dict[str, int]:
    return {"buffer": memory.buffer, "generation": memory.generation}


def tensor(memory: MallocReply, shape: list[int], tag: TensorArgType, offset: int = 0) -> BufferTensor:
    return BufferTensor(tag=tag.value, dtype=DataType.FLOAT64.value, shape=shape, offset=offset, **named(memory))


async def test_an_orchestration_function_runs_in_the_runner(daemon: ForegroundDaemon) -> None:  # R8
    def where(orch: Any, args: Any, config: Any) -> tuple[int, Any]:
        import os

        return os.getpid(), [args.scalar(index) for index in range(args.scalar_count())]

    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        lane = await client.lane(session, "command")
        function = await register(lane, where)
        args = RemoteArgs(scalars=[7, 2.5, True, "text", b"bytes"])
        assert await run(lane, function, args) == (session.pid, [7, 2.5, True, "text", b"bytes"])
        await client.close(session)


async def test_it_submits_registered_code_by_hashid_to_subs_and_chips(daemon: ForegroundDaemon) -> None:  # R8
    def scale(args: Any) -> None:
        args.tensor(0)[...] *= args.scalar(0)

    kernel = ChipCallable.from_c_source(
        '#include "simpler_kernel.h"\n'
        "int add_one(const slr_tensor *t, uint32_t n, const uint64_t *s, uint32_t m) {\n"
        "  double *x = t[0].data; (void)n; (void)s; (void)m;\n"
        "  for (uint64_t i = 0; i < t[0].shape[0]; i++) x[i] += 1;\n"
        "  return 0;\n"
        "}\n",
        "add_one",
        [Direction.INOUT],
    )

    def steps(orch: Any, args: Any, config: Any) -> None:
        from simpler import TaskArgs, TensorArgType

        both = TaskArgs().add_tensor(args.tensor(0), TensorArgType.INOUT).add_scalar(args.scalar(0))
        only = TaskArgs().add_tensor(args.tensor(0), TensorArgType.INOUT)
        orch.submit_sub(args.scalar(1), both)
        orch.submit_next_level(args.scalar(2), only, worker=0)
        orch.submit_sub(args.scalar(1), both)

    async with client_of(daemon.endpoint) as client:
        session = await client.open(device_ids=[0], num_sub_workers=2)
        lane, data = await client.lane(session, "command"), await client.lane(session, "data")
        sub, chip, graph = [await register(lane, target) for target in (scale, kernel, steps)]
        memory = await malloc(lane, 32)
        await data.request(CopyTo(offset=0, **named(memory)), np.arange(4.0).tobytes())
        args = RemoteArgs(tensors=[tensor(memory, [4], TensorArgType.INOUT)], scalars=[3, sub.hashid, chip.hashid])
        await run(lane, graph, args)
        _, result = await data.request(CopyFrom(offset=0, nbytes=32, **named(memory)))
        assert np.frombuffer(result).tolist() == [(3 * x + 1) * 3 for x in range(4)]
        await client.close(session)


async def test_large_copies_go_both_ways_in_frames(daemon: ForegroundDaemon) -> None:  # R10
    content = np.random.default_rng(1).integers(0, 256, 20 * MIB, np.uint8)
    async with client_of(daemon.endpoint) as client:
        session = await client.open(heap_bytes=64 * MIB)
        lane, data = await client.lane(session, "command"), await client.lane(session, "data")
        memory = await malloc(lane, content.nbytes)
        for begin in range(0, content.nbytes, 4 * MIB):
            await data.request(CopyTo(offset=begin, **named(memory)), content.data[begin : begin + 4 * MIB])
        digest = hashlib.sha256()
        for begin in range(0, content.nbytes, 4 * MIB):
            _, piece = await data.request(CopyFrom(offset=begin, nbytes=4 * MIB, **named(memory)))
            digest.update(piece)
        assert digest.digest() == hashlib.sha256(content.data).digest()
        await client.close(session)


def frame(message: Message, sequence: int, session: int) -> bytes:
    payload = message.encode()
    return encode_header(message.TYPE, Flags.NONE, sequence, len(payload), session=session) + payload


@pytest.mark.slow
async def test_a_client_that_reads_nothing_does_not_hold_up_the_close(daemon: ForegroundDaemon) -> None:  # R9 W3
    async with client_of(daemon.endpoint) as client:
        session = await client.open(heap_bytes=64 * MIB)
        memory = await malloc(await client.lane(session, "command"), 16 * MIB)
        attach = Attach(session=session.session, token=session.token, lane="data")
        copy = CopyFrom(offset=0, nbytes=16 * MIB, **named(memory))
        async with await connect(parse_endpoint(daemon.endpoint)) as deaf:
            await deaf.send_all(frame(attach, 1, session.number))
            assert await deaf.receive_some(4096)  # the reply to ATTACH
            await deaf.send_all(frame(copy, 2, session.number))
            assert await deaf.receive_some(1)  # of a reply that is more than the socket takes
            with trio.fail_after(5):
                await client.close(session)
        ended = await event(daemon.admin_socket, "session.ended")
        assert ended["fields"]["cause"] == "its client closed it: done"


async def test_ranges_and_stale_names_are_refused_at_this_end_too(daemon: ForegroundDaemon) -> None:  # B3
    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        lane, data = await client.lane(session, "command"), await client.lane(session, "data")
        memory = await malloc(lane, 64)
        with pytest.raises(ArgumentError, match="bytes 60 to 68 of a buffer of 64"):
            await data.request(CopyTo(offset=60, **named(memory)), b"x" * 8)
        with pytest.raises(ArgumentError, match="bytes 0 to 65 of a buffer of 64"):
            await data.request(CopyFrom(offset=0, nbytes=65, **named(memory)))
        await lane.request(Free(**named(memory)))
        with pytest.raises(StaleHandle, match=f"session {session.session}"):
            await data.request(CopyFrom(offset=0, nbytes=1, **named(memory)))
        with pytest.raises(StaleHandle):
            await lane.request(Free(**named(memory)))
        await client.close(session)


async def test_tensors_are_read_only_where_the_tag_is_input(daemon: ForegroundDaemon) -> None:  # B2
    def writable(orch: Any, args: Any, config: Any) -> list[bool]:
        return [bool(args.tensor(index).flags.writeable) for index in range(args.tensor_count())]

    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        lane = await client.lane(session, "command")
        function, memory = await register(lane, writable), await malloc(lane, 16)
        inline = InlineTensor(tag=0, dtype=DataType.UINT8.value, shape=[3], data=b"abc")
        tensors: list[BufferTensor | InlineTensor | OutputTensor] = [
            inline,
            tensor(memory, [1], TensorArgType.INPUT),
            tensor(memory, [1], TensorArgType.INOUT, offset=8),
        ]
        assert await run(lane, function, RemoteArgs(tensors=tensors)) == [False, False, True]
        await client.close(session)


async def test_a_users_exception_arrives_whole_with_where_it_happened(daemon: ForegroundDaemon) -> None:  # R6
    def fails(orch: Any, args: Any, config: Any) -> None:
        def deeper() -> None:
            raise LookupError("no such row: 17")

        deeper()

    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        lane = await client.lane(session, "command")
        function = await register(lane, fails)
        with pytest.raises(TaskError, match="LookupError: no such row: 17") as caught:
            await run(lane, function)
        error = caught.value
        assert isinstance(error.__cause__, LookupError)
        assert error.context["session"] == session.session
        assert error.context["host"] == os.uname().nodename
        assert error.context["hashid"] == function.hashid
        assert error.context["sequence"] == 3, "after ATTACH and REGISTER"
        assert "in deeper" in error.remote_traceback
        assert "dispatcher.py" not in error.remote_traceback
        assert "worker.py" not in error.remote_traceback
        assert await run(lane, await register(lane, lambda orch, args, config: 5)) == 5  # the session goes on
        await client.close(session)


async def test_a_sub_worker_that_dies_is_explained_and_replaced(daemon: ForegroundDaemon) -> None:  # W4 D7
    def dies(args: Any) -> None:
        import os
        import sys

        print("the licence server said no", file=sys.stderr)
        os._exit(7)

    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        lane = await client.lane(session, "command")
        hashid = (await register(lane, dies)).hashid
        function = await register(lane, lambda orch, args, config: orch.submit_sub(hashid) and None)
        with pytest.raises(WorkerDied, match=r"exited with code 7[\s\S]*the licence server said no"):
            await run(lane, function)
        fine = (await register(lane, lambda args: None)).hashid
        await run(lane, await register(lane, lambda orch, args, config: orch.submit_sub(fine) and None))
        await client.close(session)


async def test_requests_take_effect_in_the_order_they_were_sent(daemon: ForegroundDaemon) -> None:  # R3
    def note(orch: Any, args: Any, config: Any) -> list[int]:
        import builtins
        import time

        time.sleep(0.05 if args.scalar(0) == 0 else 0)
        notes = builtins.__dict__.setdefault("notes", [])
        notes.append(args.scalar(0))
        return list(notes)

    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        lane = await client.lane(session, "command")
        content, seen = content_of(note), {}

        async def ask(number: int) -> None:
            seen[number] = await run(lane, content, RemoteArgs(scalars=[number]))

        async def unregister() -> None:
            await lane.request(Unregister(digest=content.digest))

        await lane.request(Register(digest=content.digest), content.encode())
        async with trio.open_nursery() as nursery:  # started in this order one after the other, all in flight at once
            for work in (lambda: ask(0), lambda: ask(1), lambda: ask(2), unregister):
                nursery.start_soon(work)
                await trio.testing.wait_all_tasks_blocked()
        assert seen == {0: [0], 1: [0, 1], 2: [0, 1, 2]}
        with pytest.raises(RegistrationError, match=f"{content.hashid} is not registered") as caught:
            await ask(3)
        assert caught.value.code == "CALLABLE_NOT_REGISTERED"
        await client.close(session)


async def test_a_long_task_does_not_look_dead_until_its_runner_is(
    daemon: ForegroundDaemon,
) -> None:  # R4
    def long(orch: Any, args: Any, config: Any) -> None:
        import time

        time.sleep(3600)

    async with client_of(daemon.endpoint) as client:
        session, other = await client.open(), await client.open()
        lane = await client.lane(session, "command")
        function = await register(lane, long)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(SessionLost):
                    await run(lane, function)

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await client.close(other)
            assert lane.cause is None
            os.kill(session.pid, 9)
        assert (await client.ended.receive()).session == session.session


async def test_registering_twice_counts_twice(daemon: ForegroundDaemon) -> None:  # C3
    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        lane = await client.lane(session, "command")
        function = await register(lane, lambda orch, args, config: 1)
        await lane.request(Register(digest=function.digest), function.encode())
        await lane.request(Unregister(digest=function.digest))
        assert await run(lane, function) == 1
        await lane.request(Unregister(digest=function.digest))
        with pytest.raises(RegistrationError, match="is not registered"):
            await run(lane, function)
        await client.close(session)


def kernel() -> ChipCallable:
    source = (
        '#include "simpler_kernel.h"\n'
        "int k(const slr_tensor *t, uint32_t n, const uint64_t *s, uint32_t m) {\n"
        "  (void)t; (void)n; (void)s; (void)m;\n"
        "  return 0;\n"
        "}\n"
    )
    return ChipCallable.from_c_source(source, "k", [])


@pytest.mark.parametrize(
    ("make", "code", "why"),
    [
        (
            kernel,
            "CALLABLE_KIND_UNSUPPORTED",
            "has no chip to run it; give it devices",
        ),
        (lambda: RemoteCallable("json:dumps"), "CALLABLE_IMPORT_FAILED", "json"),
        (lambda: RemoteCallable("no_such_module:f"), "CALLABLE_IMPORT_FAILED", "no_such_module"),
    ],
)
async def test_what_the_session_cannot_use_is_refused_at_register(
    daemon: ForegroundDaemon, tmp_path: Path, make: Callable[[], object], code: str, why: str
) -> None:  # C4 C9
    async with client_of(daemon.endpoint) as client:
        session = await client.open(import_paths=[str(tmp_path)])
        lane = await client.lane(session, "command")
        with pytest.raises(RegistrationError, match=why) as caught:
            await register(lane, make())
        assert caught.value.code == code
        await client.close(session)


async def test_content_that_is_not_what_its_digest_says_is_refused(daemon: ForegroundDaemon) -> None:  # C4
    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        lane = await client.lane(session, "command")
        one, other = content_of(lambda: 1), content_of(lambda: 2)
        with pytest.raises(RegistrationError) as caught:
            await lane.request(Register(digest=one.digest), other.encode())
        assert caught.value.code == "HASHID_DESCRIPTOR_MISMATCH"
        await client.close(session)


async def test_the_trace_names_every_process_and_has_the_runs(daemon: ForegroundDaemon) -> None:
    async with client_of(daemon.endpoint) as client:
        session = await client.open(device_ids=[0], num_sub_workers=1)
        lane = await client.lane(session, "command")
        hashid = (await register(lane, lambda args: None)).hashid
        function = await register(lane, lambda orch, args, config: orch.submit_sub(hashid) and None)
        await run(lane, function)
        reply, data = await lane.request(Trace(since_ns=0))
        names = [process.name.split()[-1] for process in reply.processes]
        assert names == ["chip0", "sub0", "orchestration"]
        assert all(process.pid for process in reply.processes)
        calls = [(event.worker, format_hashid(event.digest)) for event in unpack_trace(data) if event.op is Op.CALL]
        assert sorted(calls) == [(1, hashid), (2, function.hashid)]
        _, later = await lane.request(Trace(since_ns=reply.clock_ns))
        assert unpack_trace(later) == []
        await client.close(session)


async def test_a_session_with_an_open_lane_outlives_it_until_closed(daemon: ForegroundDaemon) -> None:  # R3
    async def opened(client: Client) -> tuple[OpenReply, Link]:
        session = await client.open()
        return session, await client.lane(session, "command")

    async with client_of(daemon.endpoint) as client:
        session, lane = await opened(client)
        await lane.aclose()
        data = await client.lane(session, "data")
        with pytest.raises(StaleHandle):
            await data.request(CopyFrom(buffer=0, generation=1, offset=0, nbytes=1))
        await client.close(session)
