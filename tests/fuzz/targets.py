"""What is fuzzed: everything that reads bytes of somebody who may not mean well.

A target takes one input and returns. It catches what such an input may raise, and nothing else: any other error, and
any promise that is not kept, fails it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import msgspec

from simpler import limits
from simpler.content import Content, validate_content
from simpler.error_record import decode_error, encode_error
from simpler.errors import ArgumentError, ProtocolError, SimplerError, TaskError, VersionMismatch
from simpler.tensor import DataType, TensorArgType
from simpler.wire.command_messages import Malloc, MallocReply
from simpler.wire.control_messages import Manifest, Open
from simpler.wire.conversation import Conversation
from simpler.wire.data_messages import CopyFrom, CopyTo
from simpler.wire.decoder import FrameDecoder, State
from simpler.wire.endpoint import parse_endpoint
from simpler.wire.frames import HEADER_BYTES, Flags, MessageType, Reason
from simpler.wire.message_tables import PUSHES, REQUESTS
from simpler.wire.messages import Message, parse, typed
from simpler.wire.pending import Pending
from simpler.wire.task_args import BufferTensor, InlineTensor, RemoteArgs
from simpler.wire.unanswered import Call
from simplerd.admin import jsonrpc
from simplerd.manifest_check import check_manifest
from simplerd.runner import control_protocol

from .mutation import mutated, restructured

VECTORS = Path(__file__).parents[1] / "vectors"
MESSAGES: list[type[Message]] = [*REQUESTS.values(), *(one.REPLY for one in REQUESTS.values()), *PUSHES.values()]
ROOM_BYTES = 1 << 16
"""Data in an input goes to a place of this size; more is refused, as a session refuses what has no room."""


class Target(NamedTuple):
    """``make`` gives the next input of a generator of random numbers. ``share``: of all inputs."""

    run: Callable[[bytes], None]
    make: Callable[[random.Random], bytes]
    share: int


def frames() -> list[bytes]:
    """The published frame of every message, numbered as the only one of its connection."""
    published = json.loads((VECTORS / "protocol.json").read_text())["vectors"]
    return [with_sequence(bytes.fromhex(one["frame"]), 1) for one in published]


def talkative() -> list[bytes]:
    """Those of them that may come on the connection of ``run_conversation``: requests, pushes, and two replies."""
    asked = {MessageType.MALLOC, MessageType.COPY_FROM}
    return [one for one in frames() if not one[6] & Flags.REPLY or one[5] in asked]


def with_sequence(frame: bytes, sequence: int) -> bytes:
    return frame[:24] + sequence.to_bytes(8, "little") + frame[32:]


def payloads() -> list[bytes]:
    """Of the published frames, each behind the number of its class."""
    found = []
    for one in json.loads((VECTORS / "protocol.json").read_text())["vectors"]:
        frame, kind = bytes.fromhex(one["frame"]), MessageType(one["type"])
        request = REQUESTS.get(kind)
        cls = PUSHES[kind] if request is None else request.REPLY if one["flags"] else request
        found.append(bytes([MESSAGES.index(cls)]) + frame[44 : len(frame) - len(one["data"]) // 2])
    return found


def from_any(seeds: list[bytes]) -> Callable[[random.Random], bytes]:
    """Inputs that are bytes of any form."""
    return lambda rng: mutated(rng, seeds)


def from_payloads(seeds: list[bytes], skip: int = 0) -> Callable[[random.Random], bytes]:
    """Inputs that are msgpack behind ``skip`` bytes: half of them well formed, of which some are then changed."""

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return mutated(rng, seeds)
        seed = rng.choice(seeds)
        return seed[:skip] + restructured(rng, seed[skip:])

    return make


def conversation_of(single: list[bytes]) -> Callable[[random.Random], bytes]:
    """Inputs that are several frames on one connection, most of them as they should be."""

    def make(rng: random.Random) -> bytes:
        said, sequence = bytearray(), 0
        for frame in rng.choices(single, k=1 + int(rng.random() * 6)):
            if frame[6] & Flags.REPLY:
                said += with_sequence(frame, 1 + int(rng.random() * 2))
            else:
                sequence += 1
                said += with_sequence(_perhaps_restructured(rng, frame), sequence)
        return bytes(said) if rng.random() < 0.5 else mutated(rng, [bytes(said)])

    return make


def _perhaps_restructured(rng: random.Random, frame: bytes) -> bytes:
    length = int.from_bytes(frame[32:36], "little")
    if rng.random() < 0.5:
        return frame
    payload = restructured(rng, frame[HEADER_BYTES : HEADER_BYTES + length])
    return (
        frame[:32] + len(payload).to_bytes(4, "little") + frame[36:HEADER_BYTES] + payload
        + frame[HEADER_BYTES + length :]
    )  # fmt: skip


def run_decoder(received: bytes) -> None:
    decoder, place = FrameDecoder(read_bytes=256), memoryview(bytearray(ROOM_BYTES))
    left = memoryview(received)
    try:
        while left:
            left = left[decoder.feed(left[:100]) :]
            while True:
                if decoder.state is State.DATA:
                    if not decoder.take_data():
                        break
                elif (frame := decoder.next_frame()) is None:
                    break
                elif frame.header.data_bytes:
                    small = frame.header.data_bytes <= ROOM_BYTES
                    decoder.place_data(place[: frame.header.data_bytes] if small else None)
        decoder.end()
    except (ProtocolError, VersionMismatch) as broken:
        reason = broken.context["reason"]
        assert reason in Reason.__members__


def run_conversation(received: bytes) -> None:
    """Whatever comes, each request is answered once, and who breaks the protocol is told why in a last frame."""
    settled: list[Pending] = []
    ours = [
        Pending(Malloc(nbytes=1), settled.append),
        Pending(CopyFrom(buffer=1, generation=1, offset=0, nbytes=8), settled.append, memoryview(bytearray(8))),
    ]
    talk = Conversation(name="fuzz", place=_place, at_once=4, pickles=False)
    for pending in ours:
        talk.request(pending)
    talk.take_output()
    left = memoryview(received)
    try:
        while left and talk.cause is None:
            left = left[talk.feed(left[:200]) :]
            while (event := talk.next_event()) is not None:
                if isinstance(event, Call):
                    _answer(talk, event)
        if talk.cause is None:
            talk.hung_up()
    except (ProtocolError, VersionMismatch) as broken:
        talk.fail(broken)
    else:
        talk.fail(ProtocolError("the input is over"))
    assert sorted(id(one) for one in settled) == sorted(id(one) for one in ours)
    _well_formed(b"".join(talk.take_output()))


def _place(request: Message, nbytes: int) -> memoryview:
    if nbytes > ROOM_BYTES or not isinstance(request, CopyTo):
        raise ArgumentError("no room")
    return memoryview(bytearray(nbytes))


def _answer(talk: Conversation, call: Call) -> None:
    if call.request is None:
        assert call.refusal is not None
        talk.refuse(call, call.refusal)
    elif isinstance(call.request, Malloc):
        talk.reply(call, MallocReply(buffer=1, generation=1))
    else:
        talk.refuse(call, SimplerError("not served", code="UNSUPPORTED"))


def _well_formed(sent: bytes) -> None:
    """What this side says is what any decoder takes."""
    decoder = FrameDecoder(read_bytes=max(len(sent), 1 << 10))
    assert decoder.feed(sent) == len(sent)
    while decoder.next_frame() is not None:
        pass
    decoder.end()


def run_message(received: bytes) -> None:
    """The two ways of decoding agree, and what was decoded is encoded so that it is decoded so again."""
    if not received:
        return
    cls, payload = MESSAGES[received[0] % len(MESSAGES)], received[1:]
    quick = _outcome(lambda: cls.decode(payload))
    careful = _outcome(lambda: typed(parse(payload), cls, cls.__name__))
    assert quick == careful or (isinstance(quick, Message) and quick.encode() == careful.encode())
    if isinstance(quick, Message):
        again = cls.decode(quick.encode())
        assert again.encode() == quick.encode()


def _outcome(work: Callable[[], Message]) -> Any:
    try:
        return work()
    except (ArgumentError, ProtocolError) as refused:
        return type(refused), refused.message


def run_task_args(received: bytes) -> None:
    try:
        args = RemoteArgs.decode(received)
    except (ArgumentError, ProtocolError):
        return
    assert all(tensor.nbytes >= 0 for tensor in args.tensors)
    assert RemoteArgs.decode(args.encode()).encode() == args.encode()


def run_manifest(received: bytes) -> None:
    try:
        manifest = Open.decode(received).manifest
        check_manifest(manifest, platform="sim", devices=[0, 1], import_roots=["/opt/models"])
    except (ArgumentError, ProtocolError):
        return
    assert manifest.num_sub_workers <= limits.SUB_WORKERS_PER_SESSION
    assert all(path.startswith("/opt/models") for path in manifest.import_paths)


def run_error_record(received: bytes) -> None:
    error = decode_error(received, trust_pickle=False)
    assert isinstance(error.message, str)
    assert error.__cause__ is None
    encode_error(error, may_pickle=False)


def run_callable(received: bytes) -> None:
    """Under its own digest, so that what is checked after that is reached."""
    try:
        validate_content(Content.decode(received).digest, received)
    except SimplerError:
        return


def run_json_line(received: bytes) -> None:
    reader = jsonrpc.LineReader(max_line_bytes=4096)
    reader.feed(received)
    try:
        while (message := reader.next_message()) is not None:
            for item in message.items:
                if isinstance(item, jsonrpc.RpcError):
                    jsonrpc.encode(jsonrpc.failure(None, item))
                else:
                    jsonrpc.encode(jsonrpc.result(item.id, item.method))
    except jsonrpc.LineTooLong:
        return


def run_runner_report(received: bytes) -> None:
    try:
        control_protocol.decode_report(received)
    except ProtocolError:
        return


def run_endpoint(received: bytes) -> None:
    try:
        endpoint = parse_endpoint(received.decode("utf-8", "surrogateescape"))
    except ArgumentError:
        return
    assert parse_endpoint(str(endpoint)) == endpoint


def _task_args() -> list[bytes]:
    tag, dtype = TensorArgType.INPUT.value, DataType.FLOAT32.value
    tensors: list[Any] = [
        BufferTensor(tag=tag, dtype=dtype, shape=[2, 3], buffer=1, generation=1, offset=24),
        InlineTensor(tag=tag, dtype=dtype, shape=[2], data=bytes(8)),
    ]
    return [RemoteArgs(tensors=tensors, scalars=[1, -1, 0.5, True, b"b", "t"]).encode(), RemoteArgs().encode()]


def _manifests() -> list[bytes]:
    full = Manifest(
        platform="sim", runtime="graph", device_ids=[0, 1], num_sub_workers=2, env={"A": None, "B": "b"},
        import_paths=["/opt/models/x"], imports=["a.b:c"], name="n",
    )  # fmt: skip
    return [Open(manifest=full).encode(), Open(manifest=Manifest(platform="sim", runtime="graph")).encode()]


def _error_records() -> list[bytes]:
    failed = TaskError("it failed", worker=1, host="h")
    failed.remote_traceback = "Traceback"
    return [encode_error(failed, may_pickle=False), encode_error(ValueError("x"), may_pickle=False), msgpack.packb({})]


def _callables() -> list[bytes]:
    published = json.loads((VECTORS / "callables.json").read_text())["vectors"]
    return [bytes.fromhex(one["content_hex"]) for one in published]


JSON_LINES = [
    b'{"jsonrpc":"2.0","method":"daemon.status","params":{},"id":1}\n',
    b'[{"jsonrpc":"2.0","method":"a","params":[1,2.5,null,true]},{"jsonrpc":"2.0","method":"b","id":"x"}]\n',
]
REPORTS = [control_protocol.encode(control_protocol.Failed()), msgspec.msgpack.encode({"type": "ready", "chips": [1]})]
ENDPOINTS = [b"host:1234", b"[::1]:80", b"unix:/run/simplerd/session.sock"]

TARGETS = {
    "decoder": Target(run_decoder, conversation_of(frames()), 3),
    "conversation": Target(run_conversation, conversation_of(talkative()), 3),
    "message": Target(run_message, from_payloads(payloads(), skip=1), 4),
    "task_args": Target(run_task_args, from_payloads(_task_args()), 2),
    "manifest": Target(run_manifest, from_payloads(_manifests()), 1),
    "error_record": Target(run_error_record, from_payloads(_error_records()), 1),
    "callable": Target(run_callable, from_any(_callables()), 1),
    "json_line": Target(run_json_line, from_any(JSON_LINES), 2),
    "runner_report": Target(run_runner_report, from_payloads(REPORTS), 1),
    "endpoint": Target(run_endpoint, from_any(ENDPOINTS), 1),
}
