"""What `simplerctl top` knows at one moment: the daemon, its devices and its sessions, and how fast those work."""

from __future__ import annotations

import time
from collections import Counter
from typing import Annotated, Any

from msgspec import Meta, Struct

from simpler import limits
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
        self._seen: dict[str, tuple[int, float]] = {}
        """Of each session how many tasks had ended, and when that was said, by the daemon's clock."""
        self._looked_at = 0.0

    def frame(self) -> TopFrame:
        """What there is now."""
        status = self._client.call("daemon.status")
        activities = {each["session"]: each for each in self._client.call("session.activity")}
        infos = self._client.call("session.list")
        sessions = [self._session(info, activities.get(info["id"])) for info in infos]
        devices = Counter(each["state"] for each in self._client.call("device.list"))
        self._seen = {id: (each["stats"]["tasks"], each["at"]) for id, each in activities.items()}
        self._looked_at = status["started_at"] + status["uptime_s"]
        rates = [each.tasks_per_s for each in sessions if each.tasks_per_s is not None]
        return TopFrame(
            time=time.time(),
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

    def _session(self, info: Json, activity: Json | None) -> TopSession:
        stats: Json = activity["stats"] if activity else {}
        workers = stats.get("workers")
        return TopSession(
            session=info["id"],
            state=info["state"],
            name=info["name"],
            uid=info["uid"],
            devices=info["devices"],
            answered=activity is not None and activity["answered"],
            tasks_per_s=self._rate(activity),
            tasks=stats.get("tasks"),
            failures=stats.get("failures"),
            live=stats.get("live"),
            queued=activity["queued"] if activity else None,
            workers=None if workers is None else len(workers),
            heap_bytes=stats.get("heap_bytes"),
            heap_used=stats.get("heap_used"),
        )

    def _rate(self, activity: Json | None) -> float | None:
        if activity is None or not activity["answered"] or activity["session"] not in self._seen:
            return None
        tasks, at = self._seen[activity["session"]]
        if activity["at"] <= at:  # it was not asked again, since it sleeps
            return 0.0
        # One that slept did nothing between its last answer and the frame before, which knew as much.
        passed_s: float = activity["at"] - max(at, self._looked_at - limits.LOOK_INTERVAL_S)
        ended: int = activity["stats"]["tasks"] - tasks
        return max(0, ended) / passed_s if passed_s > 0 else None
