"""A daemon that is stopped at its fault points, killed there with what belongs to it, and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from faults import history
from faults.numbered_program import NumberedProgram
from simplerctl.client import AdminClient
from simplerd.fault_points import FOLDER, FaultPoint
from simplerd.foreground import ForegroundDaemon

KEEP = '[daemon]\non_stop = "keep"\n'
WAIT_S = 30.0
LOOK_S = 0.002


class Kill(Enum):
    """Whom SIGKILL meets while the daemon stands at a fault point."""

    DAEMON = "daemon"
    TWICE = "daemon, and the next one while it adopts"
    SPAWNER = "spawner"
    RUNNER = "runner"
    BOTH = "daemon and spawner"
    WITH_RUNNER = "daemon and runner"

    @property
    def spares_runner(self) -> bool:
        """Whether sessions are to survive it."""
        return self not in (Kill.RUNNER, Kill.WITH_RUNNER)


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for it. Fails the test when it does not come to be."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:g} s: {what}"
        time.sleep(LOOK_S)


class RestartScene:
    """A context manager; ``folder`` is for its files. ``settings``: lines of the daemon's configuration."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.folder = folder
        self._faults = folder / "faults"
        self._faults.mkdir()
        config = folder / "simplerd.toml"
        config.write_text(settings)
        self.daemon = ForegroundDaemon("--config", str(config), env={FOLDER: str(self._faults)})
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._faults.iterdir():
            file.unlink()
        with contextlib.suppress(ProcessLookupError):
            self.daemon.process.send_signal(signal.SIGCONT)
        self.daemon.__exit__(kind, error, at)

    # ---- where it stops

    def arm(self, point: FaultPoint, passed: int = 0) -> None:
        """The daemon will stop there, once, after it has ``passed`` it so often."""
        (self._faults / point).write_text(str(passed))

    def wait_stopped(self) -> None:
        """Until the daemon stands at the point that was armed. Fails the test when it ends instead."""
        until(lambda: self._state() in "TZ", f"the daemon comes to {[file.name for file in self._faults.iterdir()]}")
        assert self._state() == "T", "the daemon has ended before it came to the point"

    def _state(self) -> str:
        return Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(") ")[2][0]

    # ---- who is killed

    def kill(self, whom: Kill, again_at: FaultPoint) -> None:
        """The daemon stands at a point; afterwards there is one that is ready. ``again_at``: of Kill.TWICE."""
        spawners, runners = self.spawners(), self.runners()
        if whom in (Kill.RUNNER, Kill.WITH_RUNNER):
            kill_all(runners)
        if whom in (Kill.SPAWNER, Kill.BOTH):
            kill_all(spawners)
        if whom is Kill.RUNNER:
            self.daemon.process.send_signal(signal.SIGCONT)
            self.daemon.wait_ready()
            return
        if whom is Kill.SPAWNER:  # without which the daemon gives up
            self.daemon.process.send_signal(signal.SIGCONT)
            self.daemon.process.wait(WAIT_S)
        self.daemon.kill()
        if whom is Kill.TWICE:
            self.arm(again_at)
            self.daemon.begin_again()
            self.wait_stopped()
            self.daemon.kill()
        self.daemon.start_again()

    def spawners(self) -> list[int]:
        """The spawners of this daemon, and of those before: their stderr is its log, and they are not it."""
        log = str(self.daemon.log)
        return [pid for pid in processes() if pid != self.daemon.pid and _link(pid, "fd/2") == log]

    def runners(self) -> list[int]:
        """The runners: children of those."""
        spawners = set(self.spawners())
        return [pid for pid in processes() if _parent(pid) in spawners]

    def working(self) -> list[int]:
        """Every process of a session, by where it works."""
        return [pid for pid in processes() if _link(pid, "cwd").startswith(f"{self.daemon.runtime_dir}/s-")]

    # ---- what is left

    def ask(self, method: str, **params: Any) -> Any:
        """The daemon's answer to an admin request."""
        with AdminClient(self.daemon.admin_socket, WAIT_S) as client:
            return client.call(method, params)

    def settle(self) -> None:
        """Until no session is left; fails the test when something of one is."""
        until(lambda: not self._live(), "sessions are left")
        until(lambda: not self.working(), "processes of sessions are left")
        until(lambda: not list(self.daemon.runtime_dir.glob("s-*")), "folders of sessions are left")
        assert not self._leases()

    def problems(self, *programs: NumberedProgram) -> list[str]:
        """What the history checker finds."""
        saw = [history.Program(one.sessions, one.answered, one.failed, one.carried_out()) for one in programs]
        self.read_events()
        return history.problems(self.events, *saw, live=self._live(), leases=self._leases())

    def _live(self) -> list[str]:
        return [one["id"] for one in self.ask("session.list")]

    def _leases(self) -> list[int]:
        return [one["device"] for one in self.ask("device.list") if one["session"]]

    def read_events(self) -> None:
        """Those that came since the last time, which may not be more than the daemon keeps."""
        after = self.events[-1]["seq"] if self.events else 0
        with AdminClient(self.daemon.admin_socket, WAIT_S) as client:
            last = client.call("events.subscribe", {"after": after})["last"]
            if last > after:
                for event in client.events(follow=False):
                    self.events.append(event)
                    if event["seq"] >= last:
                        break


def processes() -> Iterator[int]:
    """All of this machine."""
    return (int(path.name) for path in Path("/proc").glob("[0-9]*"))


def kill_all(pids: list[int]) -> None:
    """SIGKILL, and waits until they are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not any(_is_alive(pid) for pid in pids), f"{pids} were killed")


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return 0


def _link(pid: int, name: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/{name}").readlink())
    except OSError:
        return ""
