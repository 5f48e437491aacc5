"""The control connection: what comes from a client that has said HELLO."""

from __future__ import annotations

import msgpack

from attacks.raw import ERROR, HUNG_UP, PUSH, REPLY, Raw, described, frame
from attacks.scene import Scene, small
from attacks.table import attack
from simpler.wire.frames import MessageType as T

MIB = 1 << 20
HELLO = {"versions": [1], "program": "attack", "pid": 1}
MALLOC = {"nbytes": 64}
REGISTER = {"digest": bytes(32)}


def asked(raw: Raw, type: int, payload: object = b"", **header: object) -> str:
    """What is said to a request that must be refused; a connection that goes on is shown to do so."""
    raw.say(type, payload, **header)  # type: ignore[arg-type]
    return raw.refusal()


@attack(r"STATE.*OPEN came before a HELLO|before a HELLO")
def open_after_a_hello_that_failed(scene: Scene) -> str:
    """An OPEN on a connection whose HELLO was refused."""
    raw = scene.unix()
    assert "VersionMismatch" in asked(raw, T.HELLO, {**HELLO, "versions": [77]})
    return asked(raw, T.OPEN, {"manifest": small()})


@attack(r"BAD_SEQUENCE.*sequence 9, expected 2", logged="sequence 9, expected 2")
def a_sequence_with_a_gap(scene: Scene) -> str:
    """A request that leaves numbers out."""
    return asked(scene.control(), T.HELLO, HELLO, sequence=9)


@attack(r"BAD_SEQUENCE.*sequence 1, expected 2", logged="sequence 1, expected 2")
def a_sequence_that_came_before(scene: Scene) -> str:
    """The same frame twice, as a recorder would send it."""
    return asked(scene.control(), T.HELLO, HELLO, sequence=1)


@attack(r"BAD_SEQUENCE.*not waiting", logged="not waiting for one")
def a_reply_to_nothing(scene: Scene) -> str:
    """A reply to a request that the daemon never made."""
    return asked(scene.control(), T.HELLO, {"version": 1, "daemon": "d", "host": "h"}, flags=REPLY, sequence=7)


@attack(r"BAD_SEQUENCE.*not waiting", logged="not waiting for one")
def an_error_reply_with_a_pickle(scene: Scene) -> str:
    """An error reply to nothing, whose record holds a pickle."""
    record = msgpack.packb({"type": "OSError", "message": "x", "pickle": b"cos\nsystem\n(S'false'\ntR."})
    return asked(scene.control(), T.OPEN, record, flags=REPLY | ERROR, sequence=1)


@attack(r"BAD_FLAGS.*cannot be pushed", logged="HELLO cannot be pushed")
def a_push_of_what_is_asked(scene: Scene) -> str:
    """A HELLO as a push, which nobody would answer."""
    return asked(scene.control(), T.HELLO, HELLO, flags=PUSH)


@attack(HUNG_UP, logged="gave the connection up")
def a_fault_with_a_pickle(scene: Scene) -> str:
    """A FAULT whose error record holds a pickle."""
    record = msgpack.packb({"type": "OSError", "message": "x", "pickle": b"cos\nsystem\n(S'false'\ntR."})
    return asked(scene.control(), T.FAULT, {"error": record}, flags=PUSH)


@attack(r"UNSUPPORTED.*TASK")
def a_task_for_the_daemon(scene: Scene) -> str:
    """A TASK on the control connection: the daemon runs no code of anybody's."""
    return asked(scene.control(), T.TASK, {"digest": bytes(32), "args": b""})


@attack(r"UNSUPPORTED.*REGISTER|UNEXPECTED_DATA|DATA_TOO_LARGE")
def a_pickle_for_the_daemon(scene: Scene) -> str:
    """A callable as a pickle, sent to the daemon instead of to a session."""
    return asked(scene.control(), T.REGISTER, REGISTER, data=b"cos\nsystem\n(S'false'\ntR.")


@attack(r"UNSUPPORTED.*MALLOC")
def memory_of_the_daemon(scene: Scene) -> str:
    """A MALLOC on the control connection."""
    return asked(scene.control(), T.MALLOC, MALLOC)


@attack(r"UNSUPPORTED.*ATTACH")
def an_attach_in_the_middle(scene: Scene) -> str:
    """An ATTACH on a connection that has said HELLO."""
    return asked(scene.control(), T.ATTACH, {"session": "s-1", "token": bytes(32), "lane": "data"})


