"""The words between simplerd and a runner."""

from __future__ import annotations

import pytest

from simpler.errors import ProtocolError
from simpler.wire.control_messages import Manifest
from simplerd.runner import control_protocol as protocol
from simplerd.runner.control_protocol import Answer, Ask, Failed, Lane, Launch, Ready, Stop


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


def test_each_side_takes_only_what_the_other_may_say() -> None:
    with pytest.raises(ProtocolError):
        protocol.decode_report(protocol.encode(Stop("")))
    with pytest.raises(ProtocolError):
        protocol.decode_command(protocol.encode(Failed()))
