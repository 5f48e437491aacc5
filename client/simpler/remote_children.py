"""A Worker's remote children: their ids and specs before ``init``, the hub that carries them afterwards.

What speaks to other hosts is loaded only when there is a remote child.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from simpler.args import TaskArgs
from simpler.callables import Content
from simpler.errors import StateError
from simpler.graph_run import GraphRun
from simpler.pushes import Take
from simpler.region import Region, WorkerKind
from simpler.region_records import Member
from simpler.run_tensors import Outputs
from simpler.worker_options import WorkerOptions

if TYPE_CHECKING:
    from simpler.remote.hub import RemoteHub
    from simpler.remote.spec import RemoteWorkerSpec
    from simpler.remote.tls_config import TlsConfig


class RemoteChildren:
    """The remote children of one Worker, which opens and closes them."""

    def __init__(self) -> None:
        self.specs: dict[int, RemoteWorkerSpec] = {}
        self._hub: RemoteHub | None = None
        self.notify_fd: int | None = None
        """The eventfd that every process of the Worker signals when a remote child gets work, or a run that notifies
        ends; None until ``prepare``."""

    def __bool__(self) -> bool:
        return bool(self.specs)

    def described(self) -> dict[int, dict[str, Any]]:
        """The specs as plain fields, for ``add`` in another process."""
        return {
            worker: {field.name: getattr(spec, field.name) for field in fields(spec)} | {"tls": _plain(spec.tls)}
            for worker, spec in self.specs.items()
        }

    def add(self, worker: int, spec: RemoteWorkerSpec) -> None:
        """The child ``worker``. What its session needs is loaded here, not while it opens under a deadline."""
        import_module("simpler.remote.hub")
        if spec.tls_config is not None:
            import_module("simpler.wire.lane_identity")
        self.specs[worker] = spec

    def add_described(self, worker: int, described: dict[str, Any]) -> None:
        """The child ``worker``, as another process described it."""
        from simpler.remote.spec import RemoteWorkerSpec
        from simpler.remote.tls_config import TlsConfig
        from simpler.wire.control_messages import SessionLimits

        records: dict[str, Any] = {"limits": SessionLimits(**described["limits"])}
        if isinstance(described["tls"], dict):
            records["tls"] = TlsConfig(**described["tls"])
        self.add(worker, RemoteWorkerSpec(**(described | records)))

    @property
    def hub(self) -> RemoteHub:
        """The running hub. Raises StateError when no remote child is open."""
        if self._hub is None:
            raise StateError("no remote worker is open; call add_remote_worker, then init, before using one")
        return self._hub

    @property
    def is_open(self) -> bool:
        """Whether sessions are open."""
        return self._hub is not None

    def prepare(self, region: Region) -> None:
        """Makes what must be there before the local workers are: they give work to the remote ones, too."""
        self.notify_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for worker in self.specs:
            region.define(worker, WorkerKind.REMOTE)
        region.set_notify_fd(self.notify_fd)

    def open(
        self,
        options: WorkerOptions,
        heaps: Sequence[Region],
        contents: Callable[[int], list[Content]],
        take_push: Take,
        startup_timeout_s: float,
    ) -> None:
        """Opens every session; when one of them is refused, none stays open."""
        from simpler.remote.hub import RemoteHub

        assert self.notify_fd is not None
        hub = RemoteHub(
            heaps,
            self.specs,
            contents=contents,
            take_push=take_push,
            startup_timeout_s=startup_timeout_s,
            name=options.name or f"L{options.level}-{os.getpid()}",
            notify_fd=self.notify_fd,
        )
        hub.start()
        self._hub = hub

    @contextlib.contextmanager
    def packed(self, graph: GraphRun, worker: int, args: TaskArgs | None, outputs: Outputs) -> Iterator[Member]:
        """Arguments to submit a task of the run with inside; their buffers stay held to the end of the run, unless the
        submission raises."""
        hub = self.hub
        packed = hub.pack(args, worker, outputs)
        try:
            yield Member(worker, packed.payload, packed.ranges)
        except BaseException:
            hub.release(packed)
            raise
        hub.submitted(graph.id, worker, packed)

    def run_ended(self, run: int) -> None:
        """Gives back what the run's tasks held."""
        if self._hub is not None:
            self._hub.run_ended(run)

    def close(self, grace_s: float) -> None:
        """Closes every session, and what ``prepare`` made. A session has ``grace_s`` to end before it is killed."""
        hub, self._hub = self._hub, None
        notify_fd, self.notify_fd = self.notify_fd, None
        try:
            if hub is not None:
                hub.close(grace_s)
        finally:
            if notify_fd is not None:
                os.close(notify_fd)


def _plain(tls: TlsConfig | Literal["insecure"] | None) -> dict[str, str | None] | str | None:
    if tls is None or tls == "insecure":
        return tls
    return {
        "ca": os.fspath(tls.ca),
        "certificate": os.fspath(tls.certificate),
        "key": os.fspath(tls.key),
        "pin": tls.pin,
    }
