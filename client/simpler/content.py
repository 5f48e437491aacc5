"""Content: what a digest names, whole: the descriptor and, where the kind has one, the payload.

This is what the shared callable table holds and what a REGISTER frame carries, as
u32 descriptor length, descriptor, u32 payload length, payload, and nothing after it.
``validate_content`` is the one check that content passes on its way in, at start-up and later alike.
"""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from typing import NamedTuple

import msgspec

from simpler.descriptors import (
    PAYLOAD_FORMAT_PICKLE,
    SERIALIZER_CLOUDPICKLE,
    CallableKind,
    ChipDescriptor,
    Descriptor,
    Direction,
    ImportDescriptor,
    Reader,
    SerializedDescriptor,
    decode_descriptor,
    decode_signature,
    digest_of,
    encode_descriptor,
    encode_signature,
    format_hashid,
    mismatch,
    sized,
    text,
    u32,
    unsupported,
)
from simpler.import_target import check_import_target

BLOB_VERSION = 1
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def is_symbol(name: str) -> bool:
    """Whether a function in C can have that name."""
    return _SYMBOL.fullmatch(name) is not None


class ChipBlob(NamedTuple):
    """The payload of a chip callable, and the blob that its descriptor's SHA-256 covers.

    The ELF object alone does not say which kernel is meant: two symbols of one object would share a hashid. So the blob
    is u32 1, the symbol (text), the signature schema and the ELF object (each as bytes with u32 length).
    """

    symbol: str
    signature: tuple[Direction, ...]
    elf: bytes

    def encode(self) -> bytes:
        return u32(BLOB_VERSION) + text(self.symbol) + sized(encode_signature(self.signature)) + sized(self.elf)

    @classmethod
    def decode(cls, data: bytes) -> ChipBlob:
        """Raises RegistrationError HASHID_DESCRIPTOR_MISMATCH or CALLABLE_KIND_UNSUPPORTED."""
        reader = Reader(data, "chip blob")
        version = reader.u32("its version")
        if version != BLOB_VERSION:
            raise unsupported(f"chip blob version {version} is not known here; expected {BLOB_VERSION}")
        symbol, signature = reader.text("symbol"), reader.sized("signature schema")
        if not is_symbol(symbol):
            raise mismatch(f"the chip blob names the symbol {symbol!r}, which C does not have")
        blob = cls(symbol, decode_signature(signature), reader.sized("ELF object"))
        reader.end()
        return blob


class Content(msgspec.Struct, frozen=True, dict=True):
    """A callable as bytes. Equal bytes are equal content."""

    descriptor: bytes
    payload: bytes

    @classmethod
    def of(cls, descriptor: Descriptor, payload: bytes = b"") -> Content:
        return cls(encode_descriptor(descriptor), payload)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the descriptor, 32 bytes."""
        return digest_of(self.descriptor)

    @cached_property
    def decoded(self) -> Descriptor:
        """The descriptor's fields. Raises RegistrationError where its bytes are not canonical."""
        return decode_descriptor(self.descriptor)

    @property
    def hashid(self) -> str:
        return format_hashid(self.digest)

    @property
    def kind(self) -> CallableKind:
        return self.decoded.kind

    def encode(self) -> bytes:
        """Self-contained bytes; ``validate_content`` reads them."""
        return sized(self.descriptor) + sized(self.payload)

    @classmethod
    def decode(cls, data: bytes) -> Content:
        """What ``encode`` wrote, unchecked but for its form. Raises HASHID_DESCRIPTOR_MISMATCH."""
        reader = Reader(data, "callable's content")
        content = cls(reader.sized("descriptor"), reader.sized("payload"))
        reader.end()
        return content


def validate_content(digest: bytes, encoded: bytes) -> Content:
    """The content in ``encoded``, proven to be what ``digest`` names.

    Recomputes the descriptor's hash, decodes it strictly, and compares the payload's hash with the descriptor's.
    Raises RegistrationError: HASHID_DESCRIPTOR_MISMATCH where anything differs, CALLABLE_KIND_UNSUPPORTED for kinds,
    versions and formats that are not known here, CALLABLE_IMPORT_FAILED for an impossible import target.
    """
    content = Content.decode(encoded)
    if content.digest != digest:
        raise mismatch(
            f"{format_hashid(digest)} was announced, but the descriptor's hash is {content.hashid}",
            hashid=format_hashid(digest),
        )
    descriptor = content.decoded
    if isinstance(descriptor, ChipDescriptor):
        _check_payload(content, descriptor.blob_sha256)
        _check_chip(content, descriptor)
    elif isinstance(descriptor, SerializedDescriptor):
        _check_payload(content, descriptor.payload_sha256)
        _check_serialized(content, descriptor)
    else:
        _check_import(content, descriptor)
    return content


def _check_payload(content: Content, expected: bytes) -> None:
    actual = hashlib.sha256(content.payload).digest()
    if actual != expected:
        raise mismatch(
            f"the payload of {content.hashid} ({len(content.payload)} bytes) has SHA-256 {actual.hex()}, "
            f"its descriptor says {expected.hex()}",
            hashid=content.hashid,
        )


def _check_chip(content: Content, descriptor: ChipDescriptor) -> None:
    signature = encode_signature(ChipBlob.decode(content.payload).signature)
    if hashlib.sha256(signature).digest() != descriptor.signature_sha256:
        raise mismatch(
            f"the signature in the payload of {content.hashid} is not the one in its descriptor", hashid=content.hashid
        )


def _check_serialized(content: Content, descriptor: SerializedDescriptor) -> None:
    found = (descriptor.payload_format, descriptor.serializer)
    if found != (PAYLOAD_FORMAT_PICKLE, SERIALIZER_CLOUDPICKLE):
        raise unsupported(
            f"{content.hashid} has payload format {found[0]} and serializer {found[1]}; this release knows format "
            f"{PAYLOAD_FORMAT_PICKLE} (pickle) of serializer {SERIALIZER_CLOUDPICKLE} (cloudpickle)",
            hashid=content.hashid,
        )


def _check_import(content: Content, descriptor: ImportDescriptor) -> None:
    if content.payload:
        raise mismatch(
            f"{content.hashid} is imported by name and has no payload, but {len(content.payload)} bytes came with it",
            hashid=content.hashid,
        )
    check_import_target(f"{descriptor.module}:{descriptor.qualname}")
