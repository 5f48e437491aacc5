"""The words between simplerd and a runner."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from simpler.errors import ProtocolError
from simpler.spawn_protocol import Unknown
from simpler.wire.control_messages import Manifest
from simplerd.runner import control_protocol as protocol
from simplerd.runner.control_protocol import Adopt, Answer, Ask, Failed, Lane, Launch, Ready, Stop


def test_messages_come_back_as_they_went() -> None:
    for command in (Lane("data", b"frame"), Stop("enough"), Ask(1, "stats", {"after": 2})):
        assert protocol.decode_command(protocol.encode(command)) == command
    for report in (Ready([0], [1, 2]), Failed(), Answer(1, failed=True)):
        assert protocol.decode_report(protocol.encode(report)) == report


def test_what_a_runner_is_started_with_comes_back_as_it_went() -> None:
    manifest = Manifest(platform="sim", runtime="graph", env={"A": None})
    launch = Launch("s-1", 1, 2, b"DER", "host", "/run/s-1", ["/opt"], manifest, 1.0, 3.0, 2.0)
    assert Launch.decode(launch.encode()) == launch


@pytest.mark.parametrize("packet", [b"", b"\x00", b"\xc1", protocol.encode(Ready([], []))[:-1], b"x" * 100])
def test_anything_but_one_whole_message_is_refused(packet: bytes) -> None:  # R2
    with pytest.raises(ProtocolError):
        protocol.decode_report(packet)
    with pytest.raises(ProtocolError):
        protocol.decode_command(packet)


@pytest.mark.parametrize("decode", [protocol.decode_report, protocol.decode_command])
def test_a_message_of_another_release_is_told_from_noise(decode: Callable[[bytes], object]) -> None:  # D2
    assert decode(msgspec.msgpack.encode({"type": "freeze", "number": 1})) == Unknown("freeze")


def test_fields_of_another_release_are_skipped_or_have_defaults() -> None:  # D2
    newer = {"type": "ready", "chips": [0], "subs": [1], "colour": "red"}
    assert protocol.decode_report(msgspec.msgpack.encode(newer)) == Ready([0], [1])
    assert protocol.decode_command(msgspec.msgpack.encode({"type": "adopt"})) == Adopt()


def test_each_side_takes_only_what_the_other_may_say() -> None:
    with pytest.raises(ProtocolError):
        protocol.decode_report(protocol.encode(Stop("")))
    with pytest.raises(ProtocolError):
        protocol.decode_command(protocol.encode(Failed()))
