"""The first frame: what comes from nobody knows whom."""

from __future__ import annotations

import socket
import struct
import time

import msgpack

from attacks.raw import ERROR, HUNG_UP, PUSH, REPLY, Raw, frame
from attacks.scene import Scene
from attacks.table import attack
from simpler import limits
from simpler.wire.frames import MessageType as T

HELLO = {"versions": [1], "program": "attack", "pid": 1}


def told(raw: Raw, said: bytes) -> str:
    raw.send(said)
    return raw.refusal()


@attack(r"BAD_MAGIC.*expected a frame")
def an_http_request(scene: Scene) -> str:
    """A web browser's request."""
    return told(scene.tcp(), b"GET / HTTP/1.1\r\nHost: example\r\nAccept: everything, please\r\n\r\n")


@attack(r"TRUNCATED.*the peer hung up inside a frame", logged="hung up inside a frame: 33 bytes of its header")
def half_a_header(scene: Scene) -> str:
    """A connection that is shut in the middle of a header."""
    raw = scene.tcp()
    raw.send(frame(T.HELLO)[:11])
    raw.socket.shutdown(socket.SHUT_WR)
    return raw.refusal()


@attack(r"BAD_MAGIC", logged="expected a frame")
def another_magic(scene: Scene) -> str:
    """A header that begins with another program's magic."""
    return told(scene.unix(), frame(T.HELLO, HELLO, magic=b"SLR2"))


@attack(r"BAD_VERSION", logged="frame version 9")
def another_frame_version(scene: Scene) -> str:
    """A header of a frame format that there is not."""
    return told(scene.unix(), frame(T.HELLO, HELLO, version=9))


@attack(r"UNKNOWN_TYPE.*frame type 200", logged="frame type 200 is not known")
def an_unknown_type(scene: Scene) -> str:
    """A frame of a type that there is not."""
    return told(scene.unix(), frame(200, HELLO))


@attack(r"BAD_FLAGS", logged="impossible flags 0xffff")
def impossible_flags(scene: Scene) -> str:
    """A header with every flag set."""
    return told(scene.unix(), frame(T.HELLO, HELLO, flags=0xFFFF))


@attack(r"BAD_RESERVED", logged="the reserved word of the header")
def the_reserved_word(scene: Scene) -> str:
    """A header with something in its reserved word."""
    return told(scene.unix(), frame(T.HELLO, HELLO, reserved=1))


@attack(r"PAYLOAD_TOO_LARGE.*4294967295 payload bytes", logged="announces 4294967295 payload bytes")
def four_gigabytes_announced(scene: Scene) -> str:
    """A HELLO that announces 4 GiB of payload."""
    return told(scene.tcp(), frame(T.HELLO, payload_bytes=0xFFFFFFFF))


@attack(r"UNEXPECTED_DATA", logged="announces data, which it cannot carry")
def exabytes_of_data_announced(scene: Scene) -> str:
    """A HELLO that announces 8 EiB of data."""
    return told(scene.tcp(), frame(T.HELLO, HELLO, data_bytes=1 << 63))


@attack(r"begins with HELLO or ATTACH, not with TASK")
def a_task_first(scene: Scene) -> str:
    """A TASK before anybody has said who he is."""
    return told(scene.tcp(), frame(T.TASK, {"digest": bytes(32), "args": b""}))


@attack(r"begins with HELLO or ATTACH, not with OPEN")
def an_open_first(scene: Scene) -> str:
    """An OPEN without a HELLO."""
    return told(scene.tcp(), frame(T.OPEN, {"manifest": {"platform": "sim", "runtime": "graph"}}))


@attack(r"begins with HELLO or ATTACH, not with a HELLO that is no request")
def a_reply_first(scene: Scene) -> str:
    """A reply to something that was never asked."""
    return told(scene.unix(), frame(T.HELLO, HELLO, flags=REPLY))


@attack(r"begins with HELLO or ATTACH, not with a FAULT that is no request")
def a_fault_first(scene: Scene) -> str:
    """A FAULT whose error carries a pickle, before anybody has said who he is."""
    bomb = b"cos\nsystem\n(S'touch /tmp/simpler-was-here'\ntR."
    record = msgpack.packb({"type": "OSError", "message": "x", "pickle": bomb})
    return told(scene.unix(), frame(T.FAULT, {"error": record}, flags=PUSH))


@attack(r"begins with HELLO or ATTACH, not with a ATTACH that is no request")
def an_error_reply_first(scene: Scene) -> str:
    """An error reply to something that was never asked."""
    return told(scene.unix(), frame(T.ATTACH, b"", flags=REPLY | ERROR))


@attack(r"BAD_PAYLOAD")
def a_payload_that_is_no_msgpack(scene: Scene) -> str:
    """A HELLO whose payload is the one byte that msgpack never uses."""
    return told(scene.unix(), frame(T.HELLO, b"\xc1"))


