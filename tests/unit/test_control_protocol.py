"""The words between simplerd and a runner, and the errors that are too large for them."""

from __future__ import annotations

import os

import pytest

from simpler.errors import ProtocolError
from simpler.wire.control_messages import Manifest
from simplerd.runner import control_protocol as protocol
from simplerd.runner.control_protocol import Failed, Lane, Launch, Ready, Stop


def test_messages_come_back_as_they_went() -> None:
    for command in (Lane("data", b"frame"), Stop("enough")):
        assert protocol.decode_command(protocol.encode(command)) == command
    for report in (Ready([0], [1, 2]), Failed()):
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


def test_an_error_of_any_length_fits_a_memfd() -> None:  # R6
    record = os.urandom(3 << 20)
    memfd = protocol.error_to_memfd(record)
    assert protocol.error_from_memfd(memfd) == record
    with pytest.raises(PermissionError):
        os.write(memfd, b"more")
    os.close(memfd)


def test_a_descriptor_that_is_no_sealed_memfd_is_not_read() -> None:
    pipe = os.pipe()
    unsealed = os.memfd_create("unsealed")
    for fd in (*pipe, unsealed):
        with pytest.raises(ProtocolError, match="not a sealed memfd"):
            protocol.error_from_memfd(fd)
        os.close(fd)
