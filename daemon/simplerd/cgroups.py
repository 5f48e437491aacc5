"""The control groups of the daemon and its sessions: cgroup v2, as systemd delegates it to a service.

    <the unit's group>/                    delegated (Delegate=yes): systemd leaves all below it to us
    ├─ daemon/                             simplerd and its spawners
    └─ s-0a1b2c3d/                         a session: its runner enters it before it forks anything

Rules
  1. A group has processes or gives controllers to the groups below it, never both (cgroups(7), "no internal
     processes"). So the daemon leaves the unit's group for `daemon/` before it forks; DelegateSubgroup= begins there.
  2. Only a service's main process has a group of its own to share out; whoever else runs a daemon has others in it.
  3. systemd < 254 starts a service in the unit's group, which fails with 219/CGROUP while controllers are given there
     and a session lives on. A daemon that leaves takes them back (`close`), its unit's ExecStopPost= does so for one
     that was killed; the next daemon gives them again, and sets the limits of those that it finds.
  4. Without a delegated group sessions are seen off through process_tree.py.
Sessions run as the daemon's user, so limits are for mistakes: user code that means to leaves its group.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Collection, Mapping
from pathlib import Path

import trio

from simpler.control_group import own_control_group
from simplerd.log import get_logger
from simplerd.session_limits import Limit, LimitsInForce

CONTROLLERS = ("memory", "pids", "cpu")
LIMIT_FILES = {"memory_bytes": "memory.max", "processes": "pids.max", "cpu_weight": "cpu.weight"}
"""Which file of a group keeps which limit."""
LEAF = "daemon"
REMOVE_TIMEOUT_S = 10.0
_EVENTS_BYTES = 4096

_log = get_logger("cgroups")


class SessionGroup:
    """The control group of one session. All that it forks is in there, and user code cannot leave it by accident."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def limit(self, limits: LimitsInForce) -> None:
        """Has the kernel keep what it can of `limits`; a file that is missing is of a controller that is not here."""
        for name in self.keeps():
            limit: Limit | None = getattr(limits, name)
            if limit is not None:
                (self.path / LIMIT_FILES[name]).write_text(f"{int(limit.value)}\n")
        swap = self.path / "memory.swap.max"
        if limits.memory_bytes is not None and swap.exists():  # one that swaps instead is slow for everybody
            swap.write_text("0\n")

    def keeps(self) -> frozenset[str]:
        """The limits that the kernel keeps for it, as LimitsInForce names them."""
        return frozenset(name for name, file in LIMIT_FILES.items() if (self.path / file).exists())

    def entrance(self) -> int:
        """A descriptor, the caller's to close: a process that writes "0" to it is in the group."""
        return os.open(self.path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    async def wait_gone(self) -> None:
        """Waits until no process is in the group; without a deadline of its own."""
        with contextlib.ExitStack() as done, contextlib.suppress(FileNotFoundError):
            events = done.enter_context((self.path / "cgroup.events").open("rb", buffering=0)).fileno()
            changed = done.enter_context(select.epoll())
            changed.register(events, select.EPOLLPRI)
            while b"populated 1" in os.pread(events, _EVENTS_BYTES, 0):
                await trio.lowlevel.wait_readable(changed.fileno())

    def kill(self) -> list[int]:
        """SIGKILL to all in the group and below it, however fast they fork; returns who that was."""
        pids: list[int] = []
        for folder, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError):  # user code may have made it, and may make it threaded, or remove it
                pids += map(int, Path(folder, "cgroup.procs").read_text().split())
        if why := _write(self.path / "cgroup.kill", "1"):
            _log.error("a control group could not be killed", group=str(self.path), error=why)
        return pids

    def remove(self) -> None:
        """Removes the group, and what user code made below it; what still has a process is logged and stays."""
        for folder, _, _ in os.walk(self.path, topdown=False):
            try:
                Path(folder).rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.error("a control group could not be removed", group=folder, error=error.strerror)


