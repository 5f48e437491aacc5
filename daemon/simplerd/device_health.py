"""What tells that a device has failed, and trying one that has until it works again.

Rules
  1. A device has failed when its session could not open it, or its chip worker was given up: it had died again and
     again without completing a task (client/simpler/pool.py). One death, or a task that is late, is no failure.
  2. Which chip workers were given up the runner writes into its session's folder, before it ends. It has run user code:
     what it wrote is read with bounds, and counts for the devices of its own session only.
  3. A failed device is tried in a process of its own: later and later, and at most limits.DEVICE_PROBES times in a row.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import trio

from simpler import limits
from simpler.errors import DeviceBusy, DeviceError, SimplerError
from simplerd.config import Config
from simplerd.devices import DeviceTable
from simplerd.events import EventLog
from simplerd.log import get_logger
from simplerd.runner.control_protocol import LOST_DEVICES
from simplerd.runners import Runners
from simplerd.sessions import Session

PROBE_ENTRY = "simplerd.runner.probe:main"
_MAX_FILE_BYTES = 64 << 10
_USERS_FAULT = ("DEVICE_MEMORY", "DEVICE_ADDRESS", "DEVICE_KERNEL")
"""Codes of errors that say nothing about the device."""

_log = get_logger("devices")


def failures_of(session: Session, folder: Path) -> dict[int, str]:
    """What was wrong with the devices of `session`, which is over; `folder`: the session's, which is still there."""
    devices = session.manifest.device_ids
    error = session.failure
    found: dict[int, str] = {}
    if isinstance(error, DeviceError) and error.code not in _USERS_FAULT and not isinstance(error, DeviceBusy):
        device = error.context.get("device")
        if isinstance(device, int):
            found[device] = f"it could not be used: {error.message}"
    for device, deaths in _given_up(folder / LOST_DEVICES).items():
        found[device] = f"its chip worker died {deaths} times and was given up; simplerctl session logs {session.id}"
    return {device: why for device, why in found.items() if device in devices}


def _given_up(file: Path) -> dict[int, int]:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # as usual: none was
        return {}
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return {}
        return msgspec.json.decode(os.read(descriptor, _MAX_FILE_BYTES), type=dict[int, int])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError):
        return {}
    finally:
        os.close(descriptor)


class DeviceHealth:
    """Tries the devices of the host that have failed. Belongs to the trio thread."""

    def __init__(self, config: Config, devices: DeviceTable, runners: Runners, events: EventLog) -> None:
        self._config = config
        self._devices = devices
        self._runners = runners
        self._events = events
        self._watched: set[int] = set()

    async def run(self) -> None:
        """Looks after them for as long as the daemon serves."""
        news = self._events.subscribe(types=("device.failed",))
        async with trio.open_nursery() as nursery:
            while True:
                for device in set(self._devices.failed()) - self._watched:
                    self._watched.add(device)
                    nursery.start_soon(self._watch, device)
                await news.receive()  # no deadline: it is good when nothing fails

    async def _watch(self, device: int) -> None:
        try:
            delay_s = self._config.probe_interval_s
            for _ in range(limits.DEVICE_PROBES if delay_s else 0):
                await trio.sleep(delay_s)
                if not self._devices.begin_probe(device):
                    return
                problem: str | None = "it was not tried to the end"
                try:
                    problem = await self._probe(device)
                finally:
                    self._devices.end_probe(device, problem, recovers=self._config.return_after_probe)
                kind = "device.probe_failed" if problem else "device.recovered"
                self._events.publish(kind, device=device, reason=problem)
                if problem is None:
                    return
                delay_s = min(2 * delay_s, limits.DEVICE_PROBE_INTERVAL_MAX_S)
        finally:
            self._watched.discard(device)

    async def _probe(self, device: int) -> str | None:
        """What is wrong with the device, or None."""
        argument = msgspec.msgpack.encode((self._config.platform, device))
        try:
            with trio.fail_after(limits.DEVICE_PROBE_TIMEOUT_S):
                process = await self._runners.fork(
                    f"probe-device{device}", argument, entry=PROBE_ENTRY, is_for_the_next=False
                )
        except (SimplerError, trio.TooSlowError) as error:
            return f"it could not be tried: {str(error) or 'no process was forked in time'}"
        try:
            with trio.move_on_after(limits.DEVICE_PROBE_TIMEOUT_S):
                await process.exited.wait()
            if not process.exited.is_set():
                return f"it did not answer within {limits.DEVICE_PROBE_TIMEOUT_S:g} s"
        finally:
            self._runners.give_up(process)
        ended = process.exit
        if ended is not None and ended.code == 0:
            return None
        if ended is None or (ended.code is None and ended.signal is None):
            return "nobody knows how the process that tried it has ended"
        how = f"exited with code {ended.code}" if ended.signal is None else f"was killed by signal {ended.signal}"
        return "\n".join(ended.stderr) or f"the process that tried it {how}"
