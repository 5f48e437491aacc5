"""The daemon's metrics in Prometheus' text format: one table with the name, kind, help and source of each.

(https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4; names as in
https://prometheus.io/docs/practices/naming/. docs/metrics.md is the same table for operators; a test compares.)

Rules
  1. Nothing is kept here: a scrape reads the daemon's own tables and counts, and asks the sessions what they do.
     Counters begin at 0 with the daemon.
  2. No label names a session, a client or a path: so how much a scrape is does not depend on how many there are.
  3. prometheus-client is imported with the first scrape: a daemon that nobody scrapes does without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from simplerd.daemon_life import DaemonState
from simplerd.device_life import DeviceState
from simplerd.sessions import FINAL, SessionState
from simplerd.workload import DEATHS, TASK_OUTCOMES, Activity

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from simplerd.daemon import Daemon

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ByLabel = Iterable[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: `read` gives its value, or where it has a `label` that of each of the label's values."""

    kind: Literal["counter", "gauge"]
    name: str
    help: str
    read: Callable[[Daemon], float | ByLabel]
    label: str | None = None


def _state(daemon: Daemon) -> ByLabel:
    return [(state.value, state is daemon.state) for state in DaemonState]


def _settings_waiting(daemon: Daemon) -> float:
    return len(daemon.waiting_settings)


def _adopted(daemon: Daemon) -> float:
    return daemon.events.published["session.adopted"]


def _sessions(daemon: Daemon) -> ByLabel:
    states = Counter(session.state for session in daemon.sessions.live())
    return [(state.value, states[state]) for state in SessionState if state not in FINAL]


def _devices(daemon: Daemon) -> ByLabel:
    states = Counter(device.state for device in daemon.devices.list())
    return [(state.value, states[state.value]) for state in DeviceState]


def _tasks(daemon: Daemon) -> ByLabel:
    return [(outcome, daemon.workload.total[outcome]) for outcome in TASK_OUTCOMES]


def _sum(of: Callable[[Activity], int]) -> Callable[[Daemon], float]:
    return lambda daemon: sum(map(of, daemon.workload.activities()))


def families() -> tuple[Family, ...]:
    """All that the daemon says of itself, beside the times of its loop."""
    return (
        Family("gauge", "simplerd_info", "Always 1; what runs.", lambda _: [(version("simpler"), 1)], "version"),
        Family("gauge", "simplerd_state", "1 for the state that the daemon is in, 0 for the others.", _state, "state"),
        Family(
            "gauge", "simplerd_settings_waiting", "Settings of the file that wait for a restart.", _settings_waiting
        ),
        Family("gauge", "simplerd_sessions", "Sessions that have not ended.", _sessions, "state"),
        Family("gauge", "simplerd_sessions_max", "How many may be open.", lambda daemon: daemon.config.max_sessions),
        Family("counter", "simplerd_sessions_opened", "Sessions opened.", lambda daemon: daemon.sessions.opened_total),
        Family("counter", "simplerd_sessions_adopted", "Sessions taken over from an earlier daemon.", _adopted),
        Family(
            "counter",
            "simplerd_sessions_ended",
            "Sessions that ended: CLOSED as asked, else with the error code that their client was given.",
            lambda daemon: daemon.sessions.ended_total,
            "code",
        ),
        Family(
            "gauge", "simplerd_sessions_silent", "Sessions that do not say what they do.", lambda d: d.workload.silent
        ),
        Family("counter", "simplerd_tasks", "Tasks of sessions that ended.", _tasks, "outcome"),
        Family(
            "gauge", "simplerd_tasks_live", "Tasks of sessions that have not ended.", _sum(lambda each: each.stats.live)
        ),
        Family(
            "gauge", "simplerd_tasks_queued", "Of these, those that wait for a worker.", _sum(lambda each: each.queued)
        ),
        Family("gauge", "simplerd_workers", "Workers of sessions.", _sum(lambda each: len(each.stats.workers))),
        Family(
            "counter", "simplerd_worker_deaths", "Workers of sessions that died.", lambda d: d.workload.total[DEATHS]
        ),
        Family("gauge", "simplerd_heap_bytes", "Heaps of sessions.", _sum(lambda each: each.stats.heap_bytes)),
        Family("gauge", "simplerd_heap_used_bytes", "In use of these.", _sum(lambda each: each.stats.heap_used)),
        Family("gauge", "simplerd_devices", "Devices.", _devices, "state"),
        Family("counter", "simplerd_refusals", "What was refused.", lambda daemon: daemon.refusals.total, "code"),
        Family("counter", "simplerd_admin_calls", "Calls of the admin interface.", lambda d: d.admin_calls, "method"),
        Family("counter", "simplerd_events", "What happened.", lambda daemon: daemon.events.published, "type"),
    )


class Metrics:
    """What a scrape gets. Belongs to the trio thread."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._registry: CollectorRegistry | None = None

    async def text(self) -> str:
        """All metrics as they are now, in the format of CONTENT_TYPE; takes LOOK_TIMEOUT_S at most."""
        from prometheus_client.exposition import generate_latest

        await self._daemon.workload.look()

        if self._registry is None:
            self._registry = _registry(self)
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterator[Metric]:
        """The daemon's own metrics, for prometheus-client (its Collector)."""
        from prometheus_client.metrics_core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for family in families():
            metric = kinds[family.kind](family.name, family.help, labels=[family.label] if family.label else [])
            value = family.read(self._daemon)
            for label, number in [(None, value)] if isinstance(value, int | float) else value:
                metric.add_metric([label] if label else [], number)
            yield metric
        loop_time = self._daemon.loop_time
        yield HistogramMetricFamily(
            "simplerd_loop_pass_seconds",
            "How long the main loop was busy between two waits: everybody else waited for as long.",
            buckets=loop_time.buckets(),
            sum_value=loop_time.total_s,
        )


def _registry(metrics: Metrics) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry, ProcessCollector

    registry = CollectorRegistry()
    registry.register(metrics)
    ProcessCollector(registry=registry)  # what is usual of a process: CPU, memory, descriptors, when it started
    return registry
