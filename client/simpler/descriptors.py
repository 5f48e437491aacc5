"""Canonical descriptors: the bytes whose SHA-256 is a callable's hashid.

Every integer is unsigned and little-endian, enums are u32, text (UTF-8) and bytes carry a u32 length, and a SHA-256 is
32 raw bytes. Every descriptor begins with u32 ``descriptor_schema_version`` and u32 kind; then follow, in this order,

    CHIP_CALLABLE (1)       target_arch, platform, runtime, SHA-256 of the blob, SHA-256 of the signature schema
    PYTHON_SERIALIZED (2)   u32 payload format, u32 serializer, SHA-256 of the payload
    PYTHON_IMPORT (3)       module, qualname

A signature schema is u32 1, u32 count, then a u32 direction for each argument. What is not in here is not identity:
shapes, configuration, compiler, private slots, environment. Decoding is strict: exactly these bytes, nothing after
them. Test vectors are in tests/vectors/callables.json.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar

import msgspec

from simpler.errors import RegistrationError

DESCRIPTOR_SCHEMA_VERSION = 1
SIGNATURE_SCHEMA_VERSION = 1
PAYLOAD_FORMAT_PICKLE = 1
SERIALIZER_CLOUDPICKLE = 1
_HASHID = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class CallableKind(IntEnum):
    """What a descriptor describes."""

    CHIP = 1
    PYTHON_SERIALIZED = 2
    PYTHON_IMPORT = 3


class Direction(IntEnum):
    """What a kernel does with one of its arguments."""

    SCALAR = 0
    IN = 1
    OUT = 2
    INOUT = 3


def digest_of(descriptor: bytes) -> bytes:
    """The 32 bytes that handles, slots and frames carry."""
    return hashlib.sha256(descriptor).digest()


def format_hashid(digest: bytes) -> str:
    """``sha256:`` and 64 lower-case hex digits."""
    return f"sha256:{digest.hex()}"


def parse_hashid(hashid: str) -> bytes:
    """The digest in a hashid. Raises RegistrationError HASHID_FORMAT_INVALID for anything else."""
    if not isinstance(hashid, str) or not _HASHID.fullmatch(hashid):
        raise RegistrationError(
            f"{hashid!r} is not a hashid; expected 'sha256:' and 64 lower-case hex digits", code="HASHID_FORMAT_INVALID"
        )
    return bytes.fromhex(hashid[len("sha256:") :])


def mismatch(why: str, **context: str | int) -> RegistrationError:
    """The error for content that is not what its digest, or its own descriptor, says."""
    return RegistrationError(why, code="HASHID_DESCRIPTOR_MISMATCH", **context)


def unsupported(why: str, **context: str | int) -> RegistrationError:
    """The error for a kind, version or format that this release does not know."""
    return RegistrationError(why, code="CALLABLE_KIND_UNSUPPORTED", **context)


# ---- the encoding


def u32(value: int) -> bytes:
    """Four bytes, little-endian."""
    return value.to_bytes(4, "little")


def sized(value: bytes) -> bytes:
    """Bytes behind their u32 length."""
    return u32(len(value)) + value


def text(value: str) -> bytes:
    """UTF-8 behind its u32 length. Raises RegistrationError for text that has no UTF-8."""
    try:
        return sized(value.encode())
    except UnicodeEncodeError as error:
        raise unsupported(f"{value!r} cannot be part of an identity: {error}") from None


class Reader:
    """Reads what the functions above write. Every method raises HASHID_DESCRIPTOR_MISMATCH where bytes do not fit."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    def raw(self, count: int, field: str) -> bytes:
        left = len(self._data) - self._at
        if count > left:
            raise mismatch(
                f"the {self._what} is cut off: {field} needs {count} bytes at byte {self._at}, {left} are left"
            )
        self._at += count
        return self._data[self._at - count : self._at]

    def u32(self, field: str) -> int:
        return int.from_bytes(self.raw(4, field), "little")

    def sized(self, field: str) -> bytes:
        return self.raw(self.u32(f"the length of {field}"), field)

    def text(self, field: str) -> str:
        try:
            return self.sized(field).decode()
        except UnicodeDecodeError as error:
            raise mismatch(f"{field} of the {self._what} is not UTF-8: {error}") from None

    def end(self) -> None:
        if self._at != len(self._data):
            raise mismatch(f"{len(self._data) - self._at} bytes follow the {self._what}, which ends at byte {self._at}")


