"""Writes docs/messages.md from the classes of the messages: ``python tests/docs/message_fields.py``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as types

from simpler import limits
from simpler.wire.frames import MAY_CARRY_DATA, Flags, MessageType
from simpler.wire.message_tables import PUSHES, REQUESTS
from simpler.wire.task_args import RemoteArgs

PROTOCOL = Path(__file__).parents[2] / "docs/protocol.md"
LIMIT = re.compile(r"\b[A-Z]+(?:_[A-Z]+)*_(?:BYTES|ITEMS|S|FLIGHT|DEPTH|HELD)\b")
PAGE = Path(__file__).parents[2] / "docs/messages.md"
HEAD = """# Messages

Generated from the classes in the code by `tests/docs/message_fields.py`; a test compares.
[protocol.md](protocol.md) says how a payload is written, and in which order messages come. A field with a default may
stay out, and does when it has it. The limits that protocol.md names are at the end, with the unit last in the name: a
sender that keeps to them is never refused for its size. Those in bytes, items and counts are the same for every release
of a protocol version; the times (seconds) are defaults.

| type | means |
| --- | --- |
| int | an integer of 64 bits, signed or not |
| float | a number: a msgpack float, or an integer |
| bool, text, bytes, nil | as in msgpack: a boolean, UTF-8 (str), bin, nil |
| [T], {text: T} | an array, a map |
| T or U | either |
"""


def page() -> str:
    """The whole page."""
    structs: dict[str, types.StructType] = {}
    parts = [HEAD]
    for kind in sorted(REQUESTS.keys() | PUSHES.keys()):
        parts += section(kind, structs)
    parts.append("## Maps within messages\n")
    structs[RemoteArgs.__name__] = info(RemoteArgs, structs)
    parts += [part for struct in list(structs.values()) for part in definition(struct, structs)]
    return "\n".join([*parts, *values()])


def values() -> Iterator[str]:
    """The limits that the protocol names, with their values."""
    yield "## Limits\n\n| limit | value |\n| --- | --- |"
    for name in sorted(set(LIMIT.findall(PROTOCOL.read_text()))):
        yield f"| {name} | {getattr(limits, name)} |"
    yield ""


def section(kind: MessageType, structs: dict[str, types.StructType]) -> Iterator[str]:
    """A message: its request and its reply, or its push."""
    yield f"## {kind.value} {kind.name}\n"
    if kind in PUSHES:
        yield from message("Push", PUSHES[kind], Flags.PUSH, structs)
        return
    yield from message("Request", REQUESTS[kind], Flags.NONE, structs)
    yield from message("Reply", REQUESTS[kind].REPLY, Flags.REPLY, structs)


def message(what: str, cls: type[Any], flags: Flags, structs: dict[str, types.StructType]) -> Iterator[str]:
    data = ", with data" if (cls.TYPE, flags) in MAY_CARRY_DATA else ""
    yield f"**{what}**, at most {cls.PAYLOAD_BYTES} payload bytes{data}. {prose(cls)}\n"
    yield from fields(info(cls, structs), structs)


def definition(struct: types.StructType, structs: dict[str, types.StructType]) -> Iterator[str]:
    tag = f" Its field `{struct.tag_field}` is {struct.tag!r}." if struct.tag_field else ""
    yield f"### {struct.cls.__name__}\n\n{prose(struct.cls)}{tag}\n"
    yield from fields(struct, structs)


def fields(struct: types.StructType, structs: dict[str, types.StructType]) -> Iterator[str]:
    if not struct.fields:
        yield "No fields: an empty map.\n"
        return
    yield "| field | type | default |\n| --- | --- | --- |"
    for field in struct.fields:
        yield f"| {field.encode_name} | {spelled(field.type, structs)} | {default(field)} |"
    yield ""


def default(field: types.Field) -> str:
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return "nil" if value is None else f"`{value!r}`"


def info(cls: type[Any], structs: dict[str, types.StructType]) -> types.StructType:
    found = types.type_info(cls)
    assert isinstance(found, types.StructType)
    for field in found.fields:
        spelled(field.type, structs)
    return found


def spelled(kind: types.Type, structs: dict[str, types.StructType]) -> str:
    """A type in the words of the page's head, with its bounds."""
    match kind:
        case types.IntType() | types.FloatType():
            name = "int" if isinstance(kind, types.IntType) else "float"
            bounds = ((">", kind.gt), ("≥", kind.ge), ("<", kind.lt), ("≤", kind.le))
            return " ".join([name, *(f"{sign} {bound}" for sign, bound in bounds if bound is not None)])
        case types.StrType() | types.BytesType():
            return ("text" if isinstance(kind, types.StrType) else "bytes") + length(kind)
        case types.ListType():
            return f"[{spelled(kind.item_type, structs)}]{length(kind)}"
        case types.DictType():
            return f"{{{spelled(kind.key_type, structs)}: {spelled(kind.value_type, structs)}}}"
        case types.UnionType():
            return " or ".join(spelled(one, structs) for one in kind.types)
        case types.LiteralType():
            return " or ".join(f"`{value!r}`" for value in kind.values)
        case types.StructType():
            if kind.cls.__name__ not in structs:
                structs[kind.cls.__name__] = kind
                info(kind.cls, structs)
            return f"[{kind.cls.__name__}](#{kind.cls.__name__.lower()})"
        case types.BoolType():
            return "bool"
        case types.NoneType():
            return "nil"
        case types.AnyType():
            return "int, float, bool, bytes or text"
    raise NotImplementedError(f"{kind} has no words yet")


def length(kind: types.StrType | types.BytesType | types.ListType) -> str:
    least, most = kind.min_length, kind.max_length
    if least is not None and least == most:
        return f" of length {least}"
    bounds = [f"{sign} {bound}" for sign, bound in (("≥", least), ("≤", most)) if bound is not None]
    return f" of length {', '.join(bounds)}" if bounds else ""


def prose(cls: type[Any]) -> str:
    """The class's docstring in one paragraph."""
    return " ".join(inspect.getdoc(cls).split()).replace("``", "`")  # type: ignore[union-attr]


if __name__ == "__main__":
    PAGE.write_text(page())
