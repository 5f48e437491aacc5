"""docs/protocol.md against the code: its messages and their fields, its header, its reasons and its limits."""

from __future__ import annotations

import re
from pathlib import Path

import message_fields
import msgspec

from protocol_1 import VERSION_1
from simpler import limits
from simpler.wire.command_messages import Malloc, MallocReply
from simpler.wire.control_messages import Hello, HelloReply
from simpler.wire.data_messages import CopyTo
from simpler.wire.decoder import FrameDecoder
from simpler.wire.frames import HEADER_BYTES, Flags, MessageType, Reason, encode_header
from simpler.wire.message_tables import PUSHES, REQUESTS
from simpler.wire.messages import Message

PAGE = (Path(__file__).parents[2] / "docs/protocol.md").read_text()


ROW = re.compile(r"^\| (\d+) \| ([A-Z_]+) \|([^|]*)\|([^|]*)\|([^|]*)\|$", re.MULTILINE)


def fields(cls: type[Message]) -> str:
    return ", ".join(field.encode_name + ("" if field.required else "?") for field in msgspec.structs.fields(cls))


def described(cell: str) -> str:
    """A cell of the table without what it says beside the names of fields."""
    return re.sub(r" \([^)]*\)", "", cell.strip().removeprefix("push: "))


def test_every_message_is_described_with_its_fields() -> None:
    rows = {int(number): columns for number, *columns in ROW.findall(PAGE)}
    assert {number: row[0] for number, row in rows.items()} == {kind.value: kind.name for kind in REQUESTS | PUSHES}
    for kind, request in REQUESTS.items():
        _, sent, answered, _ = rows[kind]
        assert (described(sent), described(answered)) == (fields(request), fields(request.REPLY)), kind.name
    for kind, push in PUSHES.items():
        assert described(rows[kind][1]) == fields(push), kind.name


def test_the_page_of_messages_is_that_of_the_code() -> None:
    assert message_fields.PAGE.read_text() == message_fields.page(), "run python tests/docs/message_fields.py"


def test_the_header_is_as_long_as_the_table_says() -> None:
    assert f"a header of {HEADER_BYTES} bytes" in PAGE
    example = re.search(r"`(534c5231[0-9a-f ]*)`", PAGE)
    assert example is not None
    assert bytes.fromhex(example[1]) == encode_header(MessageType.HELLO, Flags.NONE, 1, 3) + b"abc"


def test_reasons_and_limits_have_their_names_in_the_code() -> None:
    listed = re.search(r"The reason of a protocol error is(.*?)\n\n", PAGE, re.S)
    assert listed is not None
    assert set(re.findall(r"[A-Z_]{5,}", listed[1])) == set(Reason) - {Reason.DEAD}
    for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)*_(?:BYTES|ITEMS|S|FLIGHT|DEPTH|HELD)\b", PAGE):
        assert hasattr(limits, name), name


def test_the_examples_are_frames_of_the_messages_that_they_name() -> None:
    said: list[Message] = []
    for block in re.findall(r"```hex\n(.*?)```", PAGE, re.DOTALL):
        decoder, written = FrameDecoder(), bytes.fromhex(block)
        assert decoder.feed(written) == len(written)
        while (frame := decoder.next_frame()) is not None:
            kind, is_reply = frame.header.type, frame.header.flags is Flags.REPLY
            said.append((REQUESTS[kind].REPLY if is_reply else REQUESTS[kind]).decode(frame.payload))
            if frame.header.data_bytes:
                decoder.place_data(None)
                assert decoder.take_data()
        decoder.end()
    assert said == [
        Hello(versions=[2, 1], program="demo", pid=7),
        HelloReply(version=2, daemon="simplerd", host="far"),
        Malloc(nbytes=32),
        MallocReply(buffer=1, generation=1),
        CopyTo(buffer=1, generation=1, offset=8),
    ]


def test_version_1_is_described_as_it_was() -> None:
    """By the table that the test of programs with an older daemon goes by."""
    described_types = re.search(r"\*\*Version 1\*\* has (.*?),\nwith their required fields", PAGE, re.DOTALL)
    assert described_types is not None
    listed = set(re.findall(r"\b[A-Z_]{4,}\b", described_types[1]))
    assert listed == {kind.name for kind in VERSION_1} | {"ENDED", "FAULT"}
