"""One's own session: forged handles, ranges and contents on lanes that were attached rightly."""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack

from attacks.raw import Raw
from attacks.scene import Scene
from attacks.table import attack
from simpler import limits
from simpler.wire.frames import MessageType as T

INPUT, OUTPUT, UINT8 = 0, 1, 3


def asked(raw: Raw, type: int, payload: Any = b"", **header: Any) -> str:
    raw.say(type, payload, **header)
    return raw.refusal()


def task(scene: Scene, *tensors: dict[str, Any], args: bytes | None = None) -> str:
    """What is said to a TASK with these arguments."""
    encoded = msgpack.packb({"tensors": list(tensors)}) if args is None else args
    return asked(scene.opened().command, T.TASK, {"digest": bytes(32), "args": encoded})


@attack(r"BAD_SESSION")
def another_sessions_number(scene: Scene) -> str:
    """A frame on one's own lane that says it is of somebody else's session."""
    return asked(scene.opened().command, T.MALLOC, {"nbytes": 1}, session=scene.victim.number)


@attack(r"UNSUPPORTED.*HELLO")
def hello_to_a_runner(scene: Scene) -> str:
    """A HELLO on a lane."""
    return asked(scene.opened().command, T.HELLO, {"versions": [1], "program": "x", "pid": 1})


@attack(r"UNSUPPORTED.*OPEN")
def open_in_a_runner(scene: Scene) -> str:
    """An OPEN on a lane."""
    manifest = {"platform": "sim", "runtime": "graph"}
    return asked(scene.opened().data, T.OPEN, {"manifest": manifest})


@attack(r"UNSUPPORTED.*MALLOC")
def commands_on_the_data_lane(scene: Scene) -> str:
    """A MALLOC on the data lane, beside the order of the command lane."""
    return asked(scene.opened().data, T.MALLOC, {"nbytes": 64})


@attack(r"STALE_HANDLE.*the buffer was freed, or is not one of session")
def a_buffer_that_never_was(scene: Scene) -> str:
    """A buffer's number out of thin air."""
    name = {"buffer": 4711, "generation": 1, "offset": 0, "nbytes": 8}
    return asked(scene.opened().data, T.COPY_FROM, name)


@attack(r"STALE_HANDLE.*the buffer was freed, or is not one of session")
def a_buffer_of_the_victim(scene: Scene) -> str:
    """The name of a buffer in the victim's session, in one's own."""
    name = scene.victim.malloc()
    return asked(scene.opened().data, T.COPY_FROM, {**name, "offset": 0, "nbytes": 8})


@attack(r"STALE_HANDLE")
def a_generation_that_is_over(scene: Scene) -> str:
    """A buffer that was freed, and whose number has come back."""
    mine = scene.opened()
    old = mine.malloc()
    mine.command.good(T.FREE, old)
    assert mine.malloc()["buffer"] == old["buffer"]
    return asked(mine.data, T.COPY_FROM, {**old, "offset": 0, "nbytes": 8})


@attack(r"STALE_HANDLE")
def a_generation_to_come(scene: Scene) -> str:
    """The next generation of a buffer, guessed."""
    mine = scene.opened()
    name = mine.malloc()
    return asked(mine.data, T.COPY_TO, {**name, "generation": name["generation"] + 1, "offset": 0}, data=b"x")


@attack(r"STALE_HANDLE")
def a_buffer_freed_twice(scene: Scene) -> str:
    """FREE of what was freed."""
    mine = scene.opened()
    name = mine.malloc()
    mine.command.good(T.FREE, name)
    return asked(mine.command, T.FREE, name)


@attack(r"bytes 60 to 68 of a buffer of 64")
def write_beyond_the_end(scene: Scene) -> str:
    """COPY_TO over the end of a buffer, into what lies behind it."""
    mine = scene.opened()
    return asked(mine.data, T.COPY_TO, {**mine.malloc(64), "offset": 60}, data=b"x" * 8)


@attack(r"bytes 0 to 65 of a buffer of 64")
def read_beyond_the_end(scene: Scene) -> str:
    """COPY_FROM over the end of a buffer."""
    mine = scene.opened()
    return asked(mine.data, T.COPY_FROM, {**mine.malloc(64), "offset": 0, "nbytes": 65})


@attack(r"ARGUMENT|BAD_PAYLOAD")
def an_offset_that_overflows(scene: Scene) -> str:
    """An offset of 2**64 - 1, which with a length is a small number in 64 bits."""
    mine = scene.opened()
    return asked(mine.data, T.COPY_FROM, {**mine.malloc(64), "offset": (1 << 64) - 1, "nbytes": 64})


@attack(r"ARGUMENT.*offset")
def a_negative_offset(scene: Scene) -> str:
    """A copy from before a buffer."""
    mine = scene.opened()
    return asked(mine.data, T.COPY_FROM, {**mine.malloc(64), "offset": -64, "nbytes": 64})


@attack(r"ARGUMENT.*nbytes")
def a_copy_larger_than_a_frame(scene: Scene) -> str:
    """COPY_FROM of more than fits into a frame."""
    mine = scene.opened()
    return asked(mine.data, T.COPY_FROM, {**mine.malloc(64), "offset": 0, "nbytes": limits.FRAME_DATA_BYTES + 1})


@attack(r"DATA_TOO_LARGE")
def data_larger_than_a_frame(scene: Scene) -> str:
    """COPY_TO that announces 4 GiB."""
    mine = scene.opened()
    return asked(mine.data, T.COPY_TO, {**mine.malloc(64), "offset": 0}, data_bytes=1 << 32)