@attack(r"UNSUPPORTED.*worker 7")
def a_request_to_a_worker(scene: Scene) -> str:
    """A request that is addressed to a worker, of which the daemon has none."""
    return asked(scene.control(), T.HELLO, HELLO, worker=7)


@attack(r"DATA_TOO_LARGE|UNEXPECTED_DATA|hung up")
def sixty_megabytes_for_the_daemon(scene: Scene) -> str:
    """A REGISTER with 60 MiB of data, again and again, on the control connection."""
    raw = scene.control()
    for _ in range(4):
        raw.say(T.REGISTER, REGISTER, data=bytes(60 * MIB))
    return raw.refusal()


@attack(r"PAYLOAD_TOO_LARGE", logged="payload bytes; at most")
def a_large_task_for_the_daemon(scene: Scene) -> str:
    """A TASK with 16 MiB of arguments on the control connection."""
    return asked(scene.control(), T.TASK, {"digest": bytes(32), "args": bytes(16 * MIB - 64)})


@attack(r"BAD_PAYLOAD")
def many_small_maps(scene: Scene) -> str:
    """A megabyte of empty maps, which would take seventy times that in memory."""
    maps = b"\xdc\x0f\xff" + b"\x80" * 4095
    return asked(scene.control(), T.OPEN, b"\x81\xa8manifest\xdc\x00\xf0" + maps * 240)


@attack(r"BAD_PAYLOAD")
def a_nested_manifest(scene: Scene) -> str:
    """An OPEN whose manifest is nested 100,000 deep."""
    return asked(scene.control(), T.OPEN, b"\x81\xa8manifest" + b"\x91" * 100_000 + b"\xc0")


@attack(r"CAPACITY.*32 requests of this connection are being served|ARGUMENT.*platform: 'none' is not what")
def thousands_of_requests_at_once(scene: Scene) -> str:
    """2,000 bad OPENs ahead, without waiting for an answer: each gets one, and the log a few lines."""
    raw = scene.control()
    open_ = msgpack.packb({"manifest": small(platform="none")})
    raw.send(b"".join(frame(T.OPEN, open_, sequence=number) for number in range(2, 2002)))
    said = [raw.refusal() for _ in range(2000)]
    return said[-1]


@attack(HUNG_UP, logged="has read nothing for 0.5 s|was refused")
def answers_left_unread(scene: Scene) -> str:
    """Requests without end from a client that reads no answer."""
    raw = scene.control()
    raw.socket.settimeout(5)
    batch = b"".join(frame(T.HELLO, HELLO, sequence=number) for number in range(2, 10_002))
    try:
        raw.socket.sendall(batch)
        while raw.socket.recv(1 << 20):
            continue
    except (BrokenPipeError, ConnectionResetError):
        return HUNG_UP
    return HUNG_UP


@attack(HUNG_UP, logged="(?i)PING|client was refused|has read nothing|read nothing")
def pings_left_unread(scene: Scene) -> str:
    """PINGs without end from a client that reads no answer."""
    raw = scene.control()
    raw.socket.settimeout(5)
    try:
        raw.socket.sendall(b"".join(frame(T.PING, {}, sequence=number) for number in range(2, 20_002)))
        while raw.socket.recv(1 << 20):
            continue
    except (BrokenPipeError, ConnectionResetError):
        return HUNG_UP
    return HUNG_UP


@attack(r"the rest of a frame did not come within 0.5 s")
def a_frame_that_does_not_end(scene: Scene) -> str:
    """A frame of which the last byte does not come."""
    raw = scene.control()
    raw.send(frame(T.HELLO, HELLO, sequence=2)[:-1])
    return raw.refusal()


@attack(r"CAPACITY.*has 16 connections, which is the limit for one client")
def connections_without_end(scene: Scene) -> str:
    """One client more and more of whose connections say HELLO."""
    return described_refusal(scene)


def described_refusal(scene: Scene) -> str:
    for _ in range(17):
        answer = scene.unix().ask(T.HELLO, HELLO)
        if answer.error is not None:
            return described(answer.error)
    return "all were taken"


@attack(r"CAPACITY.*has 3 sessions open, which is the limit for one client")
def sessions_without_end(scene: Scene) -> str:
    """One client that opens more and more sessions, each on a connection of its own."""
    for _ in range(3):
        scene.opened()
    return asked(scene.control(), T.OPEN, {"manifest": small()})
