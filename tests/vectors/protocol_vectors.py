"""Adds to protocol.json what it lacks: ``python tests/vectors/protocol_vectors.py``. What is there stays as it is.

Each message has two frames: with no more than it requires, and with all its fields. The values are made from the types
of the fields; what matters is that the bytes of a frame, once published, never change. Only the frame with all fields
of a message is made anew, when the message has got another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as types

from simpler.wire.frames import MAY_CARRY_DATA, Flags, MessageType, encode_header
from simpler.wire.message_tables import PUSHES, REQUESTS
from simpler.wire.messages import Message

FILE = Path(__file__).with_name("protocol.json")
SESSION, SEQUENCE, DATA = 7, 3, b"DATA!"
Vector = dict[str, Any]


def messages() -> Iterator[tuple[type[Message], Flags]]:
    """Every class that can be in a frame, with the flags of such a frame."""
    for request in REQUESTS.values():
        yield request, Flags.NONE
        yield request.REPLY, Flags.REPLY
    for push in PUSHES.values():
        yield push, Flags.PUSH


def names(cls: type[Message], *, full: bool) -> str:
    """What the vector of a message is called."""
    return f"{cls.__name__}, {'all fields' if full else 'required fields'}"


def vector(cls: type[Message], flags: Flags, *, full: bool) -> Vector:
    """A frame with such a message."""
    info = types.type_info(cls)
    assert isinstance(info, types.StructType)
    message = msgspec.convert(value(info, full=full), cls)
    data = DATA if full and (cls.TYPE, flags) in MAY_CARRY_DATA else b""
    session = SESSION if cls.TYPE >= MessageType.ATTACH else 0
    payload = message.encode()
    head = encode_header(cls.TYPE, flags, SEQUENCE, len(payload), len(data), session=session)
    return {
        "name": names(cls, full=full),
        "type": cls.TYPE.value,
        "flags": flags.value,
        "session": session,
        "sequence": SEQUENCE,
        "fields": shown(msgspec.to_builtins(message, builtin_types=(bytes,))),
        "data": data.hex(),
        "frame": (head + payload + data).hex(),
    }


def value(kind: types.Type, *, full: bool) -> Any:
    """Some value of that type, within its bounds."""
    match kind:
        case types.IntType():
            return max(1, kind.ge or 0)
        case types.FloatType():
            return 1.5
        case types.StrType():
            return "é"
        case types.BytesType():
            return bytes(range(kind.min_length or 2))
        case types.BoolType():
            return True
        case types.ListType():
            return [value(kind.item_type, full=full)]
        case types.DictType():
            return {"key": value(kind.value_type, full=full)}
        case types.UnionType():
            return value(next(one for one in kind.types if not isinstance(one, types.NoneType)), full=full)
        case types.LiteralType():
            return kind.values[-1]
        case types.StructType():
            fields = {one.encode_name: value(one.type, full=full) for one in kind.fields if full or one.required}
            return fields | ({kind.tag_field: kind.tag} if kind.tag_field else {})
    raise NotImplementedError(f"no value for {kind} yet")


def shown(part: Any) -> Any:
    """As JSON holds it: bytes as {"hex": ...}."""
    match part:
        case bytes():
            return {"hex": part.hex()}
        case dict():
            return {key: shown(item) for key, item in part.items()}
        case list():
            return [shown(item) for item in part]
    return part


def meant(part: Any) -> Any:
    """What ``shown`` was given."""
    match part:
        case {"hex": str(text)}:
            return bytes.fromhex(text)
        case dict():
            return {key: meant(item) for key, item in part.items()}
        case list():
            return [meant(item) for item in part]
    return part


def is_outgrown(one: Vector, cls: type[Message]) -> bool:
    """Whether a vector with all fields lacks one."""
    known = {field.encode_name for field in msgspec.structs.fields(cls)}
    return one["name"] == names(cls, full=True) and set(one["fields"]) != known


def main() -> None:
    classes = {(cls.TYPE.value, flags.value): cls for cls, flags in messages()}
    kept = json.loads(FILE.read_text())["vectors"] if FILE.exists() else []
    kept = [one for one in kept if not is_outgrown(one, classes[one["type"], one["flags"]])]
    there = {one["name"] for one in kept}
    for cls, flags in messages():
        kept += [vector(cls, flags, full=full) for full in (False, True) if names(cls, full=full) not in there]
    lines = ",\n".join(f"  {json.dumps(one, ensure_ascii=False)}" for one in sorted(kept, key=order))
    FILE.write_text(f'{{"vectors": [\n{lines}\n]}}\n')


def order(one: Vector) -> tuple[int, int, str]:
    return one["type"], one["flags"], one["name"]


if __name__ == "__main__":
    main()
