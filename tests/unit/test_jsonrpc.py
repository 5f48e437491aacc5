"""The JSON-RPC codec: the specification's own examples, every limit, and bytes in any portion."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpler import limits
from simpler.errors import ArgumentError, SimplerError, StaleHandle, TaskError, WorkerDied
from simplerd.admin import jsonrpc
from simplerd.admin.jsonrpc import Call, Code, LineReader, LineTooLong, Message, RpcError, parse


def code_of(line: bytes) -> tuple[int, str]:
    """The error that answers a line which is no single valid call."""
    (item,) = parse(line).items
    assert isinstance(item, RpcError)
    return item.code, item.message


def read_all(reader: LineReader) -> list[Message]:
    return list(iter(reader.next_message, None))


@pytest.mark.parametrize(
    ("line", "call"),
    [
        (b'{"jsonrpc":"2.0","method":"a","params":[1,2],"id":1}', Call("a", [1, 2], 1)),
        (b'{"jsonrpc":"2.0","method":"a","params":{"x":1},"id":"s"}', Call("a", {"x": 1}, "s")),
        (b'{"jsonrpc":"2.0","method":"a","id":null}', Call("a", {}, None)),
        (b'{"jsonrpc":"2.0","method":"a"}', Call("a", {}, None, is_notification=True)),
        (b' {"method":"a","jsonrpc":"2.0","id":1.5}\r', Call("a", {}, 1.5)),
    ],
)
def test_a_call_is_read(line: bytes, call: Call) -> None:
    assert parse(line) == Message((call,))


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (b'{"jsonrpc":"2.0","method":"foobar,"params":"bar","baz]', Code.PARSE_ERROR, "not JSON"),
        (b'{"jsonrpc":"2.0","method":"a","id":1} x', Code.PARSE_ERROR, "not JSON"),
        (b"{", Code.PARSE_ERROR, "not JSON"),
        (b'"\xff"', Code.PARSE_ERROR, "not JSON"),
        (b"NaN", Code.PARSE_ERROR, "not JSON"),
        (b"[]", Code.INVALID_REQUEST, "an empty batch"),
        (b"7", Code.INVALID_REQUEST, "a call is an object, not a number"),
        (b'{"method":"a","id":1}', Code.INVALID_REQUEST, 'expected "jsonrpc": "2.0"'),
        (b'{"jsonrpc":"2.0","method":1,"id":1}', Code.INVALID_REQUEST, 'expected "method": a string, not a number'),
        (b'{"jsonrpc":"2.0","id":1}', Code.INVALID_REQUEST, 'expected "method": a string, not nothing'),
        (b'{"jsonrpc":"2.0","method":"a","params":"x"}', Code.INVALID_REQUEST, "an object or an array, not a string"),
        (
            b'{"jsonrpc":"2.0","method":"a","id":true}',
            Code.INVALID_REQUEST,
            "a string, a number or null, not a boolean",
        ),
        (b'{"jsonrpc":"2.0","method":"a","id":{}}', Code.INVALID_REQUEST, "a string, a number or null, not an object"),
    ],
)
def test_what_is_no_call_gets_the_standard_error(line: bytes, code: Code, message: str) -> None:
    got_code, got_message = code_of(line)
    assert got_code == code
    assert message in got_message


def test_a_batch_keeps_its_order_and_answers_what_is_invalid_in_it() -> None:
    message = parse(b'[{"jsonrpc":"2.0","method":"a","id":1}, 1, {"jsonrpc":"2.0","method":"b"}]')
    first, second, third = message.items
    assert message.is_batch
    assert first == Call("a", {}, 1)
    assert isinstance(second, RpcError)
    assert second.code == Code.INVALID_REQUEST
    assert third == Call("b", {}, None, is_notification=True)


def test_a_batch_has_a_limited_number_of_calls() -> None:
    call = b'{"jsonrpc":"2.0","method":"a","id":1}'
    assert len(parse(b"[" + b",".join([call] * limits.ADMIN_BATCH_ITEMS) + b"]").items) == limits.ADMIN_BATCH_ITEMS
    code, message = code_of(b"[" + b",".join([call] * (limits.ADMIN_BATCH_ITEMS + 1)) + b"]")
    assert (code, message) == (Code.LIMIT, "a batch of 101 calls; at most 100 are taken")


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_limited_before_anything_is_decoded(opening: bytes, closing: bytes) -> None:
    deep = limits.ADMIN_NESTING
    assert code_of(opening * deep + b"1" + closing * deep)[0] == Code.INVALID_REQUEST
    assert code_of(opening * (deep + 1) + b"1" + closing * (deep + 1)) == (Code.LIMIT, "nested more than 32 deep")
    assert code_of(opening * 200_000)[0] == Code.LIMIT


def test_the_number_of_values_is_limited() -> None:
    def line(count: int) -> bytes:
        return b'{"jsonrpc":"2.0","method":"a","params":[' + b",".join([b"1"] * count) + b"]}"

    assert isinstance(parse(line(limits.ADMIN_VALUES - 10)).items[0], Call)
    assert code_of(line(limits.ADMIN_VALUES + 1)) == (Code.LIMIT, "more than 10000 values in one line")


@pytest.mark.parametrize("rubbish", [b"]", b'""'])
def test_a_line_of_rubbish_is_not_looked_through_to_its_end(rubbish: bytes) -> None:
    assert code_of(rubbish * limits.ADMIN_VALUES * 6)[0] == Code.LIMIT
    assert code_of(rubbish * limits.ADMIN_VALUES)[0] == Code.PARSE_ERROR


def test_as_many_strings_as_the_values_allow_are_read() -> None:
    members = b",".join(b'"%d":""' % number for number in range(limits.ADMIN_VALUES - 10))
    line = b'{"jsonrpc":"2.0","method":"a","params":{' + members + b"}}"
    assert isinstance(parse(line).items[0], Call)


def test_brackets_and_commas_in_strings_do_not_count() -> None:
    text = '[{,"\\' * limits.ADMIN_VALUES
    line = json.dumps({"jsonrpc": "2.0", "method": "a", "params": [text], "id": 1}).encode()
    assert parse(line).items == (Call("a", [text], 1),)


def test_lines_are_cut_wherever_the_bytes_are_split() -> None:
    stream = b'{"jsonrpc":"2.0","method":"a"}\n\n \n{"jsonrpc":"2.0","method":"b"}\nrubbish\n{"jsonrpc"'
    whole, single = LineReader(), LineReader()
    whole.feed(stream)
    messages = read_all(whole)
    one_by_one: list[Message] = []
    for index in range(len(stream)):
        single.feed(stream[index : index + 1])
        one_by_one += read_all(single)
    assert [type(item).__name__ for message in messages for item in message.items] == ["Call", "Call", "RpcError"]
    assert len(one_by_one) == len(messages)
    assert one_by_one[:2] == messages[:2]
    assert whole.is_mid_line
    assert single.is_mid_line


def test_nothing_is_mid_line_between_lines() -> None:
    reader = LineReader()
    assert not reader.is_mid_line
    reader.feed(b"1\n")
    assert len(read_all(reader)) == 1
    assert not reader.is_mid_line


@pytest.mark.parametrize("stream", [b"x" * 21, b"x" * 21 + b"\n", b"1\n" + b"x" * 21])
def test_a_line_that_is_too_long_ends_the_reading(stream: bytes) -> None:
    reader = LineReader(max_line_bytes=20)
    reader.feed(stream)
    with pytest.raises(LineTooLong, match="more than 20 bytes"):
        read_all(reader)


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_and_never_raise(data: bytes) -> None:
    for item in parse(data).items:
        line = jsonrpc.encode(jsonrpc.failure(None, item)) if isinstance(item, RpcError) else b"{}\n"
        assert json.loads(line) is not None


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        st.lists,
        max_leaves=20,
    )
)
def test_what_is_sent_is_one_line_that_reads_back(value: object) -> None:
    line = jsonrpc.encode(jsonrpc.result(1, value))
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"jsonrpc": "2.0", "id": 1, "result": value}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StaleHandle("gone", session="s-1"), Code.NOT_FOUND),
        (ArgumentError("wrong", field="x"), Code.INVALID_PARAMS),
        (WorkerDied("killed", pid=3), Code.FAILED),
        (TaskError("failed", symbol="add", status=1), Code.FAILED),
    ],
)
def test_an_error_of_the_library_keeps_its_code_words_and_facts(error: SimplerError, code: Code) -> None:
    reply = jsonrpc.failure(4, RpcError.of(error))
    assert reply["error"] == {"code": code, "message": error.message, "data": {"code": error.code, **error.context}}


def test_our_own_error_numbers_are_in_the_range_for_servers() -> None:
    assert [code for code in Code if -32768 <= code <= -32100] == list(Code)[:5]
    assert all(-32099 <= code <= -32000 for code in list(Code)[5:])