# ---- the three descriptors


class ChipDescriptor(msgspec.Struct, frozen=True):
    """A kernel for chips. ``blob_sha256`` covers the whole payload: symbol, signature and ELF object."""

    kind: ClassVar[CallableKind] = CallableKind.CHIP
    target_arch: str
    platform: str
    runtime: str
    blob_sha256: bytes
    signature_sha256: bytes

    def fields(self) -> bytes:
        names = text(self.target_arch) + text(self.platform) + text(self.runtime)
        return names + self.blob_sha256 + self.signature_sha256

    @classmethod
    def read(cls, reader: Reader) -> ChipDescriptor:
        arch, platform, runtime = reader.text("target_arch"), reader.text("platform"), reader.text("runtime")
        blob, signature = (reader.raw(32, f"the SHA-256 of the {what}") for what in ("blob", "signature"))
        return cls(arch, platform, runtime, blob, signature)


class SerializedDescriptor(msgspec.Struct, frozen=True):
    """A pickled Python callable."""

    kind: ClassVar[CallableKind] = CallableKind.PYTHON_SERIALIZED
    payload_format: int
    serializer: int
    payload_sha256: bytes

    def fields(self) -> bytes:
        return u32(self.payload_format) + u32(self.serializer) + self.payload_sha256

    @classmethod
    def read(cls, reader: Reader) -> SerializedDescriptor:
        return cls(reader.u32("payload format"), reader.u32("serializer"), reader.raw(32, "the SHA-256 of the payload"))


class ImportDescriptor(msgspec.Struct, frozen=True):
    """A Python callable that the worker imports by name."""

    kind: ClassVar[CallableKind] = CallableKind.PYTHON_IMPORT
    module: str
    qualname: str

    def fields(self) -> bytes:
        return text(self.module) + text(self.qualname)

    @classmethod
    def read(cls, reader: Reader) -> ImportDescriptor:
        return cls(reader.text("module"), reader.text("qualname"))


Descriptor = ChipDescriptor | SerializedDescriptor | ImportDescriptor
_BY_KIND: dict[int, type[Descriptor]] = {
    cls.kind: cls for cls in (ChipDescriptor, SerializedDescriptor, ImportDescriptor)
}


def encode_descriptor(descriptor: Descriptor) -> bytes:
    """The canonical bytes."""
    return u32(DESCRIPTOR_SCHEMA_VERSION) + u32(descriptor.kind) + descriptor.fields()


def decode_descriptor(data: bytes) -> Descriptor:
    """The descriptor in ``data``, all of it.

    Raises RegistrationError: CALLABLE_KIND_UNSUPPORTED for an unknown version or kind, else HASHID_DESCRIPTOR_MISMATCH.
    """
    reader = Reader(data, "descriptor")
    version, kind = reader.u32("descriptor_schema_version"), reader.u32("kind")
    if version != DESCRIPTOR_SCHEMA_VERSION:
        raise unsupported(
            f"descriptor_schema_version {version} is not known here; expected {DESCRIPTOR_SCHEMA_VERSION}"
        )
    if kind not in _BY_KIND:
        known = ", ".join(f"{each.name} ({each.value})" for each in CallableKind)
        raise unsupported(f"callable kind {kind} is not known here; expected one of {known}")
    descriptor = _BY_KIND[kind].read(reader)
    reader.end()
    return descriptor


def encode_signature(signature: Sequence[Direction]) -> bytes:
    """The signature schema of a kernel."""
    return u32(SIGNATURE_SCHEMA_VERSION) + u32(len(signature)) + b"".join(map(u32, signature))


def decode_signature(data: bytes) -> tuple[Direction, ...]:
    """The directions in a signature schema. Raises RegistrationError as decode_descriptor does."""
    reader = Reader(data, "signature schema")
    version, count = reader.u32("its version"), reader.u32("its count")
    if version != SIGNATURE_SCHEMA_VERSION:
        raise unsupported(f"signature schema version {version} is not known here; expected {SIGNATURE_SCHEMA_VERSION}")
    raw = reader.raw(4 * count, f"{count} directions")
    reader.end()
    values = [int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 4)]
    if any(value > max(Direction) for value in values):
        raise mismatch(f"the signature schema has direction {max(values)}; the last one is {max(Direction)}")
    return tuple(map(Direction, values))