class ControlGroups:
    """What was delegated to this daemon: `root`, or None and `missing` says why. `controllers`: those for sessions.

    `missing` also says which controllers there are not.
    """

    def __init__(self, root: Path | None, missing: str | None = None, *, starts_in_root: bool = True) -> None:
        """`starts_in_root`: whether systemd starts the daemon in `root`, and not in its leaf."""
        self.root = root
        self.missing = missing
        self._starts_in_root = starts_in_root
        self.controllers: frozenset[str] = frozenset()
        if root is not None:
            self._give_controllers(root)

    @classmethod
    def enter(cls, environ: Mapping[str, str] = os.environ) -> ControlGroups:
        """Finds what was delegated to this process, and moves it into its leaf there. Call it before the first fork."""
        own = own_control_group()
        if own is None:
            return cls(None, "this host has no cgroup v2, or does not show it")
        if environ.get("SYSTEMD_EXEC_PID") != str(os.getpid()):  # systemd.exec(5)
            return cls(None, "simplerd was not started by systemd, which gives a service a control group of its own")
        root = own.parent if own.name == LEAF and _is_delegated(own.parent) else own
        if not _is_delegated(root):
            return cls(None, f"systemd (251 or later) did not delegate {root}: its unit needs Delegate=yes")
        try:
            (root / LEAF).mkdir(exist_ok=True)
            if own != root / LEAF:
                (root / LEAF / "cgroup.procs").write_text("0\n")
        except OSError as error:
            return cls(None, f"{root} cannot be written ({error.strerror}): its unit needs ProtectControlGroups=no")
        return cls(root, starts_in_root=own == root)

    def keeps(self) -> frozenset[str]:
        """The limits that the kernel keeps for sessions, as LimitsInForce names them."""
        return frozenset(name for name, file in LIMIT_FILES.items() if file.partition(".")[0] in self.controllers)

    def make(self, session: str, limits: LimitsInForce) -> SessionGroup | None:
        """A group for a new session; None where groups cannot be made. Raises OSError when this one cannot."""
        if self.root is None:
            return None
        group = SessionGroup(self.root / session)
        group.path.mkdir()
        group.limit(limits)
        return group

    def find(self, session: str, limits: LimitsInForce) -> SessionGroup | None:
        """The group of a session that an earlier daemon made, with its limits set again; None when it has none here."""
        if self.root is None or not (self.root / session).is_dir():
            return None
        group = SessionGroup(self.root / session)
        try:
            group.limit(limits)
        except OSError as error:  # no reason to lose the session
            _log.error("limits of a session could not be set again", session=session, error=error.strerror)
        return group

    async def remove(self, session: str) -> None:
        """Kills what is left of a session, and removes its group."""
        if self.root is None or not (self.root / session).is_dir():
            return
        group = SessionGroup(self.root / session)
        if pids := group.kill():
            _log.warning("killed what was left in a control group", session=session, pids=pids)
        with trio.move_on_after(REMOVE_TIMEOUT_S):
            await group.wait_gone()
        group.remove()

    async def clear(self, keep: Collection[str] = ()) -> None:
        """Removes the groups that an earlier daemon left, but those of the sessions `keep`."""
        left = [path.name for path in self.root.glob("s-*")] if self.root is not None else []
        for session in left:
            if session not in keep:
                await self.remove(session)

    def close(self) -> None:
        """Takes the controllers back, so that systemd < 254 can start the next daemon. Sessions go on unlimited."""
        if self.root is not None and self._starts_in_root:
            for controller in self.controllers:
                _write(self.root / "cgroup.subtree_control", f"-{controller}")

    def _give_controllers(self, root: Path) -> None:
        here = (root / "cgroup.controllers").read_text().split()
        absent = [controller for controller in CONTROLLERS if controller not in here]
        if absent:
            causes = "they are those of cgroup v1, or a unit above does not pass them on"
            self.missing = f"{root} has no controllers {', '.join(absent)}: {causes}"
        for controller in CONTROLLERS:
            if controller in here and (why := _write(root / "cgroup.subtree_control", f"+{controller}")):
                self.missing = f"the controller {controller} cannot be given to sessions: {why}"
        given = (root / "cgroup.subtree_control").read_text().split()
        self.controllers = frozenset(given) & frozenset(CONTROLLERS)


def _is_delegated(group: Path) -> bool:
    """As systemd marks it, see CGROUP_DELEGATION in its documentation."""
    try:
        return os.getxattr(group, "user.delegate") == b"1"
    except OSError:
        return False


def _write(file: Path, text: str) -> str | None:
    """What is wrong, or None."""
    try:
        file.write_text(f"{text}\n")
    except OSError as error:
        return error.strerror or str(error)
    return None
