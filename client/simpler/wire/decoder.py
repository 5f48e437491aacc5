"""One direction of one connection: bytes in, frames out. No sockets, no clocks, no messages.

Rules
  1. The reader asks where the next bytes go (``receive_buffer``), has them put there, and says how many came
     (``received``). A large payload, and data that was given a place, so go from the socket to where they belong.
  2. Incomplete input is a value (None), never an error.
  3. After a frame that announces data, the data is placed or dropped (``place_data``) and taken (``take_data``) before
     the next frame.
  4. After an error the decoder is dead: framing is lost, and only a new connection helps.
"""

from __future__ import annotations

from enum import Enum, auto

from simpler import limits
from simpler.errors import ProtocolError, VersionMismatch
from simpler.wire.frames import (
    HEADER_BYTES,
    MAGIC,
    Buffer,
    Frame,
    Header,
    PayloadLimit,
    Reason,
    decode_header,
    frame_limit,
    no_frame,
    protocol_error,
)

READ_BYTES = 64 << 10
"""What is read at once where nothing has a place of its own: many small frames, or the head of a large one."""


class State(Enum):
    """Which part of a frame the decoder waits for."""

    HEADER = auto()
    PAYLOAD = auto()
    DATA = auto()
    DEAD = auto()


class Event(Enum):
    """What moves a decoder on. A frame that is there as a whole, and has no data, moves nothing."""

    PAYLOAD_MISSING = auto()
    PAYLOAD_READ = auto()
    DATA_ANNOUNCED = auto()
    DATA_READ = auto()
    BAD_HEADER = auto()


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.HEADER, Event.PAYLOAD_MISSING): State.PAYLOAD,
    (State.HEADER, Event.DATA_ANNOUNCED): State.DATA,
    (State.PAYLOAD, Event.PAYLOAD_READ): State.HEADER,
    (State.DATA, Event.DATA_READ): State.HEADER,
    (State.HEADER, Event.BAD_HEADER): State.DEAD,
}


