"""docs/protocol.md against the code: its messages and their fields, its header, its reasons and its limits."""

from __future__ import annotations

import re
from pathlib import Path

import message_fields
import msgspec

from simpler import limits
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
