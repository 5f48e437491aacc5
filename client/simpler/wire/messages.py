"""What frames say: the base of the messages, and how a payload is read.

The messages stand where they are said: control_messages.py, command_messages.py, data_messages.py. All of them by type:
message_tables.py.

Rules
  1. A payload is one msgpack map. It is parsed with limits on its strings, arrays, maps and the number of items in all,
     no extension types, no trailing bytes; then its fields are checked against the class, which bounds the depth.
  2. A payload that cannot be parsed breaks the connection (ProtocolError). Fields that do not fit are the fault of that
     one message (ArgumentError that names the field): a request is answered with the error and the connection goes on.
  3. Each message has a limit of its own, which a frame's header is held to before the payload is read.
  4. A request names the class of its reply; every reply has the type of its request.
  5. A field that has its default stays out of the payload: so a peer that does not know a field which came later meets
     it only where it is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

import msgpack
import msgspec

from simpler import limits
from simpler.errors import ArgumentError, ProtocolError
from simpler.wire.frames import MessageType, Reason, protocol_error

QUICK_BYTES = 4 << 10
"""A payload of this size cannot hold enough to need its items counted; it is decoded straight into its class."""
Natural = Annotated[int, msgspec.Meta(ge=0)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all messages."""

    TYPE: ClassVar[MessageType]
    PAYLOAD_BYTES: ClassVar[int] = limits.MESSAGE_TEXT_BYTES

    def encode(self) -> bytes:
        """The payload. Raises ArgumentError when it is longer than the other side takes."""
        payload = msgspec.msgpack.encode(self)
        if len(payload) > self.PAYLOAD_BYTES:
            raise ArgumentError(
                f"{type(self).__name__} takes {len(payload)} bytes; at most {self.PAYLOAD_BYTES} fit into one message: "
                "pass large values through remote buffers (remote_malloc, remote_copy_to, remote_copy_from)"
            )
        return payload

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """The message in ``payload``. Raises ProtocolError for what cannot be parsed, ArgumentError for fields."""
        if len(payload) > cls.PAYLOAD_BYTES:
            raise protocol_error(
                Reason.PAYLOAD_TOO_LARGE,
                f"{cls.__name__} has {len(payload)} payload bytes; at most {cls.PAYLOAD_BYTES} are taken",
            )
        if len(payload) <= QUICK_BYTES:
            with contextlib.suppress(msgspec.DecodeError, RecursionError, UnicodeError):  # read again for what is wrong
                return msgspec.msgpack.decode(payload, type=cls)
        return typed(parse(payload), cls, cls.__name__)


T = TypeVar("T")
ReplyT_co = TypeVar("ReplyT_co", bound=Message, covariant=True)


class Request(Message, Generic[ReplyT_co], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message that is answered by a ``REPLY``."""

    REPLY: ClassVar[type[Message]]


def parse(payload: bytes) -> object:
    """The msgpack value in ``payload``, within the limits. Raises ProtocolError."""
    counted = _item_counter()
    try:
        return msgpack.unpackb(
            payload,
            max_str_len=limits.MESSAGE_TEXT_BYTES,
            max_array_len=limits.MESSAGE_ARRAY_ITEMS,
            max_map_len=limits.MESSAGE_ARRAY_ITEMS,
            max_ext_len=0,
            list_hook=counted,
            object_hook=counted,
        )
    except ProtocolError:
        raise
    except Exception as broken:  # msgpack raises ValueErrors of its own, UnicodeError, and whatever a bad key raises
        raise protocol_error(
            Reason.BAD_PAYLOAD, f"a payload of {len(payload)} bytes cannot be read: {type(broken).__name__} {broken}"
        ) from None


def typed(value: object, cls: type[T], what: str) -> T:
    """``value`` as a ``cls``. Raises ArgumentError that names the field, what it holds and what was expected."""
    try:
        return msgspec.convert(value, cls, builtin_types=(bytes,))
    except msgspec.ValidationError as wrong:
        why = str(wrong)
    raise ArgumentError(f"{what}: {why}")  # out here: the other one would hold the value through its traceback


def _item_counter() -> Callable[[Any], Any]:
    """A hook that sees every array and map of one payload: many small ones take far more memory than their bytes."""
    seen = 0

    def count(items: list[Any] | dict[str, Any]) -> list[Any] | dict[str, Any]:
        nonlocal seen
        seen += 1 + len(items)
        if seen > limits.MESSAGE_ITEMS:
            raise protocol_error(Reason.BAD_PAYLOAD, f"a payload has more than {limits.MESSAGE_ITEMS} items")
        return items

    return count
