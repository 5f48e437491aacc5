"""What one session may use: the host's configuration, and what its client asked to be less. The lower one holds."""

from __future__ import annotations

from dataclasses import dataclass

from simpler.wire.control_messages import Manifest
from simplerd.config import Config

USUAL_CPU_WEIGHT = 100
"""What a control group has that nobody gave another weight; no client gets more unless the host says so."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How much, and who said so."""

    value: float
    setting: str


@dataclass(frozen=True, slots=True)
class LimitsInForce:
    """None: no limit. Processes are counted with their threads; `time_s` counts from when the session was opened."""

    memory_bytes: Limit | None = None
    processes: Limit | None = None
    cpu_weight: Limit | None = None
    time_s: Limit | None = None

    @classmethod
    def of(cls, config: Config, manifest: Manifest) -> LimitsInForce:
        """The limits of a session with this manifest."""
        asked = manifest.limits
        weight = _lower("cpu_weight", config.session_cpu_weight or USUAL_CPU_WEIGHT, asked.cpu_weight)
        return cls(
            _lower("memory_bytes", config.session_memory_bytes, asked.memory_bytes),
            _lower("processes", config.session_processes, asked.processes),
            weight if weight is not None and weight.value != USUAL_CPU_WEIGHT else None,
            _lower("time_s", config.session_time_s, asked.time_s),
        )


def _lower(name: str, of_host: float, asked: float) -> Limit | None:
    """0 is none."""
    limits = [Limit(of_host, f"limits.session_{name} of this host"), Limit(asked, f"limits.{name} of its client")]
    return min((limit for limit in limits if limit.value), key=lambda limit: limit.value, default=None)
