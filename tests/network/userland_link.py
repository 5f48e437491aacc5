"""A link between two hosts, as a process: it carries IP packets from one TUN device to the other, and may fail to.

What it does to them is told while it runs: hold them up, drop or send twice a part of them, let through so many bytes a
second, drop those of one TCP connection, or drop all. Chance comes from a seed.

A packet socket is one JSON object: settings, answered with how many packets were carried, dropped and doubled so far.
The process ends when that socket does.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import select
import socket
import sys
import time
from dataclasses import dataclass

PACKET_BYTES = 1 << 16
QUEUED_PACKETS = 4096
"""Behind a slow link more than this is dropped, as routers do."""
COMMAND_BYTES = 1 << 16
TCP = 6


@dataclass(frozen=True)
class Settings:
    """What the link does now. Times are in seconds; ``drop`` and ``duplicate`` are parts of 1."""

    delay_s: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    bytes_per_s: float = 0.0
    """0: as fast as it goes."""
    cut: bool = False
    silent_ports: tuple[int, ...] = ()
    """TCP connections with one of these ports are dropped."""


class UserlandLink:
    """The state of the link between the TUN devices ``ends``."""

    def __init__(self, ends: tuple[int, int], seed: int) -> None:
        self._other = {ends[0]: ends[1], ends[1]: ends[0]}
        self._chance = random.Random(seed)
        self._settings = Settings()
        self._queue: list[tuple[float, int, int, bytes]] = []
        self._free_at = dict.fromkeys(ends, 0.0)
        self._number = 0
        self._counts = {"carried": 0, "dropped": 0, "doubled": 0}

    def run(self, control: socket.socket) -> None:
        """Until the control socket ends."""
        poll = select.poll()
        for fd in (*self._other, control.fileno()):
            poll.register(fd, select.POLLIN)
        while True:
            ready = poll.poll(self._wait_ms())
            for fd, _ in ready:
                if fd == control.fileno():
                    command = control.recv(COMMAND_BYTES)
                    if not command:
                        return
                    self._settings = Settings(**json.loads(command))
                    control.send(json.dumps(self._counts).encode())
                else:
                    self._take(fd, os.read(fd, PACKET_BYTES))
            self._deliver()

    def _wait_ms(self) -> float | None:
        return max(0.0, self._queue[0][0] - time.monotonic()) * 1000 + 1 if self._queue else None

    def _take(self, source: int, packet: bytes) -> None:
        now, settings = time.monotonic(), self._settings
        if settings.cut or self._is_silent(packet) or self._chance.random() < settings.drop:
            self._counts["dropped"] += 1
            return
        copies = 2 if self._chance.random() < settings.duplicate else 1
        self._counts["doubled"] += copies - 1
        for _ in range(copies):
            if len(self._queue) >= QUEUED_PACKETS:
                self._counts["dropped"] += 1
                return
            due = now
            if settings.bytes_per_s:
                due = max(now, self._free_at[source]) + len(packet) / settings.bytes_per_s
                self._free_at[source] = due
            self._number += 1
            heapq.heappush(self._queue, (due + settings.delay_s, self._number, self._other[source], packet))

    def _is_silent(self, packet: bytes) -> bool:
        if packet[0] >> 4 != 4 or packet[9] != TCP:
            return False
        start = (packet[0] & 15) * 4
        ports = {int.from_bytes(packet[start : start + 2]), int.from_bytes(packet[start + 2 : start + 4])}
        return not ports.isdisjoint(self._settings.silent_ports)

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._queue and self._queue[0][0] <= now:
            _, _, target, packet = heapq.heappop(self._queue)
            try:
                os.write(target, packet)
                self._counts["carried"] += 1
            except OSError:  # that end is down
                self._counts["dropped"] += 1


def main(first: str, second: str, control: str, seed: str) -> None:
    """The process; the first three name inherited descriptors."""
    with socket.socket(fileno=int(control)) as told:
        UserlandLink((int(first), int(second)), int(seed)).run(told)


if __name__ == "__main__":
    main(*sys.argv[1:])
