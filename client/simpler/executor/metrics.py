"""What a call took."""

from __future__ import annotations

from typing import NamedTuple


class CallMetrics(NamedTuple):
    """What one call took, in its worker process; for a call that raised, too.

    ``started``, ``ended``: seconds since the epoch. ``wall_s``, ``user_s``, ``system_s``: seconds. ``peak_rss_bytes``:
    the most memory that the process had in use. ``worker_id``, ``node_id``: which process on which host ran it.
    """

    started: float
    ended: float
    wall_s: float
    user_s: float
    system_s: float
    peak_rss_bytes: int
    pid: int
    worker_id: str
    node_id: str