@attack(r"BAD_PAYLOAD")
def trailing_bytes(scene: Scene) -> str:
    """A HELLO with bytes behind its payload's map."""
    return told(scene.unix(), frame(T.HELLO, msgpack.packb(HELLO) + b"\x00"))


@attack(r"BAD_PAYLOAD")
def an_extension_type(scene: Scene) -> str:
    """A HELLO with a msgpack extension, which some decoders turn into objects."""
    return told(scene.unix(), frame(T.HELLO, msgpack.packb({**HELLO, "pid": msgpack.ExtType(42, b"x" * 64)})))


@attack(r"BAD_PAYLOAD")
def thousands_of_arrays_in_each_other(scene: Scene) -> str:
    """A HELLO that nests arrays 10,000 deep, against the stack."""
    return told(scene.unix(), frame(T.HELLO, b"\x91" * 10_000 + b"\xc0"))


@attack(r"BAD_PAYLOAD")
def four_billion_items_announced(scene: Scene) -> str:
    """An array whose head announces 4 billion items, against decoders that make room first."""
    return told(scene.tcp(), frame(T.HELLO, b"\x81\xa8versions\xdd\xff\xff\xff\xff"))


@attack(r"BAD_PAYLOAD")
def a_string_longer_than_its_frame(scene: Scene) -> str:
    """A string whose head announces 4 GiB."""
    return told(scene.tcp(), frame(T.HELLO, b"\x81\xa7program\xdb\xff\xff\xff\xff"))


@attack(r"BAD_PAYLOAD")
def text_that_is_no_utf8(scene: Scene) -> str:
    """A program's name that is no text."""
    return told(scene.unix(), frame(T.HELLO, b"\x81\xa7program\xa2\xff\xfe"))


@attack(r"BAD_PAYLOAD|ARGUMENT")
def keys_that_are_no_names(scene: Scene) -> str:
    """A map with arrays for keys, which cannot be hashed."""
    return told(scene.unix(), frame(T.HELLO, b"\x81\x91\x01\x01"))


@attack(r"ARGUMENT.*versions")
def versions_that_are_none(scene: Scene) -> str:
    """A HELLO that speaks no version at all."""
    return told(scene.unix(), frame(T.HELLO, {**HELLO, "versions": []}))


@attack(r"ARGUMENT.*versions")
def versions_by_the_thousand(scene: Scene) -> str:
    """A HELLO that speaks a thousand versions."""
    return told(scene.unix(), frame(T.HELLO, {**HELLO, "versions": list(range(1000))}))


@attack(r"ARGUMENT.*unknown field")
def a_field_that_there_is_not(scene: Scene) -> str:
    """A HELLO with one field more."""
    return told(scene.unix(), frame(T.HELLO, {**HELLO, "admin": True}))


@attack(r"BAD_SEQUENCE")
def a_sequence_that_begins_elsewhere(scene: Scene) -> str:
    """A HELLO that is number 2 of its connection."""
    return told(scene.unix(), frame(T.HELLO, HELLO, sequence=2))


@attack(r"VERSION_MISMATCH.*the client \(x\n", logged=r"the client \(x\\n<3>simplerd: all is lost\) speaks")
def a_line_of_the_log_forged(scene: Scene) -> str:
    """A program's name that ends the line of the log and begins another."""
    said = told(scene.unix(), frame(T.HELLO, {"versions": [99], "program": "x\n<3>simplerd: all is lost", "pid": 1}))
    assert not any(line.startswith("<3>") for line in scene.log())
    return said


@attack(r"no whole frame came within 1 s")
def nothing_at_all(scene: Scene) -> str:
    """A connection that never says anything."""
    return scene.tcp().refusal()


@attack(r"no whole frame came within 1 s")
def one_byte_after_the_other(scene: Scene) -> str:
    """A HELLO of which a byte comes now and then, so that something always comes."""
    raw, said = scene.tcp(), frame(T.HELLO, HELLO)
    raw.socket.settimeout(0.05)
    for byte in said:
        raw.send(struct.pack("B", byte))
        try:
            return raw.refusal()
        except TimeoutError:
            continue
    return "the whole frame was taken"


@attack(r"no whole frame came within 1 s")
def a_payload_that_does_not_come(scene: Scene) -> str:
    """The longest first frame announced, of which nothing comes."""
    began = time.monotonic()
    said = told(scene.tcp(), frame(T.HELLO, payload_bytes=limits.FIRST_FRAME_PAYLOAD_BYTES))
    assert time.monotonic() - began < 10
    return said


@attack(HUNG_UP, logged="a client was refused")
def a_reset_instead_of_reading(scene: Scene) -> str:
    """Rubbish, and then a reset instead of reading the answer."""
    raw = scene.tcp()
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.send(b"\xff" * 4096)
    raw.socket.close()
    return HUNG_UP