class FrameDecoder:
    """``max_payload_bytes``: of each kind of frame. ``max_data_bytes``: 0 for peers that have not said who they are."""

    def __init__(
        self,
        *,
        max_payload_bytes: PayloadLimit = frame_limit,
        max_data_bytes: int = limits.FRAME_DATA_BYTES,
        read_bytes: int = READ_BYTES,
    ) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._max_data_bytes = max_data_bytes
        self._state = State.HEADER
        self._input = memoryview(bytearray(read_bytes))
        self._begin = 0
        self._end = 0
        """The input from _begin to _end has come and was not taken yet."""
        self.frames = 0
        """How many have come as a whole."""
        self._header: Header | None = None
        self._place: memoryview | None = None
        """Where data goes, or a payload that is larger than the input; None: it stays in the input, or is dropped."""
        self._placed = 0
        """How much of that has come."""

    @property
    def state(self) -> State:
        """The part that is read next."""
        return self._state

    @property
    def missing(self) -> int:
        """How many bytes complete the part that is being read."""
        return self._part_bytes() - self._placed - (self._end - self._begin)

    @property
    def between_frames(self) -> bool:
        """Whether the peer may hang up here without cutting a frame."""
        return self._state is State.HEADER and self._begin == self._end

    def receive_buffer(self) -> memoryview:
        """Where the next bytes go, as many as fit; never empty. Void with the next call of anything here."""
        self._check_alive()
        if self._begin == self._end:
            self._begin = self._end = 0
            if self._place is not None:
                return self._place[self._placed :]
        elif self._begin:
            left = self._end - self._begin
            self._input[:left] = self._input[self._begin : self._end]
            self._begin, self._end = 0, left
        return self._input[self._end :]

    def received(self, nbytes: int) -> None:
        """That many bytes were put into ``receive_buffer()``."""
        if self._place is not None and self._begin == self._end:
            self._placed += nbytes
        else:
            self._end += nbytes

    def feed(self, received: Buffer) -> int:
        """Copies input that was received elsewhere; how much of it there was room for."""
        space = self.receive_buffer()
        count = min(len(space), len(received))
        space[:count] = received[:count]
        self.received(count)
        return count

    def next_frame(self) -> Frame | None:
        """The next frame, None while it is not there as a whole. Raises ProtocolError, VersionMismatch."""
        if self._state is not State.HEADER:
            return self._rest_of_payload()
        if self._end - self._begin < HEADER_BYTES:
            return None
        header = self._read_header()
        begin = self._begin = self._begin + HEADER_BYTES
        end = begin + header.payload_bytes
        if end > self._end:
            self._await_payload(header)
            return None
        self._begin = end
        return self._frame(header, bytes(self._input[begin:end]))

    def place_data(self, target: memoryview | None) -> None:
        """The data of the last frame goes to ``target``, which is as long; None drops what has not come yet."""
        assert self._state is State.DATA
        self._place = target

    def take_data(self) -> bool:
        """Whether the data of the last frame is there as a whole."""
        assert self._state is State.DATA
        self._take_into_place()
        if self._placed < self._part_bytes():
            return False
        self._place, self._placed = None, 0
        self._move(Event.DATA_READ)
        self.frames += 1
        return True

    def end(self) -> None:
        """The peer has hung up and all that came was taken. Raises ProtocolError when that cut a frame."""
        if self._state is State.DEAD or self.between_frames:
            return
        begun = bytes(self._input[self._begin : min(self._end, self._begin + len(MAGIC))])
        if self._state is State.HEADER and not MAGIC.startswith(begun):
            raise no_frame(begun)
        raise protocol_error(
            Reason.TRUNCATED,
            f"the peer hung up inside a frame: {self.missing} bytes of its {self._state.name.lower()} are missing",
        )

    def _check_alive(self) -> None:
        if self._state is State.DEAD:
            raise protocol_error(Reason.DEAD, "the connection was given up after an earlier error; open a new one")

    def _move(self, event: Event) -> None:
        self._state = TRANSITIONS[self._state, event]

    def _part_bytes(self) -> int:
        if self._state is State.HEADER or self._header is None:
            return HEADER_BYTES
        return self._header.payload_bytes if self._state is State.PAYLOAD else self._header.data_bytes

    def _read_header(self) -> Header:
        try:
            return decode_header(
                self._input,
                self._begin,
                max_payload_bytes=self._max_payload_bytes,
                max_data_bytes=self._max_data_bytes,
            )
        except (ProtocolError, VersionMismatch):
            self._move(Event.BAD_HEADER)
            raise

    def _await_payload(self, header: Header) -> None:
        self._header = header
        self._move(Event.PAYLOAD_MISSING)
        if header.payload_bytes > len(self._input):
            self._place = memoryview(bytearray(header.payload_bytes))
            self._take_into_place()

    def _rest_of_payload(self) -> Frame | None:
        self._check_alive()
        assert self._state is State.PAYLOAD
        assert self._header is not None
        nbytes = self._header.payload_bytes
        if self._place is not None:
            self._take_into_place()
            if self._placed < nbytes:
                return None
            payload, self._place, self._placed = bytes(self._place), None, 0
        else:
            if self._end - self._begin < nbytes:
                return None
            payload = bytes(self._input[self._begin : self._begin + nbytes])
            self._begin += nbytes
        self._move(Event.PAYLOAD_READ)
        return self._frame(self._header, payload)

    def _frame(self, header: Header, payload: bytes) -> Frame:
        if header.data_bytes:
            self._header = header
            self._move(Event.DATA_ANNOUNCED)
        else:
            self.frames += 1
        return Frame(header, payload)

    def _take_into_place(self) -> None:
        """What is in the input already and belongs there."""
        count = min(self._end - self._begin, self._part_bytes() - self._placed)
        if self._place is not None:
            self._place[self._placed : self._placed + count] = self._input[self._begin : self._begin + count]
        self._begin += count
        self._placed += count