@attack(r"PAYLOAD_TOO_LARGE")
def a_malloc_of_megabytes(scene: Scene) -> str:
    """A MALLOC frame that announces 16 MiB of payload."""
    return asked(scene.opened().command, T.MALLOC, payload_bytes=16 << 20)


@attack(r"CAPACITY")
def a_buffer_larger_than_the_heap(scene: Scene) -> str:
    """MALLOC of 2**62 bytes."""
    return asked(scene.opened().command, T.MALLOC, {"nbytes": 1 << 62})


@attack(r"CAPACITY")
def buffers_without_end(scene: Scene) -> str:
    """MALLOC until nothing is left."""
    command = scene.opened().command
    for _ in range(1000):
        answer = command.ask(T.MALLOC, {"nbytes": 1 << 20})
        if answer.error is not None:
            command.say(T.MALLOC, {"nbytes": 1 << 20})
            return command.refusal()
    return "more was given than the heap has"


@attack(r"CALLABLE|REGISTRATION|prepared")
def a_commit_of_nothing(scene: Scene) -> str:
    """COMMIT of what was never prepared."""
    return asked(scene.opened().command, T.COMMIT, {"digest": bytes(32)})


@attack(r"CAPACITY|ARGUMENT|CALLABLE_NOT_REGISTERED")
def an_output_of_exabytes(scene: Scene) -> str:
    """A tensor without storage of 2**62 bytes, which the session would allocate."""
    return task(scene, {"kind": "output", "tag": OUTPUT, "dtype": UINT8, "shape": [1 << 62], "output": 1})


@attack(r"CALLABLE_NOT_REGISTERED|is not registered")
def a_task_that_was_never_registered(scene: Scene) -> str:
    """A TASK with a digest of nothing."""
    return task(scene)


@attack(r"CALLABLE_NOT_REGISTERED|is not registered")
def a_call_that_was_never_registered(scene: Scene) -> str:
    """A SUB_CALL with a digest of nothing."""
    return asked(scene.opened().command, T.SUB_CALL, {"digest": bytes(32), "args": b""})


@attack(r"ARGUMENT.*timeout_ns")
def a_call_with_time_before_it_begins(scene: Scene) -> str:
    """A SUB_CALL that may run for less than no time."""
    return asked(scene.opened().command, T.SUB_CALL, {"digest": bytes(32), "args": b"", "timeout_ns": -1})


@attack(r"ARGUMENT.*digest")
def a_digest_that_is_too_short(scene: Scene) -> str:
    """A TASK with half a digest."""
    return asked(scene.opened().command, T.TASK, {"digest": bytes(16), "args": b""})


@attack(r"16 bytes for a tensor of shape|ARGUMENT")
def a_tensor_of_another_length(scene: Scene) -> str:
    """Bytes sent along that are fewer than the shape says."""
    return task(scene, {"kind": "inline", "tag": INPUT, "dtype": UINT8, "shape": [1 << 20], "data": bytes(16)})


@attack(r"read-only: its tag must be INPUT|ARGUMENT")
def a_tensor_that_writes_into_the_frame(scene: Scene) -> str:
    """Bytes sent along that are to be written."""
    return task(scene, {"kind": "inline", "tag": OUTPUT, "dtype": UINT8, "shape": [1], "data": b"x"})


@attack(r"ARGUMENT|STALE_HANDLE|BAD_PAYLOAD")
def a_shape_that_overflows(scene: Scene) -> str:
    """A tensor of 2**40 by 2**40 elements, which is 2**16 in 64 bits."""
    mine = scene.opened()
    tensor = {"kind": "buffer", "tag": INPUT, "dtype": UINT8, "shape": [1 << 40, 1 << 40], "offset": 0, **mine.malloc()}
    return asked(mine.command, T.TASK, {"digest": bytes(32), "args": msgpack.packb({"tensors": [tensor]})})


@attack(r"dtype 99 is not a DataType|ARGUMENT")
def an_element_type_that_there_is_not(scene: Scene) -> str:
    """A tensor of an unknown element type."""
    return task(scene, {"kind": "inline", "tag": INPUT, "dtype": 99, "shape": [1], "data": b"x"})


@attack(r"BAD_PAYLOAD|cannot be read")
def nested_arguments(scene: Scene) -> str:
    """Arguments nested 100,000 deep inside a payload that is flat."""
    return task(scene, args=b"\x81\xa7scalars" + b"\x91" * 100_000 + b"\xc0")


@attack(r"HASHID_DESCRIPTOR_MISMATCH|CALLABLE")
def content_under_another_digest(scene: Scene) -> str:
    """A callable under the digest of another, which others may trust."""
    content = msgpack.packb({"kind": 3, "module": "os", "qualname": "system"})
    return asked(scene.opened().command, T.REGISTER, {"digest": hashlib.sha256(b"other").digest()}, data=content)


@attack(r"HASHID_DESCRIPTOR_MISMATCH.*the callable's content is cut off")
def content_that_is_rubbish(scene: Scene) -> str:
    """A callable that is no callable."""
    return asked(scene.opened().command, T.REGISTER, {"digest": bytes(32)}, data=b"\xc1" * 100)


@attack(r"a callable of 63963136 bytes; at most|DATA_TOO_LARGE")
def a_callable_of_sixty_megabytes(scene: Scene) -> str:
    """A callable larger than any may be."""
    nbytes = 61 << 20
    return asked(scene.opened().command, T.REGISTER, {"digest": bytes(32)}, data=bytes(nbytes))


@attack(r"UNEXPECTED_DATA")
def data_where_none_belongs(scene: Scene) -> str:
    """A MALLOC with data behind it."""
    return asked(scene.opened().command, T.MALLOC, {"nbytes": 1}, data=b"x")
