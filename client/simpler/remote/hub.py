"""The remote children of a Worker: all its sessions, and the thread that carries them.

Rules
  1. Sessions open at once, under one deadline. When one cannot be opened, the others are closed again; those that
     are about to be READY get OPENING_GRACE_S to become so, because a session that is READY can be closed in order.
  2. The C library signals one eventfd for all remote mailboxes; every session then looks into its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

import trio

from simpler import limits
from simpler.args import TaskArgs
from simpler.chrome_trace import ProcessTrace
from simpler.content import Content
from simpler.descriptors import ImportDescriptor
from simpler.errors import SimplerError, StateError
from simpler.pushes import Take
from simpler.region import Region
from simpler.registration import Answered
from simpler.remote.buffers import BufferBook, RemoteBuffer
from simpler.remote.imports import RemoteImports
from simpler.remote.io_thread import IoThread
from simpler.remote.memory import RemoteBuffers
from simpler.remote.outputs import OutputBook
from simpler.remote.packing import RemotePacked, pack
from simpler.remote.printer import Printer
from simpler.remote.registration import SessionCallables, ask
from simpler.remote.session import RemoteSession
from simpler.remote.spec import RemoteWorkerSpec
from simpler.run_tensors import Outputs
from simpler.wire.control_messages import PROTOCOL_2
from simpler.wire.links import Links

_log = logging.getLogger("simpler.remote")


class RemoteHub:
    """The remote children of one Worker. Every method may be called from any thread, blocks, and raises errors.*.

    ``heaps``: that of the Worker, then those of the Workers above it. ``contents`` gives the callables that a worker's
    session is to have from the start. ``notify_fd``: the eventfd that the C library signals, owned by the caller, who
    keeps it until ``close`` has returned.
    """

    def __init__(
        self,
        heaps: Sequence[Region],
        specs: Mapping[int, RemoteWorkerSpec],
        *,
        contents: Callable[[int], list[Content]],
        take_push: Take,
        startup_timeout_s: float,
        name: str,
        notify_fd: int,
    ) -> None:
        self._heaps = heaps
        self._contents = contents
        self._startup_timeout_s = startup_timeout_s
        self._name = name
        self._notify_fd = notify_fd
        book = BufferBook()
        self._specs = dict(specs)
        self._printer = Printer()
        self._io = IoThread("simpler-io")
        links = Links()
        self._sessions: dict[int, RemoteSession] = {}
        self._outputs = OutputBook(partial(_drop_outputs, self._io, self._sessions))
        for worker, spec in specs.items():
            self._sessions[worker] = RemoteSession(
                worker,
                spec,
                heaps[0],
                program=name,
                links=links,
                on_lost=self._session_lost,
                on_dropped=self._outputs.dropped,
                printer=self._printer,
                take_push=take_push,
            )
        self.buffers = RemoteBuffers(self._io, self._sessions, book)
        self.imports = RemoteImports(self._io, self._sessions, book, self.buffers)
        self._asked: dict[bytes, trio.Event] = {}
        """The last question about each callable; its next one waits for that. Asked under the callable's lock."""
        self._lock = threading.Lock()
        self._captured: dict[int, list[RemoteBuffer]] = {}
        """Per run, what its tasks hold; guarded by the lock."""

    def start(self) -> None:
        """Opens all sessions; returns when all are READY. After an error nothing is left open.

        Raises the first refusal: ConnectError, StartupError, DeviceBusy, ArgumentError for a manifest, and so on.
        """
        try:
            self._io.start()
            self._io.call(self._open_all)
        except BaseException:
            self.close()
            raise

    def close(self, grace_s: float = limits.CLOSE_TIMEOUT_S) -> None:
        """Closes all sessions, and ends the thread. May be called again, or without a start.

        ``grace_s``: see `RemoteSession.close`.
        """
        if self._io.running:
            try:
                self._io.call(self._close_all, grace_s)
            finally:
                self._io.stop()
                for session in self._sessions.values():
                    session.let_go()
                self.buffers.report_unconfirmed()

    def require_protocol(self, version: int, what: str) -> None:
        """Raises SimplerError UNSUPPORTED when one of the daemons speaks an older one than ``what`` needs."""
        for session in self._sessions.values():
            session.require_protocol(version, what)

    def prepare(self, content: Content, workers: Sequence[int], answers: Answered) -> Future[None]:
        """Asks sessions to have a callable ready. Their ``answers`` come one by one; the future is for all of them.

        Takes its turn in each session behind the tasks that it was given before, without a deadline.
        """
        return self._ask(content.digest, workers, lambda callables: callables.prepare(content), answers)

    def commit(self, content: Content, workers: Sequence[int], answers: Answered) -> Future[None]:
        """Asks sessions to make visible what they have prepared; in turn, like ``prepare``, and behind it."""
        return self._ask(content.digest, workers, lambda callables: callables.commit(content.digest), answers)

    def take_back(self, content: Content, workers: Sequence[int], answers: Answered) -> Future[None]:
        """Asks sessions to give a callable back, however far they got with it; in turn, and behind the others."""
        return self._ask(content.digest, workers, lambda callables: callables.take_back(content.digest), answers)

    def _ask(
        self,
        digest: bytes,
        workers: Sequence[int],
        question: Callable[[SessionCallables], Awaitable[None]],
        answers: Answered,
    ) -> Future[None]:
        before, answered = self._asked.get(digest), trio.Event()

        async def ask_in_turn() -> None:
            if before is not None:
                await before.wait()
            try:
                await ask([self._sessions[worker] for worker in workers], question, answers)
            finally:
                answered.set()
                if self._asked.get(digest) is answered:
                    del self._asked[digest]

        try:
            self._asked[digest] = answered
            return self._io.begin(ask_in_turn)
        except BaseException:  # nobody may ever set it
            if before is None:
                self._asked.pop(digest, None)
            else:
                self._asked[digest] = before
            raise

    def pack(self, args: TaskArgs | None, worker: int, outputs: Outputs) -> RemotePacked:
        """Arguments for a task of ``worker``, whose buffers are held from now on: see ``submitted``, ``release``."""
        packed = pack(args, worker, self.buffers, self._heaps, outputs)
        try:
            if packed.made:
                self._sessions[worker].require_protocol(PROTOCOL_2, "a tensor without storage")
        except BaseException:
            self.release(packed)
            raise
        return packed

    def release(self, packed: RemotePacked) -> None:
        """Gives back what ``pack`` took for a task that was not submitted."""
        packed.take_back()
        self.buffers.let_go(packed.captured)

    def submitted(self, run: int, worker: int, packed: RemotePacked) -> None:
        """The buffers stay held, and outputs are there, until ``run_ended``; once for each task of the run."""
        if packed.captured:
            with self._lock:
                self._captured.setdefault(run, []).extend(packed.captured)
        if packed.made:
            self._outputs.made(run, worker, packed.made)

    def run_ended(self, run: int) -> None:
        """Nothing of the run is under way any more."""
        with self._lock:
            captured = self._captured.pop(run, [])
        self.buffers.let_go(captured)
        self._outputs.run_ended(run)

    def trace(self, since_ns: int, names: Mapping[bytes, str]) -> list[ProcessTrace]:
        """What every process of the sessions did since ``since_ns``, with this host's clock throughout.

        ``names``: of callables, by digest. A session that is lost has no lanes any more. Each session answers in turn,
        after the tasks that it was given before, without a deadline.
        """
        return self._io.call(self._trace, since_ns, names)

    # ---- in the loop

    def _session_lost(self, worker: int) -> None:
        self.buffers.session_lost(worker)

    async def _trace(self, since_ns: int, names: Mapping[bytes, str]) -> list[ProcessTrace]:
        lanes: list[ProcessTrace] = []
        for session in self._sessions.values():
            try:
                lanes += await session.trace(since_ns, names)
            except SimplerError as error:
                _log.warning("no trace of %s: %s", session.name, error)
        return lanes

    async def _open_all(self) -> None:
        self._io.nursery.start_soon(self._printer.run)
        failures: list[SimplerError] = []
        async with trio.open_nursery() as opening:
            for worker in self._sessions:
                opening.start_soon(self._open_one, worker, failures, opening.cancel_scope)
        if failures:
            raise failures[0]
        self._io.nursery.start_soon(self._watch_mailboxes)

    async def _open_one(self, worker: int, failures: list[SimplerError], others: trio.CancelScope) -> None:
        timeout_s, contents = self._startup_timeout_s, self._contents(worker)
        manifest = self._specs[worker].manifest(
            name=f"{self._name}/{worker}", startup_timeout_s=timeout_s, imports=_imports(contents)
        )
        try:
            await self._sessions[worker].open(manifest, contents, self._io.nursery, timeout_s)
        except SimplerError as failure:
            failures.append(failure)
            others.deadline = min(others.deadline, trio.current_time() + limits.OPENING_GRACE_S)

    async def _close_all(self, grace_s: float) -> None:
        async with trio.open_nursery() as closing:
            for session in self._sessions.values():
                closing.start_soon(session.close, "the program has closed its Worker", grace_s)

    async def _watch_mailboxes(self) -> None:
        """Until the loop ends: the eventfd says when there is work, which may be at any time."""
        while True:
            await trio.lowlevel.wait_readable(self._notify_fd)
            try:
                os.eventfd_read(self._notify_fd)
            except BlockingIOError:  # somebody else has read it; looking once more costs little
                continue
            for session in self._sessions.values():
                session.ring()


def _imports(contents: list[Content]) -> list[str]:
    """The RemoteCallable targets among ``contents``, which a session loads before it is READY."""
    described = (content.decoded for content in contents)
    return [f"{one.module}:{one.qualname}" for one in described if isinstance(one, ImportDescriptor)]


def _drop_outputs(io: IoThread, sessions: Mapping[int, RemoteSession], worker: int, outputs: Iterable[int]) -> None:
    sessions[worker].drop(outputs)
    with contextlib.suppress(StateError):  # closed meanwhile: the memory is gone with its session
        io.post(_ring, sessions[worker])


async def _ring(session: RemoteSession) -> None:
    session.ring()
