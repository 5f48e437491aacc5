"""One remote session from the program's side: its life, what it is asked, the tasks that it is given, and its end.

Rules
  1. Opening has one deadline for all its steps; when it passes, the error says what was waited for.
  2. Health is the daemon's to tell. A session is lost when the daemon says so, when a lane is lost, or when its host is
     silent (health.py); for a lane the daemon has ENDED_GRACE_S to say why, one that is away DAEMON_AWAY_S more. Losing
     the control connection alone loses no session: it is made anew.
  3. A lost session fails all that counts on it with its cause: calls, tasks that it holds, tasks that come later.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import trio

from simpler import limits
from simpler.chrome_trace import ProcessTrace
from simpler.content import Content
from simpler.error_record import encode_error
from simpler.errors import SessionLost, SimplerError, StaleHandle, StartupError, StateError
from simpler.pushes import Take
from simpler.region import Region, RegionClosed
from simpler.region_records import unpack_trace
from simpler.remote.connections import Connections
from simpler.remote.health import Health
from simpler.remote.large_calls import LargeCalls
from simpler.remote.printer import Printer
from simpler.remote.push_taker import PushTaker
from simpler.remote.registration import SessionCallables
from simpler.remote.session_life import TRANSITIONS, SessionEvent, SessionState
from simpler.remote.shared_memory import SharedMemory
from simpler.remote.spec import RemoteWorkerSpec
from simpler.remote.task_pump import TaskPump
from simpler.trace import task_spans
from simpler.wire.command_messages import Trace
from simpler.wire.control_messages import Ended, Event, Manifest, OpenReply, Output
from simpler.wire.endpoint import Endpoint
from simpler.wire.frames import Buffer
from simpler.wire.link import Link
from simpler.wire.links import Links
from simpler.wire.messages import Message, Request
from simpler.wire.serving import Handler

T = TypeVar("T")
ReplyT = TypeVar("ReplyT", bound=Message)
_log = logging.getLogger("simpler.remote")


class RemoteSession(Handler):
    """The session of one remote worker. Everything but the properties is for the trio loop that ``nursery`` runs in."""

    def __init__(
        self,
        worker: int,
        spec: RemoteWorkerSpec,
        region: Region,
        *,
        program: str,
        links: Links,
        on_lost: Callable[[int], None],
        on_dropped: Callable[[int, int, int], None],
        printer: Printer,
        take_push: Take,
    ) -> None:
        """``on_lost(worker)``; ``on_dropped(run, worker, output)``: see TaskPump."""
        self.worker = worker
        self.name = f"remote worker {worker} at {spec.endpoint}"
        self.callables = SessionCallables(self)
        self._spec = spec
        self._wire = Connections(
            spec, self.name, program=program, links=links, handler=self, commands=PushTaker(self._run_of, take_push)
        )
        self._region = region
        self._on_lost, self._on_dropped = on_lost, on_dropped
        self._printer = printer
        self._state = SessionState.NEW
        self._health = trio.CancelScope()
        self._cause: SimplerError | None = None
        self._lost = trio.Event()
        self._pump: TaskPump | None = None
        self._nursery: trio.Nursery

    @property
    def id(self) -> str:
        """What the daemon calls it. Raises as ``request`` does when it is not open."""
        self._check_usable()
        return self._opened.session

    @property
    def _opened(self) -> OpenReply:
        assert self._wire.opened is not None
        return self._wire.opened

    @property
    def memory(self) -> SharedMemory | None:
        """The session's memory, where it is on this host."""
        return self._wire.memory

    @property
    def heap_bytes(self) -> int:
        """How large its memory is."""
        return self._spec.heap_bytes

    @property
    def number(self) -> int:
        """What frame headers call it, while it is open."""
        return self._opened.number

    @property
    def host(self) -> str:
        """What the daemon's host calls itself."""
        return self._wire.control.host

    @property
    def lane_certificate(self) -> bytes:
        """What its runner shows on lanes under TLS; empty where they are in clear."""
        return self._opened.lane_certificate

    @property
    def endpoint(self) -> Endpoint:
        """Where its daemon is."""
        return self._spec.address

    @property
    def health_timeout_s(self) -> float:
        """How long nothing may be heard of its host."""
        return self._spec.health_timeout_s

    def require_protocol(self, version: int, what: str) -> None:
        """Raises SimplerError UNSUPPORTED when the daemon speaks an older one than ``what`` needs."""
        if self.protocol < version:
            raise SimplerError(
                f"{what} needs session protocol {version}; the daemon of {self.name} speaks {self.protocol}: install "
                "the same release on both hosts",
                code="UNSUPPORTED",
                worker=self.worker,
            )

    @property
    def protocol(self) -> int:
        """The version that was agreed on with the daemon."""
        return self._wire.control.protocol

    def let_go(self) -> None:
        """Once the loop has ended: a connection's objects hold each other until collected; memory need not wait."""
        self._pump = None
        del self._region, self._on_lost, self._on_dropped
        self._wire.memory = None

    # ---- opening

    async def open(
        self, manifest: Manifest, contents: Sequence[Content], nursery: trio.Nursery, timeout_s: float
    ) -> None:
        """Returns when the session is READY and may be given tasks; after an error nothing of it is left here.

        ``nursery``: for what lives as long as the session. Raises the daemon's refusal, ConnectError, or StartupError
        when ``timeout_s`` has passed.
        """
        self._nursery = nursery
        self._move(SessionEvent.OPEN)
        with trio.move_on_after(timeout_s) as deadline:
            try:
                await self._opened_by_daemon(manifest, contents)
                if self._state is not SessionState.OPENING:  # it was lost, or closed, meanwhile
                    raise self._unusable()
                self._begin()
                return
            except SimplerError as error:
                error.message = f"{self.name}: {error.message}"
                raise
            finally:
                if self._state is not SessionState.READY:
                    why = "the program could not use it"
                    await self._wire.close(why, limits.OPENING_GRACE_S, is_there=self._cause is None)
        assert deadline.cancelled_caught
        raise StartupError(
            f"{self.name} was not ready within {round(timeout_s, 3):g} s: waited for {self._wire.waits_for}"
        )

    async def _opened_by_daemon(self, manifest: Manifest, contents: Sequence[Content]) -> None:
        try:
            await self._wire.open(manifest, contents, self._nursery)
        except StaleHandle as gone:
            raise self._loss(f"was lost while it was opened: {gone.message}") from None
        except (SessionLost, StateError):  # of a lane that the session does not take, or has ended with
            if self._wire.opened is not None:  # then the daemon may be about to say why the session has ended
                with trio.move_on_after(limits.ENDED_GRACE_S):
                    await self._lost.wait()
            if self._cause is not None:
                raise copy.copy(self._cause) from None
            raise

    def _begin(self) -> None:
        self._region.attach_worker(self.worker)
        self._region.ready(self.worker)
        self._pump = TaskPump(
            self.worker,
            self._region,
            self._wire.command,
            large=LargeCalls(self, self._region),
            start_soon=self._start,
            at_least=2 * len(self._opened.subs),
            on_dropped=self._on_dropped,
            give_up=self._give_up,
        )
        self._move(SessionEvent.OPENED)
        for lane in (self._wire.command, self._wire.data):
            self._nursery.start_soon(self._guarded, self._watch, lane)
        self._nursery.start_soon(self._guarded, self._pump.run)
        if self._opened.resume:
            self._nursery.start_soon(self._guarded, self._watch_health)

    def _start(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        self._nursery.start_soon(self._guarded, work, *args)

    def _run_of(self, sequence: int) -> int | None:
        return None if self._pump is None else self._pump.run_of(sequence)

    # ---- calls

    async def request(self, request: Request[ReplyT], data: Buffer = b"") -> tuple[ReplyT, memoryview]:
        """A request on the command lane, served after what was sent there before it.

        Without a deadline: the tasks before it take as long as they take, and health is told apart. Raises what the
        session answers, SessionLost, or StateError once it is closed.
        """

        async def in_turn() -> tuple[ReplyT, memoryview]:
            if self._pump is not None:
                await self._pump.first_sent()  # the request may need the memory
            return await self._wire.command.request(request, data, timeout_s=None)

        return await self.explained(in_turn)

    async def on_data_lane(self, work: Callable[[Link], Awaitable[None]]) -> None:
        """Runs ``work`` with the data lane. Raises as ``request`` does."""
        await self.explained(lambda: work(self._wire.data))

    async def locate(self, buffer: int, generation: int) -> int | None:
        """Where a buffer begins in ``memory``; None when it does not lie there. Raises as ``request`` does."""
        return await self.explained(lambda: self._wire.locate(buffer, generation))

    def can_be_used(self) -> bool:
        """Whether it can, as far as is known; ``ensure_usable`` says why not."""
        return self._state is SessionState.READY and self._wire.lane_cause is None

    async def ensure_usable(self) -> None:
        """Raises SessionLost or StateError unless the session can be used."""
        if not self.can_be_used():
            await self.explained(self._raise_lost_lane)

    async def _raise_lost_lane(self) -> None:
        assert self._wire.lane_cause is not None
        raise copy.copy(self._wire.lane_cause)

    async def trace(self, since_ns: int, names: Mapping[bytes, str]) -> list[ProcessTrace]:
        """What the session's processes did since ``since_ns``; all times are of this host's clock."""
        sent_ns = time.monotonic_ns()
        reply, data = await self.request(Trace(since_ns=since_ns - self._wire.clock.ns))
        self._wire.clock.observe(sent_ns, reply.clock_ns, time.monotonic_ns())
        ahead = self._wire.clock.ns
        spans = task_spans(unpack_trace(data), names)
        return [
            ProcessTrace(
                process.pid,
                process.name,
                [
                    span._replace(start_ns=span.start_ns + ahead, end_ns=span.end_ns + ahead)
                    for span in spans.get(process.worker, ())
                ],
            )
            for process in reply.processes
        ]

    async def explained(self, work: Callable[[], Awaitable[T]]) -> T:
        """``work`` on a lane; when it failed because the lane is over, the error says why the session is."""
        self._check_usable()
        try:
            return await work()
        except SimplerError:
            if self._wire.lane_cause is None:
                raise
        await self._lost.wait()  # _watch sees to it within ENDED_GRACE_S, and close at once
        self._check_usable()
        raise AssertionError("a lost session is not usable")

    def _check_usable(self) -> None:
        if self._state is not SessionState.READY:
            raise self._unusable()

    def _unusable(self) -> SimplerError:
        """Why it takes nothing, afresh for one more caller."""
        if self._state is SessionState.LOST:
            assert self._cause is not None
            return copy.copy(self._cause)
        return StateError(f"{self.name} is closed")

    def drop(self, outputs: Iterable[int]) -> None:
        """Has outputs of tasks dropped before what is not sent yet, once it is rung for; from any thread."""
        if self._pump is not None:
            self._pump.drop(outputs)

    def ask_first(self, request: Request[Message], answered: Callable[[SimplerError | None], None]) -> None:
        """As `TaskPump.ask_first`; nothing where the session is closed."""
        if self._pump is not None:
            self._pump.ask_first(request, answered)

    def ring(self) -> None:
        """There may be work in the worker's mailbox."""
        if self._pump is not None:
            self._pump.ring()

    # ---- health and end

    def pushed(self, link: Link, push: Message) -> None:
        """The daemon says what happens to the session, what it prints, and that it has ended."""
        if isinstance(push, Output):
            self._printer.write(f"[{self._wire.control.host} {push.session}] ", push.lines, push.left_out)
        elif isinstance(push, Event):
            _log.info("%s: %s %s", self.name, push.type, push.text)
        elif isinstance(push, Ended) and self._wire.opened is not None and push.session == self._opened.session:
            self._lose(self._told(push))

    def _told(self, ended: Ended) -> SessionLost:
        facts: dict[str, str | int] = {"session": ended.session, "cause": ended.code}
        if ended.signal is not None:
            facts["signal"] = ended.signal
        if ended.exit_code is not None:
            facts["exit_code"] = ended.exit_code
        lines = "".join(f"\n  {line}" for line in ended.stderr)
        stderr = f"\nthe last lines of its stderr:{lines}" if lines else ""
        return self._loss(f"has ended: {ended.cause}{stderr}", facts)

    def _loss(self, what: str, facts: Mapping[str, str | int] = MappingProxyType({})) -> SessionLost:
        error = SessionLost(f"the session of {self.name} {what}")
        error.context = {"worker": self.worker, "endpoint": self._spec.endpoint, **facts}
        return error

    async def _watch_health(self) -> None:
        control, lanes = self._wire.control, [self._wire.data, self._wire.command]
        health = Health(control, lanes, self._opened, self._spec.health_timeout_s)
        with self._health:
            seen = await health.run()
            control.link.fail(self._loss("was given up"))  # else closing would wait for an answer
            self._lose(self._loss(f"was lost: {seen}"))

    async def _watch(self, lane: Link) -> None:
        cause = await lane.wait_closed()
        with trio.move_on_after(limits.ENDED_GRACE_S):
            await self._lost.wait()
        if self._wire.control.cause is not None:  # the daemon may be back soon, and know
            with trio.move_on_after(limits.DAEMON_AWAY_S):
                await self._lost.wait()
        daemon = self._wire.control.cause
        silence = "" if daemon is None else f", and so was its daemon: {daemon}"
        self._lose(self._loss(f"was lost: {cause}{silence}"))

    def _lose(self, cause: SimplerError) -> None:
        was_ready = self._state is SessionState.READY
        self._move(SessionEvent.LOSS)
        if self._cause is not None or self._state is SessionState.CLOSED:
            return
        self._cause = cause
        self._lost.set()
        self._health.cancel()
        if was_ready:  # first: who hears that a task failed with the session finds its handles stale
            self._on_lost(self.worker)
        self._wire.fail_lanes(cause)
        if was_ready:
            self._region.worker_abandon(self.worker, encode_error(cause))

    async def _guarded(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Runs a part of the session; whatever goes wrong in it is the end of this session and of no other."""
        try:
            await work(*args)
        except RegionClosed:  # the Worker is closing
            return
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if not isinstance(error, SimplerError):
            _log.error("%s was given up", self.name, exc_info=error)
            self._lose(self._loss(f"was given up: {type(error).__name__}: {error}"))
        elif self._wire.command.cause is None:  # else it is for _watch to say why
            self._lose(self._loss(f"was given up: {error}"))

    async def close(self, reason: str, grace_s: float = limits.CLOSE_TIMEOUT_S) -> None:
        """Ends the session and waits until nothing of it is left at the daemon, at most twice ``grace_s``: for as long
        as a session has to end by itself, and as long again for the daemon to kill what did not.
        """
        self._move(SessionEvent.CLOSE)
        self._lost.set()
        self._health.cancel()
        await self._wire.close(reason, 2 * grace_s, is_there=self._cause is None)

    def _move(self, event: SessionEvent) -> None:
        self._state = TRANSITIONS[self._state, event]
