"""What a bug report is made of: each part is gathered on its own, and one that cannot be had says why in its place."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import to_builtins

from simplerctl import daemon_checks, host_checks, install_checks, service_checks
from simplerctl.examination import CannotTell, Patient, examine

LOG_LINES = 5000
EVENTS = 2000
ENDED_SESSIONS = 20
UNIT_FACTS = (
    *("Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "NRestarts", "MainPID", "StatusText"),
    *("ActiveEnterTimestamp", "InactiveEnterTimestamp", "ExecMainCode", "ExecMainStatus", "NeedDaemonReload"),
    *("MemoryCurrent", "TasksCurrent", "CPUUsageNSec", "FragmentPath", "DropInPaths"),
)
"""`systemctl status` would tell the arguments of all processes of sessions."""
PRINTED = re.compile(r"^\S+ \S+ [^:\s]+: \[s-[0-9a-f]{8}[^\]\n]*\] .*\n", re.MULTILINE)
"""What a process of a session printed, as journalctl shows it."""
UNITS = ("simplerd.service", "simplerd.socket", "simplerd-admin.socket", "simplerd-tcp.socket")


class Part(NamedTuple):
    """A file of the report. `gather` gives its text, or what becomes JSON; it raises what a check may raise."""

    name: str
    about: str
    gather: Callable[[Patient], object]


def _asked(method: str, **params: object) -> Callable[[Patient], object]:
    return lambda patient: patient.ask(method, **params)


def _examined(patient: Patient) -> object:
    tables = (host_checks, install_checks, service_checks, daemon_checks)
    return to_builtins(examine(patient, [check for table in tables for check in table.CHECKS]))


def _metrics(patient: Patient) -> str:
    return str(patient.ask("metrics.get")["text"])


def _ended_sessions(patient: Patient) -> object:
    ended = [each["id"] for each in patient.ask("session.list", all=True) if each["state"] in ("ended", "failed")]
    return [patient.ask("session.get", session=id) for id in ended[-ENDED_SESSIONS:]]


def _events(patient: Patient) -> object:
    last = patient.ask("daemon.status")["last_event"]
    with patient.connect() as client:
        begun = client.call("events.subscribe", {"after": max(0, last - EVENTS)})
        events: list[dict[str, Any]] = []
        while (events[-1]["seq"] if events else begun["after"]) < begun["last"]:
            events.append(client.next_event(timeout_s=10))
    return events


def _config(patient: Patient) -> str:
    path = install_checks.config_file(patient)
    if path is None:
        raise CannotTell("there is no configuration file")
    return path.read_text(errors="replace")


def _command(*words: str) -> Callable[[Patient], str]:
    def gather(patient: Patient) -> str:
        done = patient.run(*words)
        return f"$ {' '.join(words)}\n{done.stdout}{done.stderr}"

    return gather


def _log(patient: Patient) -> str:
    """Without what sessions print, which is nobody's but their programs'."""
    words = ("--lines", str(LOG_LINES), "--no-pager", "--output", "short-iso-precise")
    text, printed = PRINTED.subn("", _command("journalctl", "--unit", UNITS[0], *words)(patient))
    return f"{text}{printed} lines that sessions printed are left out\n"


def _files(*names: str) -> Callable[[Patient], str]:
    return lambda patient: "".join(f"--- /{name}\n{patient.read(name)}\n" for name in names)


def _limits(patient: Patient) -> str:
    return patient.read(f"proc/{patient.ask('daemon.status')['pid']}/limits")


def _packages(patient: Patient) -> str:
    found = sorted({f"{each.name} {each.version}" for each in importlib.metadata.distributions()})
    return "".join(f"{line}\n" for line in found)


PARTS = (
    Part("doctor.json", "what simplerctl doctor finds", _examined),
    Part("daemon/status.json", "the daemon at a glance", _asked("daemon.status")),
    Part("daemon/version.json", "what runs", _asked("daemon.version")),
    Part("daemon/config.json", "the settings in force, and where they come from", _asked("config.show")),
    Part("daemon/sessions.json", "the sessions, also the last that ended", _asked("session.list", all=True)),
    Part("daemon/ended-sessions.json", f"the whole causes of the last {ENDED_SESSIONS} of these", _ended_sessions),
    Part("daemon/activity.json", "what the sessions do", _asked("session.activity")),
    Part("daemon/devices.json", "the devices", _asked("device.list")),
    Part("daemon/metrics.txt", "the metrics", _metrics),
    Part("daemon/events.jsonl", f"the last {EVENTS:,} events", _events),
    Part("daemon/limits.txt", "the resource limits of its process", _limits),
    Part("config.toml", "the configuration file", _config),
    Part(
        "log.txt",
        f"the last {LOG_LINES:,} lines of its log, without those that sessions printed",
        _log,
    ),
    Part(
        "service/status.txt",
        "the state of its units",
        _command("systemctl", "show", "--no-pager", f"--property={','.join(UNIT_FACTS)}", *UNITS),
    ),
    Part("service/units.txt", "the units, with drop-ins", _command("systemctl", "cat", "--no-pager", *UNITS)),
    Part("host/system.txt", "kernel, distribution, memory", _files("proc/version", "etc/os-release", "proc/meminfo")),
    Part("host/load.txt", "load and pressure", _files("proc/loadavg", "proc/pressure/cpu", "proc/pressure/memory")),
    Part(
        "host/processes.txt",
        "processes by name, without their arguments",
        _command("ps", "-e", "-o", "pid,ppid,uid,stat,rss,nlwp,etime,comm"),
    ),
    Part("host/packages.txt", "the Python packages that are installed", _packages),
)
