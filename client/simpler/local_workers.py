"""The worker processes of one Worker, as the program that has it sees them: started together, watched, seen off.

The program runs no thread for this. Its spawner replaces workers that die; what is left to the program is to notice the
end of the spawner itself, with which all workers end, whenever it waits for something.
"""

from __future__ import annotations

import threading
import time

from simpler.error_record import decode_error, encode_error
from simpler.errors import StartupError, WorkerDied
from simpler.region import Region, WorkerKind
from simpler.spawn import Spawner
from simpler.spawn_protocol import PoolEnded, PoolFailed, PoolReady, PoolRequest, PoolStop, PoolWorker, PreloadFailed
from simpler.worker_options import WorkerOptions
from simpler.worker_process import WorkerSpec

SUB_ENTRY, CHIP_ENTRY = "simpler.sub_worker:main", "simpler.chip_worker:main"
_REPORT_S = 2.0
"""How much longer than the workers' deadline the spawner may take to say what went wrong."""


def worker_names(options: WorkerOptions) -> list[str]:
    """Names of the local workers by id: CHIP workers first, then SUB workers."""
    chips = [f"chip{index}" for index in range(len(options.device_ids))]
    subs = [f"sub{index}" for index in range(options.num_sub_workers)]
    return [f"{options.name}.{name}" if options.name else name for name in (*chips, *subs)]


def preload(options: WorkerOptions) -> list[str]:
    """What the spawner imports before its first fork."""
    entries = [SUB_ENTRY] if options.num_sub_workers else []
    entries += [CHIP_ENTRY] if options.device_ids else []
    return [*(entry.partition(":")[0] for entry in entries), "cloudpickle", "numpy", *options.preload]


class LocalWorkers:
    """The CHIP and SUB workers of a region. ``notify_fd`` rings when there is work for remote ones, if any."""

    def __init__(self, options: WorkerOptions, region: Region, spawner: Spawner, notify_fd: int | None) -> None:
        self._options, self._region, self._spawner = options, region, spawner
        self._notify_fd = notify_fd
        self._names = worker_names(options)
        self._lock = threading.RLock()  # a signal handler may close the Worker while its thread looks
        self._over = False  # under the lock: nobody may look at the spawner any more
        for worker in range(len(self._names)):
            kind = WorkerKind.CHIP if worker < len(options.device_ids) else WorkerKind.SUB
            region.define(worker, kind)

    def start(self, deadline: float) -> None:
        """Forks all of them and returns once each is READY. ``deadline``: in seconds of CLOCK_MONOTONIC.

        Raises the error of the first that could not start; the spawner has killed the others by then.
        """
        workers = [self._pool_worker(worker, name) for worker, name in enumerate(self._names)]
        options = self._options
        request = PoolRequest(workers, deadline, options.startup_timeout_s, dict(options.env))
        self._spawner.send(request, self._fds())
        try:
            report, fds = self._spawner.receive(max(0.0, deadline - time.monotonic()) + _REPORT_S)
        except TimeoutError:
            raise StartupError(
                f"the spawner (pid {self._spawner.pid}) was not ready within {self._options.startup_timeout_s} s "
                f"(startup_timeout_s); it imports {', '.join(preload(self._options))}"
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
            for worker, name in enumerate(self._names):
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
        return [self._region.fd] if self._notify_fd is None else [self._region.fd, self._notify_fd]

    def _pool_worker(self, worker: int, name: str) -> PoolWorker:
        options = self._options
        is_chip = worker < len(options.device_ids)
        spec = WorkerSpec(
            worker=worker,
            name=name,
            spin_us=options.spin_us,
            platform=options.platform,
            runtime=options.runtime,
            device_id=options.device_ids[worker] if is_chip else None,
            import_paths=None if options.import_paths is None else list(options.import_paths),
            rings_remote_workers=self._notify_fd is not None,
        )
        return PoolWorker(worker, CHIP_ENTRY if is_chip else SUB_ENTRY, spec.encode(), name)
