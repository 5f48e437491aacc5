"""Messages: what they look like on the wire, and what is refused in them."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpler import limits
from simpler.errors import ArgumentError, ProtocolError, SimplerError
from simpler.tensor import DataType, TensorArgType
from simpler.wire.command_messages import Malloc, Task, TaskReply
from simpler.wire.control_messages import Attach, Ended, Hello, Manifest, Open
from simpler.wire.frames import Flags, MessageType
from simpler.wire.message_tables import PUSHES, REQUESTS, payload_limit
from simpler.wire.messages import Message
from simpler.wire.task_args import BufferTensor, InlineTensor, OutputTensor, RemoteArgs

INPUT, INOUT = TensorArgType.INPUT.value, TensorArgType.INOUT.value
FLOAT32 = DataType.FLOAT32.value


def test_a_hello_written_by_hand() -> None:
    payload = b"\x83\xa8versions\x91\x01\xa7program\xa1x\xa3pid\x05"
    hello = Hello(versions=[1], program="x", pid=5)
    assert Hello.decode(payload) == hello
    assert hello.encode() == payload


def test_every_type_is_a_request_or_a_push() -> None:
    assert REQUESTS.keys() | PUSHES.keys() == set(MessageType)
    assert not REQUESTS.keys() & PUSHES.keys()
    for kind, request in REQUESTS.items():
        assert kind == request.TYPE == request.REPLY.TYPE


SAMPLES: list[Message] = [
    Open(manifest=Manifest(platform="sim", runtime="graph", device_ids=[0, 1], env={"A": None, "B": "b"})),
    Attach(session="s-1", token=bytes(16), lane="data"),
    Task(digest=bytes(32), args=b"anything"),
    TaskReply(result=None),
    Ended(session="s-1", cause="killed by SIGKILL", code="WORKER_DIED", signal=9, stderr=["bye", ""]),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    assert type(message).decode(message.encode()) == message


WRONG_FIELDS = [
    (Hello, {"versions": ["1"], "program": "x", "pid": 1}, r"Hello: Expected `int`, got `str` - at `\$.versions\[0\]`"),
    (Hello, {"versions": [1], "program": "x"}, "missing required field `pid`"),
    (Hello, {"versions": [1], "program": "x", "pid": 1, "more": 1}, "unknown field `more`"),
    (Hello, {"versions": [], "program": "x", "pid": 1}, "length >= 1"),
    (Hello, {"versions": [1], "program": "x", "pid": -1}, r">= 0.*\$.pid"),
    (Hello, {"versions": [True], "program": "x", "pid": 1}, "got `bool`"),
    (Attach, {"session": "s", "token": "text", "lane": "data"}, "Expected `bytes`, got `str`"),
    (Attach, {"session": "s", "token": b"", "lane": "third"}, "'third'"),
    (Task, {"digest": b"short", "args": b""}, "length >= 32"),
    (Malloc, {"nbytes": 0}, ">= 1"),
    (Hello, [1, 2], "Expected `object`, got `array`"),
]


@pytest.mark.parametrize(("cls", "fields", "why"), WRONG_FIELDS)
def test_a_wrong_field_is_named(cls: type[Message], fields: object, why: str) -> None:  # H5
    with pytest.raises(ArgumentError, match=why):
        cls.decode(msgpack.packb(fields))


UNREADABLE = {
    "empty": b"",
    "cut": b"\x83\xa8versions",
    "trailing bytes": Hello(versions=[1], program="x", pid=5).encode() + b"\x00",
    "extension type": b"\x81\xa1a\xd4\x01\x00",
    "invalid text": b"\x81\xa1a\xa1\xff",
    "number as a key": b"\x81\x01\x01",
    "never a msgpack byte": b"\xc1",
    "array that announces too much": b"\xdd\xff\xff\xff\xff",
    "map that announces too much": b"\xdf\xff\xff\xff\xff",
    "nested too deep": b"\x91" * 2000 + b"\x00",
    "many small maps": b"\xde\x04\x00" + (b"\xa1a\xde\x04\x00" + b"\xa1a\x80" * 1024) * 1024,
    "many small arrays": b"\xdc\x04\x00" * 2 + (b"\xdc\x04\x00" + b"\x90" * 1024) * 1024,
}


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_no_payload_breaks_the_connection(payload: bytes) -> None:  # R2
    with pytest.raises(ProtocolError) as raised:
        Task.decode(payload)
    assert raised.value.context["reason"] == "BAD_PAYLOAD"


def test_each_message_has_a_limit_of_its_own() -> None:  # R2
    much = "x" * (Hello.PAYLOAD_BYTES + 1)
    with pytest.raises(ArgumentError, match="remote buffers"):
        Hello(versions=[1], program=much, pid=1).encode()
    with pytest.raises(ProtocolError, match="at most"):
        Hello.decode(msgpack.packb({"versions": [1], "program": much, "pid": 1}))


def test_the_limit_of_a_frame_is_that_of_its_message() -> None:  # R2
    for kind, request in REQUESTS.items():
        assert payload_limit(kind, Flags.NONE) == request.PAYLOAD_BYTES
        assert payload_limit(kind, Flags.REPLY) == request.REPLY.PAYLOAD_BYTES
        assert payload_limit(kind, Flags.REPLY | Flags.ERROR) == limits.FRAME_PAYLOAD_BYTES
        assert payload_limit(kind, Flags.PUSH) == Message.PAYLOAD_BYTES
    for kind, push in PUSHES.items():
        assert payload_limit(kind, Flags.PUSH) == push.PAYLOAD_BYTES


@given(st.binary(max_size=200))
def test_nonsense_gives_errors_of_ours(payload: bytes) -> None:  # R2
    for cls in (Hello, Open, Task):
        with pytest.raises((ProtocolError, ArgumentError)):
            cls.decode(payload)


def tensor(**changes: object) -> dict[str, object]:
    fields: dict[str, object] = {"kind": "buffer", "tag": INOUT, "dtype": FLOAT32, "shape": [2, 3]}
    return fields | {"buffer": 1, "generation": 1, "offset": 24} | changes


def inline(**changes: object) -> dict[str, object]:
    return {"kind": "inline", "tag": INPUT, "dtype": FLOAT32, "shape": [2], "data": bytes(8)} | changes


def output(**changes: object) -> dict[str, object]:
    return {"kind": "output", "tag": INOUT, "dtype": FLOAT32, "shape": [2], "output": 1} | changes


def test_arguments_travel_as_they_are() -> None:
    args = RemoteArgs(
        tensors=[
            BufferTensor(tag=INOUT, dtype=FLOAT32, shape=[2, 3], buffer=1, generation=1, offset=24),
            InlineTensor(tag=INPUT, dtype=FLOAT32, shape=[2], data=bytes(8)),
            OutputTensor(tag=INOUT, dtype=FLOAT32, shape=[3], output=2**63),
        ],
        scalars=[1, -1, 2**64 - 1, 0.5, True, b"bytes", "text"],
    )
    again = RemoteArgs.decode(args.encode())
    assert again == args
    assert [type(scalar) for scalar in again.scalars] == [type(scalar) for scalar in args.scalars]
    assert [tensor.nbytes for tensor in again.tensors] == [24, 8, 12]
    assert RemoteArgs.decode(b"") == RemoteArgs()


WRONG_ARGS = [
    ({"tensors": [tensor(tag=9)]}, "tag 9 is not a TensorArgType"),
    ({"tensors": [tensor(dtype=99)]}, "dtype 99 is not a DataType"),
    ({"tensors": [tensor(shape=[-1])]}, ">= 0"),
    ({"tensors": [tensor(shape=[1] * 9)]}, "length <= 8"),
    ({"tensors": [tensor(offset=-8)]}, ">= 0"),
    ({"tensors": [tensor(kind="file")]}, "Invalid value 'file'"),
    ({"tensors": [inline(data=bytes(7))]}, "7 bytes for a tensor of shape"),
    ({"tensors": [inline(tag=INOUT)]}, "must be INPUT"),
    ({"tensors": [inline(shape=[limits.INLINE_BYTES], data=bytes(limits.INLINE_BYTES + 1))]}, "length <="),
    ({"tensors": [output(output=-1)]}, ">= 0"),
    ({"tensors": [output(tag=9)]}, "tag 9 is not a TensorArgType"),
    ({"tensors": [output(offset=8)]}, "unknown field"),
    ({"scalars": [None]}, "scalar 0 is a NoneType"),
    ({"scalars": [1, [2]]}, "scalar 1 is a list"),
    ({"scalars": ["é" * (limits.MESSAGE_TEXT_BYTES // 2), "x" * limits.MESSAGE_TEXT_BYTES]}, None),
]


@pytest.mark.parametrize(("fields", "why"), WRONG_ARGS)
def test_wrong_arguments_are_refused(fields: object, why: str | None) -> None:  # B3
    encoded = msgpack.packb(fields)
    if why is None:
        RemoteArgs.decode(encoded)
        return
    with pytest.raises(ArgumentError, match=why):
        RemoteArgs.decode(encoded)


def test_a_text_is_limited_in_bytes_not_in_characters() -> None:  # R10
    with pytest.raises(SimplerError):
        RemoteArgs.decode(msgpack.packb({"scalars": ["é" * (limits.MESSAGE_TEXT_BYTES // 2 + 1)]}))
