"""JSON-RPC 2.0 (https://www.jsonrpc.org/specification) with one object per line: bytes in, calls out. No sockets.

Rules
  1. A line is answered by at most one line. A line that cannot be understood is answered with an error and the id null,
     and the next line is read as if nothing had happened: the newline is the frame.
  2. A line that is too long cannot be skipped in bounded memory and time: `LineTooLong` ends the connection.
  3. Size, nesting and number of values are bounded before anything is decoded.
  4. Standard errors keep their numbers. Ours are in -32000…-32099; programs branch on `data.code`, a stable symbol.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import msgspec

from simpler import limits
from simpler.errors import ArgumentError, ProtocolError, SimplerError, StaleHandle

Id = str | int | float | None
Params = Mapping[str, object] | list[object]
Json = dict[str, object]

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{},]', re.DOTALL)


class Code(IntEnum):
    """The error numbers; the name of one is its `data.code` unless something more exact is known."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    FAILED = -32000  # the operation failed; data.code is the code of the SimplerError
    NOT_FOUND = -32001
    LIMIT = -32002
    TIMEOUT = -32003
    NOT_PERMITTED = -32004


class RpcError(Exception):
    """An error reply. `symbol` and `context` become `data`."""

    def __init__(self, code: Code, message: str, symbol: str | None = None, /, **context: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data: Json = {**context, "code": symbol or code.name}

    @classmethod
    def of(cls, error: SimplerError) -> "RpcError":
        """The reply for an error of the library: its own code and facts as data."""
        number = {StaleHandle: Code.NOT_FOUND, ArgumentError: Code.INVALID_PARAMS}.get(type(error), Code.FAILED)
        return cls(number, error.message, error.code, **error.context)


class LineTooLong(ProtocolError):
    """The peer sent more than the limit without a newline."""

    default_code = "LINE_TOO_LONG"


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `is_notification`: it has no id, and gets no reply."""

    method: str
    params: Params
    id: Id = None
    is_notification: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One line: its calls, and for what is no valid call the error that answers it, in the order received."""

    items: tuple[Call | RpcError, ...]
    is_batch: bool = False


class LineReader:
    """Cuts a stream of bytes into lines and lines into messages."""

    def __init__(self, max_line_bytes: int = limits.ADMIN_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._buffer = bytearray()
        self._searched = 0

    @property
    def is_mid_line(self) -> bool:
        """Whether the beginning of a line has arrived whose end has not."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes in. Lines are then read with `next_message`."""
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next message, or None when more bytes are needed. Raises LineTooLong."""
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if (end if end >= 0 else len(self._buffer)) > self._max_line_bytes:
                raise LineTooLong(f"a line of more than {self._max_line_bytes} bytes", limit=self._max_line_bytes)
            if end < 0:
                self._searched = len(self._buffer)
                return None
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            if line.strip():
                return parse(line)


def parse(line: bytes) -> Message:
    """The message in one line; what is wrong with it is in the message too."""
    try:
        _check_size(line)
        content = msgspec.json.decode(line)
    except RpcError as error:
        return Message((error,))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Message((RpcError(Code.PARSE_ERROR, f"not JSON: {error}"),))
    if not isinstance(content, list):
        return Message((_call(content),))
    if not content:
        return Message((RpcError(Code.INVALID_REQUEST, "an empty batch"),))
    if len(content) > limits.ADMIN_BATCH_ITEMS:
        why = f"a batch of {len(content)} calls; at most {limits.ADMIN_BATCH_ITEMS} are taken"
        return Message((RpcError(Code.LIMIT, why),))
    return Message(tuple(_call(item) for item in content), is_batch=True)


def encode(content: object) -> bytes:
    """One line."""
    return msgspec.json.encode(content) + b"\n"


def result(id: Id, value: object) -> Json:
    """The reply of a call that succeeded."""
    return {"jsonrpc": "2.0", "id": id, "result": value}


def failure(id: Id, error: RpcError) -> Json:
    """The reply of a call that failed; the id is null when the call's own could not be read."""
    return {"jsonrpc": "2.0", "id": id, "error": {"code": error.code, "message": error.message, "data": error.data}}


def notification(method: str, params: object) -> Json:
    """A message that wants no reply."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def _check_size(line: bytes) -> None:
    depth = values = 0
    most_tokens = 4 * limits.ADMIN_VALUES + 2  # two strings and an end for each value: JSON has no more
    for number, token in enumerate(_TOKEN.finditer(line)):
        match token[0][:1]:
            case b"[" | b"{":
                depth += 1
                values += 1
            case b"]" | b"}":
                depth -= 1
            case b",":
                values += 1
        if depth > limits.ADMIN_NESTING:
            raise RpcError(Code.LIMIT, f"nested more than {limits.ADMIN_NESTING} deep")
        if values > limits.ADMIN_VALUES or number > most_tokens:
            raise RpcError(Code.LIMIT, f"more than {limits.ADMIN_VALUES} values in one line")


def _call(content: object) -> Call | RpcError:
    if not isinstance(content, dict):
        return RpcError(Code.INVALID_REQUEST, f"a call is an object, not {_kind(content)}")
    if content.get("jsonrpc") != "2.0":
        return RpcError(Code.INVALID_REQUEST, 'expected "jsonrpc": "2.0"')
    method, params, id = content.get("method"), content.get("params", {}), content.get("id")
    if not isinstance(method, str):
        return RpcError(Code.INVALID_REQUEST, f'expected "method": a string, not {_kind(method)}')
    if not isinstance(params, dict | list):
        return RpcError(Code.INVALID_REQUEST, f'expected "params": an object or an array, not {_kind(params)}')
    if isinstance(id, bool | dict | list):
        return RpcError(Code.INVALID_REQUEST, f'expected "id": a string, a number or null, not {_kind(id)}')
    return Call(method, params, id, is_notification="id" not in content)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number")
