"""What tells that a device has failed: not what users do wrong, and nothing that a session says of others' devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from simpler.errors import ArgumentError, DeviceBusy, DeviceError, SimplerError, StartupError
from simpler.wire.control_messages import Manifest
from simplerd.device_health import failures_of
from simplerd.runner.control_protocol import LOST_DEVICES
from simplerd.sessions import Peer, Session


def session(failure: SimplerError | None = None) -> Session:
    made = Session(1, Manifest(platform="sim", runtime="graph", device_ids=[3]), Peer("unix", uid=1, pid=1), 0.0)
    made.failure = failure
    return made


@pytest.mark.parametrize("code", ["DEVICE", "DEVICE_LOST", "DEVICE_NO_DRIVER"])
def test_a_device_that_could_not_be_opened_has_failed(tmp_path: Path, code: str) -> None:  # D4
    failure = DeviceError("device 3 (sim): opening it: no answer", code=code, device=3)
    assert failures_of(session(failure), tmp_path) == {3: "it could not be used: device 3 (sim): opening it: no answer"}


@pytest.mark.parametrize(
    "failure",
    [
        None,
        DeviceError("too much", code="DEVICE_MEMORY", device=3),
        DeviceError("no ELF", code="DEVICE_KERNEL", device=3),
        DeviceError("somebody else's", device=4),
        DeviceError("nobody knows which"),
        DeviceBusy("in use", device=3),
        ArgumentError("no such device", device=3),
        StartupError("its runner was killed"),
    ],
)
def test_what_says_nothing_about_its_devices_is_no_failure(tmp_path: Path, failure: SimplerError | None) -> None:  # D4
    assert failures_of(session(failure), tmp_path) == {}


def test_a_session_tells_of_its_own_devices_only(tmp_path: Path) -> None:  # D4
    (tmp_path / LOST_DEVICES).write_text('{"3": 6, "4": 6}')
    assert failures_of(session(), tmp_path) == {
        3: "its chip worker died 6 times and was given up; simplerctl session logs s-00000001"
    }


@pytest.mark.parametrize("content", [b"", b"[3]", b'{"3": "x"}', b'{"3": 6', b"[" * 70_000, b"\xff"])
def test_what_a_session_left_there_is_read_with_care(tmp_path: Path, content: bytes) -> None:  # D4
    (tmp_path / LOST_DEVICES).write_bytes(content)
    assert failures_of(session(), tmp_path) == {}


def test_what_is_no_file_is_not_waited_for_or_followed(tmp_path: Path) -> None:  # D4
    os.mkfifo(tmp_path / LOST_DEVICES)
    assert failures_of(session(), tmp_path) == {}
    (tmp_path / LOST_DEVICES).unlink()
    (tmp_path / "elsewhere").write_text('{"3": 6}')
    (tmp_path / LOST_DEVICES).symlink_to(tmp_path / "elsewhere")
    assert failures_of(session(), tmp_path) == {}
    (tmp_path / LOST_DEVICES).unlink()
    (tmp_path / LOST_DEVICES).mkdir()
    assert failures_of(session(), tmp_path) == {}
