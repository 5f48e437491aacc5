"""The published vectors of callables, made once more from the rules of C1 alone: nothing of Simpler is used here."""

from __future__ import annotations

import hashlib
import json
import struct
import unicodedata
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "vectors" / "callables.json"
VECTORS: list[dict[str, Any]] = json.loads(FILE.read_text())["vectors"]
DIRECTIONS = {"SCALAR": 0, "IN": 1, "OUT": 2, "INOUT": 3}


def sized(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def sha256(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def signature_schema(names: list[str]) -> bytes:
    return struct.pack(f"<{2 + len(names)}I", 1, len(names), *(DIRECTIONS[name] for name in names))


def payload_of(kind: int, fields: dict[str, Any], published: bytes) -> bytes:
    if kind != 1:
        return published
    schema = signature_schema(fields["signature"])
    symbol, elf = fields["symbol"].encode(), bytes.fromhex(fields["elf_hex"])
    return struct.pack("<I", 1) + sized(symbol) + sized(schema) + sized(elf)


def descriptor_of(kind: int, fields: dict[str, Any], payload: bytes) -> bytes:
    head = struct.pack("<II", 1, kind)
    if kind == 1:
        names = [sized(fields[name].encode()) for name in ("target_arch", "platform", "runtime")]
        return head + b"".join(names) + sha256(payload) + sha256(signature_schema(fields["signature"]))
    if kind == 2:
        return head + struct.pack("<II", fields["payload_format"], fields["serializer"]) + sha256(payload)
    return head + sized(fields["module"].encode()) + sized(fields["qualname"].encode())


def made_anew(name: str, kind: int, fields: dict[str, Any], published: bytes = b"") -> dict[str, Any]:
    """A vector from its fields."""
    if kind == 1:
        fields = {**fields, "signature_schema_hex": signature_schema(fields["signature"]).hex()}
    payload = payload_of(kind, fields, published)
    descriptor = descriptor_of(kind, fields, payload)
    return {
        "name": name,
        "kind": kind,
        "fields": fields,
        "payload_hex": payload.hex(),
        "descriptor_hex": descriptor.hex(),
        "hashid": f"sha256:{sha256(descriptor).hex()}",
        "content_hex": (sized(descriptor) + sized(payload)).hex(),
    }


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_follows_from_the_rules(vector: dict[str, Any]) -> None:  # C1
    published = bytes.fromhex(vector["payload_hex"])
    assert made_anew(vector["name"], vector["kind"], vector["fields"], published) == vector


def test_the_vectors_cover_what_implementations_get_wrong() -> None:  # C1
    """Every kind; every direction and none; lengths of more than a byte; text whose bytes are more than its letters."""
    fields = [vector["fields"] for vector in VECTORS]
    assert {vector["kind"] for vector in VECTORS} == {1, 2, 3}
    signatures = [each["signature"] for each in fields if "signature" in each]
    assert [] in signatures
    assert {name for each in signatures for name in each} == set(DIRECTIONS)
    assert max(map(len, signatures)) > 255
    assert max(len(vector["payload_hex"]) // 2 for vector in VECTORS if vector["kind"] == 2) > 255
    texts = [value for each in fields for value in each.values() if isinstance(value, str)]
    assert max(map(len, texts)) > 255
    assert any(max(map(ord, each), default=0) > 0xFFFF for each in texts)
    assert len({vector["hashid"] for vector in VECTORS}) == len(VECTORS)


def test_names_are_bytes_and_not_normalised() -> None:  # C1, C2
    targets = {vector["fields"]["module"]: vector["hashid"] for vector in VECTORS if vector["kind"] == 3}
    composed = next(name for name in targets if name != unicodedata.normalize("NFD", name))
    assert targets[composed] != targets[unicodedata.normalize("NFD", composed)]
