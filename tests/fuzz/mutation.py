"""Inputs by changes to well-formed ones: bytes anywhere, or what stands in a payload that stays well-formed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

LONGEST = 8 << 10
MOST_MUTATIONS = 4
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1)
WORDS = (
    b"\x80",
    b"\x90",
    b"\xc0",
    b"\xc1",
    b"\xca",
    b"\xd4",
    b"\xdc\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff",
    b"SLR1",
)
"""msgpack's first bytes of maps, arrays, nil, floats and extensions, with lengths that nothing has; and our magic."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1 << 40,
    1.5,
    float("nan"),
    "",
    "text",
    "é" * 50,
    b"",
    bytes(32),
    [],
    [1],
    [[[]]],
    {},
    {"a": 1},
)
Mutate = Callable[[random.Random, bytearray], None]


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of ``seeds`` with a few bytes changed; one in eight keeps parts of two of them."""
    changed = bytearray(rng.choice(seeds))
    if rng.random() < 0.125:
        other = rng.choice(seeds)
        changed[rng.randrange(len(changed) + 1) :] = other[rng.randrange(len(other) + 1) :]
    for _ in range(int(rng.random() ** 2 * MOST_MUTATIONS) + 1):
        rng.choice(MUTATIONS)(rng, changed)
    return bytes(changed[:LONGEST])


def restructured(rng: random.Random, payload: bytes) -> bytes:
    """A msgpack payload with another value, field or item somewhere in it, in good form."""
    return bytes(msgpack.packb(_changed(rng, msgpack.unpackb(payload, strict_map_key=False))))


def _changed(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match int(rng.random() * 8):
            case 0:
                return {other: value[other] for other in value if other != key}
            case 1:
                return value | {key + "s" if isinstance(key, str) else key: value[key]}
        return value | {key: _changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = int(rng.random() * len(value))
        return value[:at] + [_changed(rng, value[at])] * int(rng.random() * 4) + value[at + 1 :]
    if isinstance(value, int) and rng.random() < 0.5:
        return min(max(value + rng.choice(EDGES) * rng.choice((-1, 1)), -(1 << 63)), (1 << 64) - 1)
    return rng.choice(VALUES)


def flip_bit(rng: random.Random, data: bytearray) -> None:
    if data:
        data[int(rng.random() * len(data))] ^= 1 << int(rng.random() * 8)


def set_byte(rng: random.Random, data: bytearray) -> None:
    if data:
        data[int(rng.random() * len(data))] = int(rng.random() * 256)


def set_number(rng: random.Random, data: bytearray) -> None:
    """A number at the edge of a width, in either order of bytes."""
    width, at = rng.choice((1, 2, 4, 8)), int(rng.random() * (len(data) + 1))
    number = rng.choice(EDGES) & ((1 << (8 * width)) - 1)
    data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))


def insert_word(rng: random.Random, data: bytearray) -> None:
    at = int(rng.random() * (len(data) + 1))
    data[at:at] = rng.choice(WORDS)


def insert_bytes(rng: random.Random, data: bytearray) -> None:
    at = int(rng.random() * (len(data) + 1))
    data[at:at] = rng.randbytes(int(rng.random() * 16))


def remove(rng: random.Random, data: bytearray) -> None:
    at = int(rng.random() * (len(data) + 1))
    del data[at : at + int(rng.random() * 32)]


def repeat(rng: random.Random, data: bytearray) -> None:
    at = int(rng.random() * (len(data) + 1))
    data[at:at] = data[at : at + int(rng.random() * 64)] * int(rng.random() * 8)


def cut(rng: random.Random, data: bytearray) -> None:
    del data[int(rng.random() * (len(data) + 1)) :]


MUTATIONS: tuple[Mutate, ...] = (
    *(flip_bit, flip_bit, set_byte, set_byte, set_number),
    *(insert_word, insert_bytes, remove, repeat, cut),
)
