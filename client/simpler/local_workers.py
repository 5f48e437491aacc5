"""The worker processes of one Worker, as the program that has it sees them: started together, watched, seen off.

The program runs no thread for this. Its spawner replaces workers that die; what is left to the program is to notice the
end of the spawner itself, with which all workers end, whenever it waits for something.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from simpler.error_record import decode_error, encode_error
from simpler.errors import StartupError, WorkerDied
from simpler.region import Region, WorkerKind
from simpler.spawn import Spawner
from simpler.spawn_protocol import PoolEnded, PoolFailed, PoolReady, PoolRequest, PoolStop, PoolWorker, PreloadFailed
from simpler.subtree import Subtree
from simpler.targets import Targets
from simpler.worker_options import WorkerOptions
from simpler.worker_process import DistSpec, WorkerSpec

ENTRIES = {
    WorkerKind.SUB: "simpler.sub_worker:main",
    WorkerKind.CHIP: "simpler.chip_worker:main",
    WorkerKind.DIST: "simpler.dist_worker:main",
}
_REPORT_S = 2.0
"""How much longer than the workers' deadline the spawner may take to say what went wrong."""


def worker_names(options: WorkerOptions, targets: Targets) -> dict[int, str]:
    """Names of the local workers by id."""
    prefix = f"{options.name}." if options.name else ""
    return {worker: f"{prefix}{targets.label(worker)}" for worker in targets.local}


def preload(options: WorkerOptions, children: Mapping[int, Subtree]) -> list[str]:
    """What the spawner imports before its first fork, for its children and for those that they fork."""
    kinds = [WorkerKind.SUB] * bool(options.num_sub_workers) + [WorkerKind.CHIP] * bool(options.device_ids)
    kinds += [WorkerKind.DIST] * bool(children)
    modules = [ENTRIES[kind].partition(":")[0] for kind in kinds]
    for child in children.values():
        modules += [*preload(child.options, child.children), *["simpler.remote.hub"] * bool(child.remote)]
    return list(dict.fromkeys([*modules, "cloudpickle", "numpy", *options.preload]))


class LocalWorkers:
    """The local workers of a region: CHIP, SUB and DIST.

    ``heaps``: the region and those of the Workers above. ``children``: by worker id, what the DIST workers hold.
    ``notify_fd`` rings when there is work for remote workers, if any. ``replaced``: as in WorkerSpec.
    """

    def __init__(
        self,
        options: WorkerOptions,
        targets: Targets,
        *,
        heaps: Sequence[Region],
        children: Mapping[int, Subtree],
        spawner: Spawner,
        notify_fd: int | None,
        replaced: bool,
    ) -> None:
        self._options, self._targets, self._heaps, self._children = options, targets, heaps, children
        self._region, self._spawner, self._notify_fd, self._replaced = heaps[0], spawner, notify_fd, replaced
        self._names = worker_names(options, targets)
        self._lock = threading.RLock()  # a signal handler may close the Worker while its thread looks
        self._over = False  # under the lock: nobody may look at the spawner any more
        for worker in self._names:
            self._region.define(worker, targets.kind_of_worker(worker))

    def start(self, deadline: float) -> None:
        """Forks all of them and returns once each is READY. ``deadline``: in seconds of CLOCK_MONOTONIC.

        Raises the error of the first that could not start; the spawner has killed the others by then.
        """
        workers = [self._pool_worker(worker, name, deadline) for worker, name in self._names.items()]
        options, rings = self._options, self._notify_fd is not None
        request = PoolRequest(
            workers, deadline, options.startup_timeout_s, dict(options.env), rings, options.tasks_may_kill
        )
        self._spawner.send(request, self._fds())
        try:
            report, fds = self._spawner.receive(max(0.0, deadline - time.monotonic()) + _REPORT_S)
        except TimeoutError:
            raise StartupError(
                f"the spawner (pid {self._spawner.pid}) was not ready within {self._options.startup_timeout_s} s "
                f"(startup_timeout_s); it imports {', '.join(preload(self._options, self._children))}"
            ) from None
        assert not fds
        match report:
            case PoolReady():
                return
            case PoolFailed():
                raise decode_error(report.error)
            case PreloadFailed():
                raise StartupError(f"{report.module} could not be imported for the workers:\n{report.why.rstrip()}")
            case _:
                raise StartupError(f"the spawner said {report!r} instead of PoolReady")

    def look(self) -> None:
        """Fails everything that the workers hold or would get, once their spawner has ended."""
        with self._lock:
            if self._over or self._spawner.is_alive():
                return
            self._over = True
            for worker, name in self._names.items():
                died = WorkerDied(
                    f"worker {name} died with its spawner (pid {self._spawner.pid}), which was killed or crashed. "
                    "Close this Worker and make another",
                    worker=worker,
                    worker_name=name,
                )
                self._region.worker_abandon(worker, encode_error(died))

    def stop(self, grace_s: float) -> None:
        """Shuts the region down and lets the workers leave; kills those that have not left after ``grace_s``."""
        deadline = time.monotonic() + grace_s
        try:
            self._spawner.send(PoolStop())
            self._region.shutdown()
            while not isinstance(self._spawner.receive(max(0.0, deadline - time.monotonic()))[0], PoolEnded):
                continue
        except (TimeoutError, StartupError):  # stuck in user code, or the spawner is gone; the socket's end kills them
            self._region.shutdown()
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends the spawner, and the workers with it."""
        with self._lock:
            self._over = True
            self._spawner.close()

    def _fds(self) -> list[int]:
        notify = [] if self._notify_fd is None else [self._notify_fd]
        return [self._region.fd, *notify, *(heap.fd for heap in self._heaps[1:])]

    def _pool_worker(self, worker: int, name: str, deadline: float) -> PoolWorker:
        options, kind = self._options, self._targets.kind_of_worker(worker)
        spec = WorkerSpec(
            worker=worker,
            name=name,
            spin_us=options.spin_us,
            platform=options.platform,
            runtime=options.runtime,
            device_id=options.device_ids[worker] if kind is WorkerKind.CHIP else None,
            import_paths=None if options.import_paths is None else list(options.import_paths),
            rings_remote_workers=self._notify_fd is not None,
            workers_above=len(self._heaps) - 1,
            dist=self._dist_spec(self._children[worker], deadline) if kind is WorkerKind.DIST else None,
            replaced=self._replaced,
        )
        return PoolWorker(worker, ENTRIES[kind], spec.encode(), name)

    def _dist_spec(self, child: Subtree, deadline: float) -> DistSpec:
        """Its description stays in the heap for as long as the region: a replacement reads it again."""
        described = child.encode()
        subtree = (self._region.store(described), len(described))
        return DistSpec(subtree, deadline, self._options.startup_timeout_s, self._targets.push_mailbox)
