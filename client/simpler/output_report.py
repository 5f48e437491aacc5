"""What a child prints, as its spawner tells the owner: at a certain rate at most, so that a flood holds up nobody.

All of it goes to the spawner's stderr besides. Whoever is told hears how many lines were left out, and where: as a
number, to which those on the way to the reader add what they leave out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from simpler import limits
from simpler.spawn_protocol import Printed


class OutputReport:
    """The lines of the child ``key``. ``send`` takes reports, as long as ``may_send`` says so."""

    def __init__(self, key: int, send: Callable[[Printed], None], may_send: Callable[[], bool]) -> None:
        self._key, self._send, self._may_send = key, send, may_send
        self._bytes_left = float(limits.OUTPUT_BURST_BYTES)
        self._looked_at = time.monotonic()
        self._left_out = 0

    def take(self, lines: list[bytes]) -> None:
        """Reports as many of the lines as may be."""
        now = time.monotonic()
        earned = (now - self._looked_at) * limits.OUTPUT_RATE_BYTES
        self._bytes_left, self._looked_at = min(limits.OUTPUT_BURST_BYTES, self._bytes_left + earned), now
        reported: list[str] = []
        is_silent = self._left_out > 0 and self._bytes_left < limits.OUTPUT_BURST_BYTES / 4  # gaps are few and long
        for line in lines if self._may_send() and not is_silent else ():
            if self._bytes_left < len(line) + 1:
                break
            self._bytes_left -= len(line) + 1
            reported.append(line.decode("utf-8", "backslashreplace"))
        if reported:
            self._report(reported)
        self._left_out += len(lines) - len(reported)

    def finish(self) -> None:
        """The child has ended: says what was left out last."""
        if self._left_out:
            self._report([])

    def _report(self, lines: list[str]) -> None:
        missing, self._left_out = self._left_out, 0
        self._send(Printed(self._key, lines, missing))
