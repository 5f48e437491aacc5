"""The frame codec: against vectors written by hand, whole and byte by byte, and against nonsense."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpler import limits
from simpler.errors import ArgumentError, ProtocolError, VersionMismatch
from simpler.wire.decoder import TRANSITIONS, Event, FrameDecoder, State
from simpler.wire.frames import HEADER_BYTES, Flags, Frame, Header, MessageType, Reason, decode_header, encode_header

# HELLO request 1 with the payload "abc"; COPY_TO request 2 of session 7 to worker 3 with payload "xy" and data "DATA!".
HELLO = bytes.fromhex(
    "534c5231 01 01 0000 0000000000000000 00000000 00000000 0100000000000000 03000000 0000000000000000 616263"
)
COPY_TO = bytes.fromhex(
    "534c5231 01 30 0000 0700000000000000 03000000 00000000 0200000000000000 02000000 0500000000000000 7879 4441544121"
)


Found = tuple[Header, bytes, bytes]


def frames_in(decoder: FrameDecoder, received: bytes, step: int) -> Iterator[Found]:
    """The frames, each with its data; ``step`` bytes come at once."""
    under_way: tuple[Frame, memoryview] | None = None
    for start in range(0, len(received), step):
        left = memoryview(received)[start : start + step]
        while left:
            left = left[decoder.feed(left) :]
            while True:
                if under_way is None:
                    frame = decoder.next_frame()
                    if frame is None:
                        break
                    under_way = frame, memoryview(bytearray(min(frame.header.data_bytes, 1 << 10)))
                    if frame.header.data_bytes:
                        decoder.place_data(under_way[1])
                if under_way[0].header.data_bytes and not decoder.take_data():
                    break
                (header, payload), data = under_way
                under_way = None
                yield header, payload, bytes(data)


def decoded(received: bytes, step: int) -> list[Found]:
    decoder = FrameDecoder()
    found = list(frames_in(decoder, received, step))
    assert decoder.between_frames
    decoder.end()
    return found


@pytest.mark.parametrize("step", [1, 2, 3, 43, 44, 45, 46, 47, 1000])
def test_hand_written_frames_whole_and_in_pieces(step: int) -> None:  # R2
    assert decoded(HELLO + COPY_TO + HELLO, step) == [
        (Header(MessageType.HELLO, Flags.NONE, 0, 0, 1, 3, 0), b"abc", b""),
        (Header(MessageType.COPY_TO, Flags.NONE, 7, 3, 2, 2, 5), b"xy", b"DATA!"),
        (Header(MessageType.HELLO, Flags.NONE, 0, 0, 1, 3, 0), b"abc", b""),
    ]


def test_the_encoder_writes_the_hand_written_bytes() -> None:
    assert encode_header(MessageType.HELLO, Flags.NONE, 1, 3) + b"abc" == HELLO
    header = encode_header(MessageType.COPY_TO, Flags.NONE, 2, 2, 5, session=7, worker=3)
    assert header + b"xyDATA!" == COPY_TO
    assert HEADER_BYTES == 44


def test_who_reads_what_is_missing_never_reads_beyond_the_part() -> None:  # R9
    decoder, position, missing, data = FrameDecoder(), 0, [], memoryview(bytearray(5))
    while position < len(COPY_TO):
        missing.append(decoder.missing)
        decoder.feed((COPY_TO + HELLO)[position : position + missing[-1]])
        position += missing[-1]
        if decoder.state is State.DATA:
            assert decoder.take_data()
        elif decoder.next_frame() is not None:
            decoder.place_data(data)
    assert missing == [44, 2, 5]
    assert bytes(data) == b"DATA!"
    assert position == len(COPY_TO)


def test_data_is_received_straight_into_its_place() -> None:
    decoder, place = FrameDecoder(), memoryview(bytearray(5))
    decoder.feed(COPY_TO[:-3])
    assert decoder.next_frame() is not None
    decoder.place_data(place)
    assert not decoder.take_data()
    space = decoder.receive_buffer()
    assert space.obj is place.obj
    assert len(space) == 3
    space[:] = b"TA!"
    decoder.received(3)
    assert decoder.take_data()
    assert bytes(place) == b"DATA!"


def test_a_payload_that_is_larger_than_the_input_has_room_of_its_own() -> None:
    payload = random.Random(1).randbytes(1 << 20)
    task = encode_header(MessageType.TASK, Flags.NONE, 1, len(payload)) + payload
    for step in (1000, 4096, 1 << 20, 1 << 30):
        decoder = FrameDecoder(read_bytes=4096)
        assert [found[1] == payload for found in frames_in(decoder, task + HELLO, step)] == [True, False]
        assert decoder.between_frames


def test_data_without_a_place_is_dropped() -> None:
    decoder, found = FrameDecoder(read_bytes=64), list[bytes]()
    left = encode_header(MessageType.COPY_TO, Flags.NONE, 1, 0, 1000) + bytes(1000) + HELLO
    while left:
        left = left[decoder.feed(left) :]
        if decoder.state is State.DATA:
            decoder.take_data()
        if decoder.state is State.HEADER and (frame := decoder.next_frame()):
            found.append(frame.payload)
            if frame.header.data_bytes:
                decoder.place_data(None)
    assert found == [b"", b"abc"]


def patched(offset: int, value: bytes) -> bytes:
    return HELLO[:offset] + value + HELLO[offset + len(value) :]


BROKEN = [
    (patched(0, b"HTTP"), Reason.BAD_MAGIC),
    (patched(5, b"\x00"), Reason.UNKNOWN_TYPE),
    (patched(5, b"\xff"), Reason.UNKNOWN_TYPE),
    (patched(6, b"\x08\x00"), Reason.BAD_FLAGS),
    (patched(6, b"\x02\x00"), Reason.BAD_FLAGS),
    (patched(6, b"\x05\x00"), Reason.BAD_FLAGS),
    (patched(20, b"\x01"), Reason.BAD_RESERVED),
    (patched(32, b"\xff\xff\xff\xff"), Reason.PAYLOAD_TOO_LARGE),
    (patched(36, b"\x01"), Reason.UNEXPECTED_DATA),
    (COPY_TO[:36] + b"\xff" * 8, Reason.DATA_TOO_LARGE),
]


@pytest.mark.parametrize(("received", "reason"), BROKEN)
def test_a_bad_header_ends_the_connection_with_a_reason(received: bytes, reason: Reason) -> None:  # R2
    decoder = FrameDecoder()
    decoder.feed(received)
    with pytest.raises(ProtocolError) as raised:
        decoder.next_frame()
    assert raised.value.context["reason"] == reason
    for attempt in (decoder.next_frame, lambda: decoder.feed(HELLO)):
        with pytest.raises(ProtocolError, match="given up"):
            attempt()


def test_another_version_is_a_version_mismatch_that_names_both() -> None:  # R2
    with pytest.raises(VersionMismatch, match="version 9, this side 1"):
        decode_header(patched(4, b"\x09")[:HEADER_BYTES])


def test_lengths_are_refused_before_anything_is_allocated() -> None:  # R2
    decoder = FrameDecoder(max_payload_bytes=lambda kind, flags: 2)
    decoder.feed(HELLO[:HEADER_BYTES])
    with pytest.raises(ProtocolError, match="announces 3 payload bytes; at most 2"):
        decoder.next_frame()


def test_a_frame_that_does_not_fit_is_refused_by_the_sender() -> None:
    with pytest.raises(ArgumentError, match="remote_copy_to"):
        encode_header(MessageType.TASK, Flags.NONE, 1, limits.FRAME_PAYLOAD_BYTES + 1)


@pytest.mark.parametrize("length", range(1, len(COPY_TO)))
def test_hanging_up_inside_a_frame_is_an_error(length: int) -> None:  # R2
    decoder = FrameDecoder()
    assert not list(frames_in(decoder, COPY_TO[:length], 1000))
    with pytest.raises(ProtocolError, match="hung up inside a frame") as raised:
        decoder.end()
    assert raised.value.context["reason"] == Reason.TRUNCATED


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 400", b'{"jsonrpc"', b"SLR2"])
def test_hanging_up_after_what_begins_no_frame_says_so(said: bytes) -> None:  # R2
    decoder = FrameDecoder()
    assert not list(frames_in(decoder, said, 1000))
    with pytest.raises(ProtocolError, match="is this a simplerd endpoint") as raised:
        decoder.end()
    assert raised.value.context["reason"] == Reason.BAD_MAGIC


def test_the_table_of_states_is_what_the_decoder_does() -> None:
    left_by: dict[State, set[Event]] = {state: set() for state in State}
    for (state, event), after in TRANSITIONS.items():
        assert after is not state
        left_by[state].add(event)
    assert not left_by[State.DEAD]
    reached = {State.HEADER, *TRANSITIONS.values()}
    assert reached == set(State)


frames = st.tuples(
    st.sampled_from([MessageType.COPY_TO, MessageType.REGISTER]),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=70),
    st.binary(max_size=70),
)


@given(st.lists(frames, max_size=4), st.integers(1, 200))
def test_what_is_encoded_is_decoded(sent: list[tuple[MessageType, int, int, int, bytes, bytes]], step: int) -> None:
    stream = b"".join(
        encode_header(kind, Flags.NONE, sequence, len(payload), len(data), session=session, worker=worker)
        + payload
        + data
        for kind, session, worker, sequence, payload, data in sent
    )
    assert decoded(stream, step) == [
        (Header(kind, Flags.NONE, session, worker, sequence, len(payload), len(data)), payload, data)
        for kind, session, worker, sequence, payload, data in sent
    ]


@given(st.binary(max_size=300), st.integers(1, 60))
def test_nonsense_gives_protocol_errors_and_nothing_else(received: bytes, step: int) -> None:  # R2
    feed_until_broken(FrameDecoder(), received, step)


@given(st.integers(0, HEADER_BYTES - 1), st.integers(0, 255), st.integers(1, 60))
def test_one_wrong_byte_in_a_header(offset: int, value: int, step: int) -> None:  # R2
    broken = COPY_TO[:offset] + bytes([value]) + COPY_TO[offset + 1 :]
    feed_until_broken(FrameDecoder(), broken + HELLO, step)


def feed_until_broken(decoder: FrameDecoder, received: bytes, step: int) -> None:
    """Any other error than these fails the test."""
    try:
        list(frames_in(decoder, received, step))
        decoder.end()
    except (ProtocolError, VersionMismatch):
        return
