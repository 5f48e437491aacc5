"""The life of a worker process, whatever it runs: attach, load what is registered, say READY, then task after task.

Rules
  1. What user code raises, SystemExit and KeyboardInterrupt included, is the task's failure; the process goes on,
     unless its executor says that it is of no use any more. Then it ends, and its spawner replaces it.
  2. The first process of a worker id loads every callable of its kind before READY, so that one that cannot be loaded
     fails the start and is named. A replacement, and all below it, loads what it is asked for: it is to be there within
     milliseconds. But each process of a DIST worker loads everything, because the code that it runs names callables by
     hashid.
  3. Registering and unregistering are tasks, so they happen between tasks, and their errors reach who asked.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from simpler import limits
from simpler.content import Content, validate_content
from simpler.descriptors import format_hashid
from simpler.error_record import encode_error
from simpler.errors import RegistrationError, SimplerError, StaleHandle, StartupError
from simpler.region import Op, Region, RegionClosed, Task
from simpler.region_records import SUCCEEDED, Done
from simpler.spawn_protocol import READY
from simpler.tenancy import as_tenant

_CALL, _UNREGISTER, _CONTROL = int(Op.CALL), int(Op.UNREGISTER), int(Op.CONTROL)


class DistSpec(msgspec.Struct, frozen=True):
    """What a DIST worker is told besides. ``subtree``: where its description lies in the heap, offset and bytes.

    It has until ``deadline`` to be READY, in seconds of CLOCK_MONOTONIC; a replacement has ``startup_timeout_s``.
    ``push_mailbox``: the worker that takes what is pushed for the runs above.
    """

    subtree: tuple[int, int]
    deadline: float
    startup_timeout_s: float
    push_mailbox: int


class WorkerSpec(msgspec.Struct, frozen=True):
    """What a worker process is told: the argument of its entry function, as msgpack."""

    worker: int
    name: str
    spin_us: int
    platform: str = ""
    runtime: str = ""
    device_id: int | None = None
    import_paths: list[str] | None = None
    rings_remote_workers: bool = False
    """Whether the eventfd that announces work for remote workers is among the process's descriptors."""
    workers_above: int = 0
    """How many Workers there are above the process's own; their regions are among its descriptors."""
    dist: DistSpec | None = None
    replaced: bool = False
    """Whether a process above took the place of one that died, and this one is new with it."""

    def encode(self) -> bytes:
        """As the ``argument`` of a PoolWorker."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(argument: bytes) -> WorkerSpec:
        """What ``encode`` gave."""
        return _decode_spec(argument)


_decode_spec = msgspec.msgpack.Decoder(WorkerSpec).decode  # made before the forks, for all processes


class Executor(Protocol):
    """What runs tasks in one worker process."""

    source_file: str
    """Frames of files whose path begins so, at the head of a traceback are not the user's."""

    def load(self, content: Content) -> None:
        """Makes a callable ready, once before the first call."""

    def start(self) -> None:
        """What is there from the start has been loaded; READY is said next."""

    def unload(self, digest: bytes) -> None:
        """Forgets a callable that was loaded."""

    def call(self, task: Task) -> Sequence[bytes | memoryview] | Done | None:
        """Runs a task. Returns its result record in parts, or where it has stored that itself, or None."""

    def control(self, task: Task) -> Sequence[bytes | memoryview] | None:
        """Does what a request to the worker itself asks; ``task.args`` says what. Returns as ``call`` does.

        Raises SimplerError UNSUPPORTED for a request that it does not know.
        """

    def must_leave(self, error: BaseException) -> bool:
        """Whether this process is of no use after a task has failed with ``error``; another then takes its place."""


def run_worker(argument: bytes, fds: list[int], make: Callable[[Sequence[Region], WorkerSpec], Executor]) -> None:
    """A worker process from start to end.

    ``fds``: the region, the eventfd of its watcher, that of its parent where the spec says so, the regions of the
    Workers above from the nearest up, then, for a first process, the report pipe. ``make`` is given the regions by
    place: its own, then those above.
    """
    spec = WorkerSpec.decode(argument)
    left = iter(fds)
    region = _attached(next(left), tenant=None if spec.dist is None else spec.worker)
    alarm_fd = next(left)
    region.set_alarm_fd(alarm_fd)
    os.close(alarm_fd)
    if spec.rings_remote_workers:
        notify_fd = next(left)
        region.set_notify_fd(notify_fd)
        os.close(notify_fd)
    heaps = [region, *(_attached(next(left)) for _ in range(spec.workers_above))]
    region.attach_worker(spec.worker)
    report = next(left, None)
    try:
        executor = make(heaps, spec)
        tasks = _TaskLoop(region, spec, executor)
        if report is not None and not spec.replaced:
            tasks.load_all()
        elif spec.dist is not None:
            tasks.load_again()
        executor.start()
    except Exception as error:
        if report is None:
            raise
        _write_all(report, encode_error(error, worker=spec.name, host=socket.gethostname()))
        return
    region.ready(spec.worker)
    if report is not None:
        _write_all(report, READY)
    tasks.run()


