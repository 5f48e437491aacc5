"""A Worker that serves a level above: in the process of a DIST worker, or in a session's runner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Self

from simpler.args import encode
from simpler.callables import CallableHandle, Content
from simpler.chrome_trace import ProcessTrace
from simpler.imported_memory import FORGET, ImportedMemory
from simpler.lanes import lanes_below, own_lanes
from simpler.pushes import Put
from simpler.region import Op, Region
from simpler.region_records import NO_CALLABLE
from simpler.registry import Registry
from simpler.run import RunHandle
from simpler.spawn import Spawner
from simpler.subtree import Subtree
from simpler.worker import Worker

_LEAST_START_S = 1e-3
"""A timeout is above 0, also that of a start which is late already."""


class InnerWorker(Worker):
    """What the level above needs of a Worker besides."""

    @classmethod
    def rebuilt(
        cls, subtree: Subtree, *, name: str, spawner: Spawner | None, above: Sequence[Region], replaced: bool
    ) -> Self:
        """The Worker that ``subtree`` describes, in the process that it is to live in; not started.

        ``name``: where it has none of its own. ``above``: the regions of the Workers above, from the nearest up.
        ``replaced``: whether its process, or one above, took the place of one that died. ``spawner``: as the
        constructor takes it.
        """
        options = subtree.options
        settings = {field.name: getattr(options, field.name) for field in fields(options)}
        settings["name"] = options.name or name
        worker = cls(**settings, spawner=spawner)
        worker._registry, worker._above = Registry.restored(subtree.registry), above
        worker._replaced = replaced
        for child in sorted([*subtree.children, *subtree.remote]):
            if child in subtree.remote:
                worker._remote.add_described(child, subtree.remote[child])
            else:
                below = subtree.children[child]
                worker.add_worker(cls.rebuilt(below, name="", spawner=None, above=(), replaced=False))
        return worker

    def init_within(self, seconds: float) -> None:
        """``init``, with no more time than that."""
        self._options = replace(
            self._options, startup_timeout_s=min(self._options.startup_timeout_s, max(seconds, _LEAST_START_S))
        )
        self.init()

    def init_notifying(self) -> None:
        """``init``, with an ``ends_fd``."""
        self._notifies = True
        self.init()

    @property
    def ends_fd(self) -> int:
        """The eventfd that is signalled when a run which notifies has ended, in whatever process."""
        return self._ready().ends_fd

    def look_after_workers(self) -> None:
        """Fails what is waited for when nobody watches the workers any more."""
        self._ready().look_after_workers()

    def require_protocol(self, version: int, what: str) -> None:
        """Raises SimplerError UNSUPPORTED when the daemon of a remote child speaks an older one than ``what`` needs."""
        self._ready().hub.require_protocol(version, what)

    def register_content(self, content: Content, name: str) -> CallableHandle:
        """``register`` for what another process has named, serialized and checked."""
        return self._register(content, name, None)

    def conceal(self, digest: bytes) -> None:
        """No orchestration function can name that callable by its hashid until ``reveal``."""
        self._registry.conceal(digest)

    def reveal(self, digest: bytes) -> None:
        """Orchestration functions can name it, where it is registered."""
        self._registry.reveal(digest)

    def pass_pushes(self, put: Put) -> None:
        """Has what is pushed in the runs of this Worker given to ``put``, for the level above; once it has started."""
        self._ready().pass_up = put

    def pass_all_pushes(self) -> None:
        """Returns once all that was pushed below has been passed on."""
        if self._tree is not None:
            self._tree.pass_all_pushes()

    @contextmanager
    def given(self, imports: Sequence[ImportedMemory]) -> Iterator[None]:
        """Inside, orchestration functions may pass on arrays that lie in ``imports``."""
        tree = self._ready()
        tree.imports = imports
        try:
            yield
        finally:
            tree.imports = ()

    def forget(self, place: int) -> None:
        """Has every worker of this host unmap an import, in its turn; nobody waits for that."""
        tree = self._ready()
        run, request = RunHandle(tree.begin_run(names_callables=False)), encode([], [FORGET, place])
        submit = run.state.graph.submit_with
        try:
            for worker in tree.targets.local:
                tree.with_room(partial(submit, worker, NO_CALLABLE, Op.CONTROL, payload=request))
        except BaseException as error:
            run.orchestration_failed(error)
            raise
        run.orchestrated(None)

    def lanes_since(self, since_ns: int) -> list[ProcessTrace]:
        """What the workers of this Worker and of those below did since then, for the trace of the Worker above."""
        tree = self._ready()
        return [*own_lanes(tree, lambda event: event.ended_ns > since_ns), *lanes_below(tree, since_ns)]
