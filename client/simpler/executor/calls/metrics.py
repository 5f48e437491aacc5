"""What a call took."""

from __future__ import annotations

from typing import NamedTuple


class CallMetrics(NamedTuple):
    """What one call took in its worker process, unpickling its arguments included; for a call that raised, too.

    ``started``, ``ended``: seconds since the epoch. ``wall_s``: by a clock that nobody sets. ``user_s``, ``system_s``:
    processor time of all threads of the process. ``peak_rss_bytes``: the most memory that the process had in use
    during this call (where /proc/self/clear_refs cannot be written, proc(5): since the process began; on loky no less
    than the program had when it started the process). ``worker_id``, ``node_id``: which process on which host, as in
    its environment (SIMPLER_WORKER_ID, SIMPLER_NODE_ID).
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
