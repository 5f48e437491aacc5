"""The fuzzer in short, and how much memory a connection can be made to take.

``make test`` runs this beside everything else, at the lowest priority.
"""

from __future__ import annotations

import itertools
import random
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.campaign import Finding, fuzz, shares
from fuzz.targets import TARGETS, Target, frames, from_any
from simpler import limits
from simpler.errors import ProtocolError, VersionMismatch
from simpler.wire.command_messages import Task
from simpler.wire.conversation import Conversation
from simpler.wire.data_messages import CopyTo
from simpler.wire.decoder import READ_BYTES
from simpler.wire.frames import Flags, MessageType, encode_header
from simpler.wire.messages import Message
from simpler.wire.unanswered import Call

SECONDS = 64.0
"""For all targets together."""
ROUND = 2000
SEED = "ci"


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_a_target(name: str) -> None:  # R2
    """Always the same inputs in the same order; how many of them depends on the host."""
    until = time.monotonic() + SECONDS * shares(1000, list(TARGETS))[name] / 1000
    for number in itertools.count():
        fuzz(name, f"{SEED}/{number}", ROUND)
        if time.monotonic() > until:
            return


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(st.sampled_from(frames()), st.binary(max_size=60)), max_size=6).map(b"".join))
def test_what_hypothesis_makes_of_frames_and_nonsense(received: bytes) -> None:  # R2
    TARGETS["conversation"].run(received)
    TARGETS["decoder"].run(received)


def test_a_finding_names_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses_m(received: bytes) -> None:
        assert b"m" not in received

    monkeypatch.setitem(TARGETS, "picky", Target(refuses_m, from_any([b"m"]), 1))
    with pytest.raises(Finding, match=r"picky, seed 1, input \d+: bytes.fromhex\('.*6d"):
        fuzz("picky", "1", 100)


def test_the_same_seed_gives_the_same_inputs() -> None:
    make = TARGETS["message"].make
    first, second = ([make(rng) for _ in range(100)] for rng in (random.Random("a"), random.Random("a")))
    assert first == second


# ---- memory, with limits that are 1/256 of the real ones

PAYLOAD_BYTES, DATA_BYTES = limits.FRAME_PAYLOAD_BYTES >> 8, limits.FRAME_DATA_BYTES >> 8
FRAME_BYTES = PAYLOAD_BYTES + DATA_BYTES


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUEST_BYTES_HELD", "REQUESTS_IN_FLIGHT", "MESSAGE_ITEMS", "MESSAGE_ARRAY_ITEMS"):
        monkeypatch.setattr(limits, name, getattr(limits, name) >> 8)


def large_tasks() -> Iterator[bytes]:
    """More than may be held, each as large as a frame may be."""
    payload = Task(digest=bytes(32), args=bytes(PAYLOAD_BYTES - 100)).encode()
    for number in range(1, 40):
        yield encode_header(MessageType.TASK, Flags.NONE, number, len(payload)) + payload


def large_copies() -> Iterator[bytes]:
    payload = CopyTo(buffer=1, generation=1, offset=0).encode()
    for number in range(1, 40):
        yield encode_header(MessageType.COPY_TO, Flags.NONE, number, len(payload), DATA_BYTES) + payload
        yield bytes(DATA_BYTES)


def many_items() -> Iterator[bytes]:
    """Small arrays, which take far more memory than bytes, in as many frames as are taken."""
    payload = (b"\x91" * 2 + b"\x90" * 30) * (PAYLOAD_BYTES // 32)
    for number in range(1, 40):
        yield encode_header(MessageType.TASK, Flags.NONE, number, len(payload)) + payload


def cut_off() -> Iterator[bytes]:
    """The largest frame that can be announced, but for its last byte."""
    payload = CopyTo(buffer=1, generation=1, offset=0).encode()
    yield encode_header(MessageType.COPY_TO, Flags.NONE, 1, len(payload), DATA_BYTES) + payload + bytes(DATA_BYTES - 1)


def mutated_frames() -> Iterator[bytes]:
    rng, make = random.Random(SEED), TARGETS["conversation"].make
    return (make(rng) for _ in range(300))


@pytest.mark.slow
@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("made", [large_tasks, large_copies, many_items, cut_off, mutated_frames])
def test_memory_stays_below_four_frames_whatever_arrives(made: Callable[[], Iterator[bytes]]) -> None:  # R2
    """Nothing that is taken is answered before the end: the worst that a slow server can do to itself."""
    sent = list(made())
    tracemalloc.start()
    try:
        for pieces in [[piece] for piece in sent] if made is mutated_frames else [sent]:
            receive(pieces)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 4 * FRAME_BYTES + READ_BYTES


def receive(pieces: Iterable[bytes]) -> None:
    """Until the conversation has had enough. A request that is refused is answered, as a server would."""
    talk = Conversation(
        name="peer",
        place=room,
        at_once=None,
        pickles=False,
        max_payload_bytes=lambda kind, flags: PAYLOAD_BYTES,
        max_data_bytes=DATA_BYTES,
    )
    held: list[Call] = []
    try:
        for piece in pieces:
            left = memoryview(piece)
            while left:
                left = left[talk.feed(left) :]
                while (event := talk.next_event()) is not None:
                    if isinstance(event, Call) and event.refusal is not None:
                        talk.refuse(event, event.refusal)
                        talk.take_output()
                    elif isinstance(event, Call):
                        held.append(event)
    except (ProtocolError, VersionMismatch):
        assert talk.take_output()  # the FAULT


def room(request: Message, nbytes: int) -> memoryview:
    return memoryview(bytearray(nbytes))
