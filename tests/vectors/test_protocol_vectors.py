"""The published frames of every message, read and written by this library, and made once more without it."""

from __future__ import annotations

import json
import struct
from typing import Any

import msgpack
import msgspec
import protocol_vectors
import pytest

from simpler.errors import ArgumentError
from simpler.wire.conversation import Conversation
from simpler.wire.decoder import FrameDecoder
from simpler.wire.frames import Flags, MessageType, encode_header
from simpler.wire.message_tables import PUSHES, REQUESTS
from simpler.wire.messages import Message
from simpler.wire.unanswered import Call

VECTORS: list[dict[str, Any]] = json.loads(protocol_vectors.FILE.read_text())["vectors"]
each = pytest.mark.parametrize("vector", VECTORS, ids=[one["name"] for one in VECTORS])


def class_of(vector: dict[str, Any]) -> type[Message]:
    kind = MessageType(vector["type"])
    if vector["flags"] == Flags.PUSH:
        return PUSHES[kind]
    return REQUESTS[kind].REPLY if vector["flags"] == Flags.REPLY else REQUESTS[kind]


def payload_of(vector: dict[str, Any]) -> bytes:
    frame = bytes.fromhex(vector["frame"])
    return frame[44 : len(frame) - len(bytes.fromhex(vector["data"]))]


def test_every_message_has_its_vectors() -> None:
    expected = {
        protocol_vectors.names(cls, full=full) for cls, _ in protocol_vectors.messages() for full in (False, True)
    }
    assert {one["name"] for one in VECTORS} == expected, "run python tests/vectors/protocol_vectors.py"
    assert not [one["name"] for one in VECTORS if protocol_vectors.is_outgrown(one, class_of(one))]


@each
def test_a_frame_is_made_and_read_so(vector: dict[str, Any]) -> None:
    kind, flags, session, sequence = (vector[key] for key in ("type", "flags", "session", "sequence"))
    fields, data = protocol_vectors.meant(vector["fields"]), bytes.fromhex(vector["data"])
    frame = bytes.fromhex(vector["frame"])

    by_the_specification = msgpack.packb(fields)
    lengths = len(by_the_specification), len(data)
    head = struct.pack("<4sBBHQIIQIQ", b"SLR1", 1, kind, flags, session, 0, 0, sequence, *lengths)
    assert frame == head + by_the_specification + data

    payload = msgspec.convert(fields, class_of(vector), builtin_types=(bytes,)).encode()
    head = encode_header(MessageType(kind), Flags(flags), sequence, len(payload), len(data), session=session)
    assert frame == head + payload + data

    decoder = FrameDecoder()
    decoder.feed(frame)
    read = decoder.next_frame()
    assert read is not None
    assert (read.header.type, read.header.flags) == (kind, flags)
    assert (read.header.session, read.header.sequence) == (session, sequence)
    message = class_of(vector).decode(read.payload)
    assert msgspec.to_builtins(message, builtin_types=(bytes,)) == fields


def test_a_field_that_is_not_known_is_refused() -> None:
    """So whoever adds one in a later version must know that the peer speaks it."""
    for vector in VECTORS:
        fields = protocol_vectors.meant(vector["fields"]) | {"from the future": 1}
        with pytest.raises(ArgumentError, match="unknown field `from the future`"):
            class_of(vector).decode(msgpack.packb(fields))


def test_the_published_requests_can_be_sent_one_after_the_other() -> None:
    """As one conversation, but for the numbers: the vectors all have the same; and whatever session each is of."""
    peer = Conversation(name="peer", place=lambda _, nbytes: memoryview(bytearray(nbytes)), at_once=None, pickles=False)
    requests = [one for one in VECTORS if one["flags"] == Flags.NONE]
    for number, vector in enumerate(requests, 1):
        frame = bytearray.fromhex(vector["frame"])
        frame[24:32] = struct.pack("<Q", number)
        (peer.session,) = struct.unpack_from("<Q", frame, 8)
        peer.feed(frame)
        event = peer.next_event()
        assert isinstance(event, Call)
        assert event.request == class_of(vector).decode(payload_of(vector))
        assert bytes(event.data) == bytes.fromhex(vector["data"])