def _attached(fd: int, tenant: int | None = None) -> Region:
    try:
        if tenant is not None:
            shared, fd = fd, as_tenant(fd, tenant)
            os.close(shared)
        region = Region.attach(fd)
    except OSError as error:
        print(StartupError.of_system("this worker cannot map the shared memory", error), file=sys.stderr)
        raise SystemExit(1) from None
    os.close(fd)
    return region


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
    os.close(fd)


class _TaskLoop:
    def __init__(self, region: Region, spec: WorkerSpec, executor: Executor) -> None:
        self._region, self._spec, self._executor = region, spec, executor
        self._loaded: set[bytes] = set()

    def load_all(self) -> None:
        for digest, workers in self._region.callables:
            if self._spec.worker in workers:
                self._load(digest)

    def load_again(self) -> None:
        """In a replacement: what cannot be loaded now is tried again by the task that names it, which is then told."""
        for digest, workers in self._region.callables:
            if self._spec.worker in workers:
                with contextlib.suppress(SimplerError):
                    self._load(digest)

    def run(self) -> None:
        """Task after task until the region is shut down. No result is held while the next task is waited for."""
        region, worker, spin_us = self._region, self._spec.worker, self._spec.spin_us
        look_s = None if self._spec.dist is None else limits.SIGNAL_INTERVAL_S
        look_ns = -1 if look_s is None else int(look_s * 1e9)
        task = None
        try:
            while True:
                while task is None:
                    task = region.take(worker, spin_us=spin_us, timeout_s=look_s)
                task = region.next(worker, self._done(task), spin_us, look_ns)
        except (RegionClosed, StaleHandle):  # closed; or condemned, and about to be killed
            return

    def _done(self, task: Task) -> Done:
        try:
            result = self._perform(task)
            if isinstance(result, Done):
                return result
            return SUCCEEDED if result is None else self._region.succeeded(result)
        except BaseException as error:
            record = self._record(task, error)
            if self._executor.must_leave(error):
                self._region.complete(self._spec.worker, task.id, error=record)
                print(f"{self._spec.name} leaves, to be replaced: {error}", file=sys.stderr)
                raise SystemExit(1) from error
            return self._region.failed(record)

    def _perform(self, task: Task) -> Sequence[bytes | memoryview] | Done | None:
        if task.op == _CALL and task.digest in self._loaded:
            return self._executor.call(task)
        if task.op == _CONTROL:
            return self._executor.control(task)
        if task.op == _UNREGISTER:
            if task.digest in self._loaded:
                self._loaded.remove(task.digest)
                self._executor.unload(task.digest)
            return None
        if task.digest not in self._loaded:
            self._load(task.digest)
        return self._executor.call(task) if task.op == _CALL else None

    def _load(self, digest: bytes) -> None:
        try:
            encoded = self._region.callables.content(digest)
        except KeyError:
            raise RegistrationError(
                f"callable {format_hashid(digest)} is not registered any more; unregister after the runs that use it",
                code="CALLABLE_NOT_REGISTERED",
            ) from None
        self._executor.load(validate_content(digest, encoded))
        self._loaded.add(digest)

    def _record(self, task: Task, error: BaseException) -> bytes:
        """The task's failure, as the program that submitted it will see it."""
        while error.__traceback__ is not None and error.__traceback__.tb_frame.f_code.co_filename == __file__:
            error.__traceback__ = error.__traceback__.tb_next
        where: dict[str, str | int] = {"worker": self._spec.name, "pid": os.getpid(), "host": socket.gethostname()}
        if task.op != _CONTROL:
            where["hashid"] = format_hashid(task.digest)
        return encode_error(error, skip_frames_of=self._executor.source_file, may_pickle=True, **where)
