"""What a spawner and its owner say to each other, as bytes."""

from __future__ import annotations

import os
import socket

import pytest

from simpler import spawn_protocol as protocol
from simpler.errors import ProtocolError
from simpler.spawn_protocol import (
    Exited,
    Forked,
    ForkRequest,
    KillRequest,
    PoolEnded,
    PoolFailed,
    PoolReady,
    PoolRequest,
    PoolStop,
    PoolWorker,
    PreloadFailed,
    Refused,
    Start,
    WorkerLost,
)

REQUESTS = [
    Start(["/a", ""], ["numpy"], "name"),
    ForkRequest(1, "module:function", b"\0\xff", "child", False, {"A": "b", "C": None}),
    KillRequest(2, 9),
    PoolRequest([PoolWorker(0, "module:function", b"", "sub0")], 12.5, 60.0, None),
    PoolStop(),
]
REPORTS = [
    Forked(1, 77),
    Refused(1, "why"),
    Exited(1, 77, None, 9, ["a line", ""]),
    PreloadFailed("module", "why"),
    PoolReady(),
    PoolFailed(b"record"),
    WorkerLost(3, b"record"),
    PoolEnded(),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: type(each).__name__)
def test_requests_come_back_as_they_went(request_: protocol.Request) -> None:
    assert protocol.decode_request(protocol.encode(request_)) == request_


@pytest.mark.parametrize("report", REPORTS, ids=lambda each: type(each).__name__)
def test_reports_come_back_as_they_went(report: protocol.Report) -> None:
    assert protocol.decode_report(protocol.encode(report)) == report


def test_a_request_is_no_report_and_noise_is_neither() -> None:
    with pytest.raises(ProtocolError, match="report"):
        protocol.decode_report(protocol.encode(PoolStop()))
    for noise in (b"", b"\xc1", protocol.encode(PoolStop()) + b"\0"):
        with pytest.raises(ProtocolError, match="request"):
            protocol.decode_request(noise)


def test_a_message_that_no_packet_holds_is_refused() -> None:
    with pytest.raises(ProtocolError, match="too large"):
        protocol.encode(ForkRequest(1, "m:f", bytes(protocol.MAX_MESSAGE_BYTES), "child"))


def test_descriptors_travel_beside_the_packet() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read_end, write_end = os.pipe()
    with ours, theirs:
        ours.sendmsg([b"x"], protocol.ancillary([write_end]))
        os.close(write_end)
        _, received, flags, _ = theirs.recvmsg(16, protocol.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        (copy,) = protocol.descriptors(received, flags)
        assert not os.get_inheritable(copy)
        os.write(copy, b"through")
        assert os.read(read_end, 16) == b"through"
    os.close(copy)
    os.close(read_end)


def test_a_cut_packet_is_an_error_and_its_descriptors_are_closed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.sendmsg([b"long"], protocol.ancillary([ours.fileno()]))
        _, received, flags, _ = theirs.recvmsg(1, protocol.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        with pytest.raises(ProtocolError):
            protocol.descriptors(received, flags)
