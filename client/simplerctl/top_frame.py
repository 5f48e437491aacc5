"""What `simplerctl top` knows at one moment: the daemon, its devices and its sessions, and how fast those work."""

from __future__ import annotations

import time
from collections import Counter
from typing import Annotated, Any

from msgspec import Meta, Struct

from simplerctl.client import AdminClient

Json = dict[str, Any]
Rate = Annotated[float, Meta(description="tasks that ended, a second, since the frame before; null: not known")] | None


class TopSession(Struct, frozen=True):
    """A session. The counts are null before it is ready; `answered`: whether its runner says what it does."""

    session: str
    state: str
    name: str
    uid: int
    devices: list[int]
    answered: bool
    tasks_per_s: Rate
    tasks: int | None
    failures: int | None
    live: int | None
    queued: int | None
    workers: int | None
    heap_bytes: int | None
    heap_used: int | None


class TopFrame(Struct, frozen=True):
    """The daemon at `time` (Unix time in seconds); its numbers are the sums over `sessions`, the busiest first."""

    time: float
    host: str
    pid: int
    version: str
    state: str
    uptime_s: float
    max_sessions: int
    devices: Annotated[dict[str, int], Meta(description="how many, by state")]
    tasks_per_s: Rate
    workers: int
    heap_bytes: int
    heap_used: int
    sessions: list[TopSession]


class Meter:
    """Takes one frame after the other."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client
        self._tasks: dict[str, int] = {}
        self._at = float("-inf")

    def frame(self) -> TopFrame:
        """What there is now."""
        status = self._client.call("daemon.status")
        activities = {each["session"]: each for each in self._client.call("session.activity")}
        at, now = time.monotonic(), time.time()
        infos = self._client.call("session.list")
        sessions = [self._session(info, activities.get(info["id"]), at - self._at) for info in infos]
        devices = Counter(each["state"] for each in self._client.call("device.list"))
        self._tasks = {each.session: each.tasks for each in sessions if each.tasks is not None}
        self._at = at
        rates = [each.tasks_per_s for each in sessions if each.tasks_per_s is not None]
        return TopFrame(
            time=now,
            host=status["host"],
            pid=status["pid"],
            version=status["version"],
            state=status["state"],
            uptime_s=status["uptime_s"],
            max_sessions=status["max_sessions"],
            devices=dict(sorted(devices.items())),
            tasks_per_s=sum(rates) if rates or not sessions else None,
            workers=sum(each.workers or 0 for each in sessions),
            heap_bytes=sum(each.heap_bytes or 0 for each in sessions),
            heap_used=sum(each.heap_used or 0 for each in sessions),
            sessions=sorted(sessions, key=lambda each: (-(each.tasks_per_s or 0), each.session)),
        )

    def _session(self, info: Json, activity: Json | None, passed_s: float) -> TopSession:
        stats: Json = activity["stats"] if activity else {}
        workers = stats.get("workers")
        return TopSession(
            session=info["id"],
            state=info["state"],
            name=info["name"],
            uid=info["uid"],
            devices=info["devices"],
            answered=activity is not None and activity["answered"],
            tasks_per_s=self._rate(info["id"], activity, passed_s),
            tasks=stats.get("tasks"),
            failures=stats.get("failures"),
            live=stats.get("live"),
            queued=activity["queued"] if activity else None,
            workers=None if workers is None else len(workers),
            heap_bytes=stats.get("heap_bytes"),
            heap_used=stats.get("heap_used"),
        )

    def _rate(self, id: str, activity: Json | None, passed_s: float) -> float | None:
        before = self._tasks.get(id)
        if activity is None or before is None or not activity["answered"]:
            return None
        ended: int = activity["stats"]["tasks"] - before
        return max(0, ended) / passed_s
