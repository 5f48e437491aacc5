"""Callable identity: canonical bytes, the one validator, and what can be loaded from them."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simpler import limits
from simpler.callable_loading import load
from simpler.callables import (
    CallableKind,
    ChipBlob,
    ChipCallable,
    Content,
    Direction,
    RemoteCallable,
    content_of,
    parse_hashid,
    validate_content,
)
from simpler.content import BLOB_VERSION
from simpler.descriptors import (
    ChipDescriptor,
    Descriptor,
    ImportDescriptor,
    SerializedDescriptor,
    encode_descriptor,
    encode_signature,
    sized,
    text,
    u32,
)
from simpler.errors import RegistrationError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "callables.json").read_text())["vectors"]
vectors = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])


def refused(code: str, match: str) -> Any:
    return pytest.raises(RegistrationError, match=match, check=lambda error: error.code == code)


def described(vector: dict[str, Any]) -> Descriptor:
    fields, payload = vector["fields"], bytes.fromhex(vector["payload_hex"])
    match vector["kind"]:
        case 1:
            signature = encode_signature([Direction[name] for name in fields["signature"]])
            names = (fields["target_arch"], fields["platform"], fields["runtime"])
            return ChipDescriptor(*names, hashlib.sha256(payload).digest(), hashlib.sha256(signature).digest())
        case 2:
            digest = hashlib.sha256(payload).digest()
            return SerializedDescriptor(fields["payload_format"], fields["serializer"], digest)
    return ImportDescriptor(fields["module"], fields["qualname"])


# ---- C1: canonical descriptors


@vectors
def test_a_descriptor_has_the_published_bytes(vector: dict[str, Any]) -> None:  # C1
    content = Content.of(described(vector), bytes.fromhex(vector["payload_hex"]))
    assert content.descriptor.hex() == vector["descriptor_hex"]
    assert content.hashid == vector["hashid"]
    assert content.kind == CallableKind(vector["kind"])
    assert content.encode().hex() == vector["content_hex"]


@vectors
def test_published_bytes_are_read_back(vector: dict[str, Any]) -> None:  # C1
    content = validate_content(parse_hashid(vector["hashid"]), bytes.fromhex(vector["content_hex"]))
    assert content.decoded == described(vector)
    assert encode_descriptor(content.decoded) == content.descriptor


@vectors
def test_content_that_is_cut_off_or_goes_on_is_refused(vector: dict[str, Any]) -> None:  # C8
    digest, encoded = parse_hashid(vector["hashid"]), bytes.fromhex(vector["content_hex"])
    for length in range(len(encoded)):
        with refused("HASHID_DESCRIPTOR_MISMATCH", "cut off"):
            validate_content(digest, encoded[:length])
    with refused("HASHID_DESCRIPTOR_MISMATCH", "1 bytes follow"):
        validate_content(digest, encoded + b"\0")


@vectors
def test_any_changed_bit_is_refused(vector: dict[str, Any]) -> None:  # C4
    digest, encoded = parse_hashid(vector["hashid"]), bytes.fromhex(vector["content_hex"])
    for at in range(8 * len(encoded)):
        changed = bytearray(encoded)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(RegistrationError):
            validate_content(digest, bytes(changed))


def test_the_chip_vector_says_what_the_blob_is() -> None:  # C1
    vector = VECTORS[0]
    fields, blob = vector["fields"], ChipBlob.decode(bytes.fromhex(vector["payload_hex"]))
    assert (blob.symbol, blob.elf.hex()) == (fields["symbol"], fields["elf_hex"])
    assert [direction.name for direction in blob.signature] == fields["signature"]
    assert encode_signature(blob.signature).hex() == fields["signature_schema_hex"]


# ---- C2: hashids

DIGITS = hashlib.sha256(b"").hexdigest()


def test_a_hashid_is_a_digest_in_text() -> None:  # C2
    assert parse_hashid(f"sha256:{DIGITS}") == hashlib.sha256(b"").digest()


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        DIGITS,
        f"SHA256:{DIGITS}",
        f"sha256:{DIGITS.upper()}",
        f"sha256:{DIGITS}\n",
        f"sha256:{DIGITS[:-1]}",
        7,
        None,
    ],
)
def test_anything_else_is_no_hashid(wrong: Any) -> None:  # C2
    with refused("HASHID_FORMAT_INVALID", "64 lower-case hex digits"):
        parse_hashid(wrong)


# ---- C4: the one validator


def validated(descriptor: bytes, payload: bytes = b"") -> Content:
    return validate_content(hashlib.sha256(descriptor).digest(), sized(descriptor) + sized(payload))


def test_content_under_another_digest_is_refused() -> None:  # C4
    content = content_of(len)
    with refused("HASHID_DESCRIPTOR_MISMATCH", content.hashid):
        validate_content(bytes(32), content.encode())


def test_a_payload_that_is_not_the_announced_one_is_refused() -> None:  # C4
    content = content_of(len)
    with refused("HASHID_DESCRIPTOR_MISMATCH", "its descriptor says"):
        validated(content.descriptor, content.payload + b"x")


def test_a_signature_that_is_not_the_announced_one_is_refused() -> None:  # C4
    blob = ChipBlob("k", (Direction.IN,), b"elf").encode()
    other = hashlib.sha256(encode_signature([Direction.OUT])).digest()
    with refused("HASHID_DESCRIPTOR_MISMATCH", "not the one in its descriptor"):
        validated(encode_descriptor(ChipDescriptor("a", "p", "r", hashlib.sha256(blob).digest(), other)), blob)


def test_a_payload_for_an_import_is_refused() -> None:  # C8
    with refused("HASHID_DESCRIPTOR_MISMATCH", "has no payload, but 3 bytes"):
        validated(RemoteCallable("a:b").content.descriptor, b"abc")


@pytest.mark.parametrize(
    ("descriptor", "match"),
    [
        (u32(2) + u32(3) + text("a") + text("b"), "descriptor_schema_version 2 is not known"),
        (u32(1) + u32(4), "callable kind 4"),
        (u32(1) + u32(0), "callable kind 0"),
        (encode_descriptor(SerializedDescriptor(2, 1, hashlib.sha256().digest())), "payload format 2 and serializer 1"),
        (encode_descriptor(SerializedDescriptor(1, 9, hashlib.sha256().digest())), "payload format 1 and serializer 9"),
    ],
)
def test_what_this_release_does_not_know_is_unsupported(descriptor: bytes, match: str) -> None:  # C4
    with refused("CALLABLE_KIND_UNSUPPORTED", match):
        validated(descriptor)


def chip_with(blob: bytes) -> bytes:
    return encode_descriptor(ChipDescriptor("a", "p", "r", hashlib.sha256(blob).digest(), bytes(32)))


@pytest.mark.parametrize(
    ("signature", "match"),
    [
        (u32(1) + u32(1) + u32(4), "direction 4"),
        (u32(1) + u32(2) + u32(0), "cut off"),
        (u32(1) + u32(0) * 2, "4 bytes follow"),
    ],
)
def test_a_malformed_signature_is_refused(signature: bytes, match: str) -> None:  # C1
    blob = u32(BLOB_VERSION) + text("k") + sized(signature) + sized(b"elf")
    with refused("HASHID_DESCRIPTOR_MISMATCH", match):
        validated(chip_with(blob), blob)


@pytest.mark.parametrize("symbol", ["", "a b", "add\0", "é"])
def test_a_blob_with_an_impossible_symbol_is_refused(symbol: str) -> None:  # C4
    blob = u32(BLOB_VERSION) + text(symbol) + sized(encode_signature([])) + sized(b"elf")
    with refused("HASHID_DESCRIPTOR_MISMATCH", "names the symbol"):
        validated(chip_with(blob), blob)


def test_text_that_is_not_utf8_is_refused() -> None:  # C1
    with refused("HASHID_DESCRIPTOR_MISMATCH", "not UTF-8"):
        validated(u32(1) + u32(3) + sized(b"\xff") + text("b"))


def test_a_descriptor_with_bytes_behind_it_is_refused() -> None:  # C8
    with refused("HASHID_DESCRIPTOR_MISMATCH", "1 bytes follow the descriptor"):
        validated(RemoteCallable("a:b").content.descriptor + b"\0")


def test_a_count_that_lies_costs_no_memory() -> None:  # C8
    with refused("HASHID_DESCRIPTOR_MISMATCH", "needs 4294967295 bytes"):
        validated(u32(1) + u32(3) + u32(0xFFFFFFFF))


# ---- what can be registered


def test_a_closure_survives_the_way() -> None:
    base = 40
    content = content_of(lambda value: base + value)
    again = validate_content(content.digest, content.encode())
    assert again == content
    assert load(again)(2) == 42


def test_something_that_is_no_callable_is_refused() -> None:
    with refused("CALLABLE_KIND_UNSUPPORTED", "42 cannot be registered; expected a Python callable"):
        content_of(42)


def test_content_passes_the_validator_again() -> None:  # C4
    content = content_of(len)
    assert content_of(content) == content
    with refused("HASHID_DESCRIPTOR_MISMATCH", "its descriptor says"):
        content_of(Content(content.descriptor, b"else"))


def test_a_callable_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CALLABLE_BYTES", 1000)
    data = bytes(1000)
    with refused("CALLABLE_NOT_SERIALIZABLE", "more than the 1000 that a callable may have; pass data as"):
        content_of(lambda: data)
    with refused("CALLABLE_NOT_SERIALIZABLE", "kernel add has .* may have; strip the object"):
        content_of(ChipCallable("add", (), data, "x86_64"))


def test_a_payload_that_cannot_be_loaded_says_why_in_full() -> None:  # C4
    payload = b"\x80\x04\x8c\x0bno_such_mod\x8c\x01f\x93."
    descriptor = SerializedDescriptor(1, 1, hashlib.sha256(payload).digest())
    with refused("CALLABLE_IMPORT_FAILED", r"ModuleNotFoundError: No module named 'no_such_mod'"):
        load(validated(encode_descriptor(descriptor), payload))


def test_a_payload_that_is_no_callable_is_refused() -> None:  # C4
    payload = pickle.dumps(42)
    descriptor = SerializedDescriptor(1, 1, hashlib.sha256(payload).digest())
    with refused("CALLABLE_KIND_UNSUPPORTED", "holds an object of type int, not a callable"):
        load(validated(encode_descriptor(descriptor), payload))


def test_identity_needs_neither_numpy_nor_cloudpickle() -> None:
    code = "import sys, simpler.callables; assert not {'numpy', 'cloudpickle'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
