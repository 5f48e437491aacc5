"""Calls in sessions: on the SUB workers of other hosts, or of a daemon on this one, behind one Worker of level 4.

Rules
  1. All sessions are opened at once; when one cannot be, or its daemon is too old for calls, none is, and the executor
     is broken by that error.
  2. A session that is lost later costs the calls that it had. The others go on with the rest.
  3. Files would not reach other hosts, so what is large lies in the heaps, here and there. They are as large as can be,
     which takes no memory before it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from simpler import limits
from simpler.errors import ArgumentError, SimplerError
from simpler.executor.calls.placement import Places
from simpler.executor.engine.dispatcher import Target
from simpler.executor.engine.worker_pool import end_worker
from simpler.executor.in_worker.call_runner import CallRunner, RunnerConfig
from simpler.region import Op, Region

if TYPE_CHECKING:
    from simpler.inner_worker import InnerWorker
    from simpler.remote.spec import RemoteWorkerSpec


class SessionPool:
    """A session at each of ``endpoints``: its address, or a RemoteWorkerSpec that says more.

    ``n_workers``: of all those together that do not say how many they have (num_sub_workers). Raises ArgumentError for
    what cannot be an endpoint.
    """

    digest: bytes

    def __init__(self, endpoints: Sequence[object], n_workers: int, config: RunnerConfig) -> None:
        self._specs = _specs(endpoints, n_workers)
        self._config = config
        self.places = Places(spills=False)
        self.n_workers = sum(spec.num_sub_workers for spec in self._specs)
        self._worker: InnerWorker | None = None

    def start(self) -> tuple[Region, Sequence[Target]]:
        """Opens the sessions."""
        from simpler.inner_worker import InnerWorker
        from simpler.wire.control_messages import PROTOCOL_2

        self._worker = InnerWorker(4, name=self._config.name, heap_bytes=limits.SESSION_HEAP_BYTES)
        sessions = [self._worker.add_remote_worker(spec) for spec in self._specs]
        self.digest = self._worker.register(CallRunner(self._config)).digest
        self._worker.init()
        try:
            self._worker.require_protocol(PROTOCOL_2, "an executor")
        except SimplerError:
            self._worker.close()
            raise
        region = self._worker.region
        assert region is not None
        counts = [spec.num_sub_workers for spec in self._specs]
        return region, [Target(session, count, op=Op.SUB_CALL) for session, count in zip(sessions, counts, strict=True)]

    def look_after(self) -> None:
        """The thread that carries the sessions sees for itself that they live."""

    def is_gone(self, target: Target) -> bool:
        """Whether its session is lost."""
        region = None if self._worker is None else self._worker.region
        return region is None or region.worker_info(target.worker).abandoned

    def close(self, *, interrupted: bool) -> None:
        """Closes the sessions."""
        if self._worker is not None:
            end_worker(self._worker, interrupted=interrupted)


def _specs(endpoints: Sequence[object], n_workers: int) -> list[RemoteWorkerSpec]:
    from simpler.remote.spec import RemoteWorkerSpec

    specs = []
    for endpoint in endpoints:
        if isinstance(endpoint, str):
            specs.append(RemoteWorkerSpec(endpoint, heap_bytes=limits.SESSION_HEAP_BYTES))
        elif isinstance(endpoint, RemoteWorkerSpec):
            specs.append(endpoint)
        else:
            raise ArgumentError(
                f"endpoint {endpoint!r} is not possible; expected 'unix:/path', 'host:port' or a RemoteWorkerSpec"
            )
    silent = [spec for spec in specs if not spec.num_sub_workers]
    share = min(-(-n_workers // max(len(silent), 1)), limits.SUB_WORKERS_PER_SESSION)
    return [spec if spec.num_sub_workers else replace(spec, num_sub_workers=share) for spec in specs]
