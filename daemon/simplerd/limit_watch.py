"""What happens when a session comes to one of its limits.

Rules
  1. Its time is watched here. Memory and processes are kept by the kernel, through the session's control group, where
     that has the controllers; what the session was refused is published. Elsewhere usage_watch.py looks, and all of the
     session is ended.
  2. What is said names the limit, how much it is, and the setting.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import trio

from simpler.control_group import counts_in
from simpler.oom import OomWatch, mebibytes
from simplerd.cgroups import LIMIT_FILES, ControlGroups, SessionGroup
from simplerd.config import Config
from simplerd.events import Field
from simplerd.log import get_logger
from simplerd.runner_process import Runner
from simplerd.session_limits import Limit, LimitsInForce
from simplerd.session_table import SessionTable
from simplerd.sessions import Session
from simplerd.usage_watch import POLLED, UsageWatch

REFUSALS = {"memory_bytes": ("memory.events", "oom_kill"), "processes": ("pids.events", "max")}
"""Where the kernel counts what a session was refused: processes killed for want of memory, forks that failed."""
REPEAT_S = 5.0
"""Of a session that is refused again and again it is told so often."""
_EVENTS_BYTES = 4096


_log = get_logger("limits")


class LimitWatch:
    """Watches over the limits of all sessions. For the trio thread."""

    def __init__(self, config: Config, sessions: SessionTable, kill: Callable[[Session, str], None]) -> None:
        """`kill` ends all of a session and says why."""
        self._config = config
        self._sessions = sessions
        self._kill = kill
        self._usage = UsageWatch()

    async def run(self, groups: ControlGroups) -> None:
        """For ever, once it is said which of the limits that the host sets are not kept by the kernel."""
        set_here = [name for name in LIMIT_FILES if getattr(self._config, f"session_{name}")]
        if missing := [name for name in set_here if name not in groups.keeps()]:
            polled, ignored = [name for name in missing if name in POLLED], set(missing) - set(POLLED)
            _log.warning(
                "the kernel does not keep limits of sessions here",
                looked_at_every_second=", ".join(polled) or "none",
                ignored=", ".join(ignored) or "none",
                reason=groups.missing,
            )
        await self._usage.run()

    async def keep(self, session: Session, runner: Runner, oom: OomWatch) -> None:
        """Has the session closed when its time is over, and killed when it has more than it may. For ever."""
        limits = LimitsInForce.of(self._config, session.manifest)
        watched = _not_kept(limits, runner.group)
        async with trio.open_nursery() as nursery:
            if limits.time_s is not None:
                nursery.start_soon(_close_in_time, session, limits.time_s)
            if watched.memory_bytes is not None or watched.processes is not None:
                nursery.start_soon(self._kill_over_limit, session, runner, watched)
            if runner.group is not None:
                nursery.start_soon(self._tell_refusals, session, runner.group, limits, oom)
            await trio.sleep_forever()

    def oom_watch(self, session: Session, runner: Runner) -> OomWatch:
        """What tells whether its runner has died for want of memory, and names the limit."""
        limit = LimitsInForce.of(self._config, session.manifest).memory_bytes
        is_late = runner.has_ended()
        if runner.group is None or limit is None:
            return OomWatch(runner.group.path if runner.group else None, is_late=is_late)
        named = f"its limit of {mebibytes(int(limit.value))}: {limit.setting}"
        return OomWatch(runner.group.path, named, is_late=is_late)

    async def _kill_over_limit(self, session: Session, runner: Runner, limits: LimitsInForce) -> None:
        what = await self._usage.exceeded(runner.tree, limits)
        self._kill(session, f"{what}; no control group of this host keeps it below that, so it was ended as a whole")

    async def _tell_refusals(self, session: Session, group: SessionGroup, limits: LimitsInForce, oom: OomWatch) -> None:
        with contextlib.ExitStack() as files, select.epoll() as changed:
            counters = [_Counter(name, fd) for name, fd in _opened(group, files)]
            for counter in counters:
                changed.register(counter.fd, select.EPOLLPRI)  # for reading it is always ready
            while counters:  # no deadline: it need never be refused anything
                news = {counter.name: times for counter in counters if (times := counter.news())}
                for name, times in news.items():
                    limit: Limit | None = getattr(limits, name)
                    told: dict[str, Field] = {"at": limit.value, "setting": limit.setting} if limit else {}
                    self._sessions.publish(session, "session.limited", limit=name, times=times, **told)
                if news:
                    counts = oom.counts()
                    await trio.sleep(REPEAT_S)
                    oom.pass_over(counts)  # its runner has outlived that: a worker was killed
                await trio.lowlevel.wait_readable(changed.fileno())


class _Counter:
    """What the kernel counts in one open file. A file that has not been read since it changed is ready, poll(2)."""

    def __init__(self, name: str, fd: int) -> None:
        self.name, self.fd = name, fd
        self._told = 0

    def news(self) -> int:
        """How often since it was last asked."""
        count = counts_in(os.pread(self.fd, _EVENTS_BYTES, 0).decode()).get(REFUSALS[self.name][1], 0)
        self._told, before = count, self._told
        return count - before


def _opened(group: SessionGroup, files: contextlib.ExitStack) -> Iterator[tuple[str, int]]:
    for name, (file, _) in REFUSALS.items():
        with contextlib.suppress(OSError):  # that controller is not here
            fd = os.open(group.path / file, os.O_RDONLY | os.O_CLOEXEC)
            files.callback(os.close, fd)
            yield name, fd


async def _close_in_time(session: Session, limit: Limit) -> None:
    await trio.sleep(max(0.0, session.opened_at + limit.value - time.time()))
    session.ask_to_close(f"it was open for {limit.value:g} s, which is as long as it may be ({limit.setting})")


def _not_kept(limits: LimitsInForce, group: SessionGroup | None) -> LimitsInForce:
    """Of `limits` those that no control group keeps."""
    kept = group.keeps() if group is not None else frozenset()
    return replace(limits, **dict.fromkeys(kept))
