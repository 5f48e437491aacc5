"""Which of a session's devices its runner leaves as failed: the file that tells the daemon when the session is over.

A file in the session's folder is there for whichever daemon sees the session's end, and cannot hold up either side.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from simpler.region import Region
from simplerd.runner.control_protocol import LOST_DEVICES, Launch


def tell_lost_devices(launch: Launch, region: Region) -> None:
    """Writes down how often the chip workers died that were given up, by their devices."""
    chips = [(device, region.worker_info(chip)) for chip, device in enumerate(launch.manifest.device_ids)]
    lost = {device: info.deaths for device, info in chips if info.abandoned}
    if lost:
        Path(launch.folder, LOST_DEVICES).write_bytes(msgspec.json.encode(lost))
