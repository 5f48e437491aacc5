"""What systemd knows of simplerd, where there is systemd."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from simplerctl.examination import CannotTell, Check, Patient, Result, fail, ok, skip, warn

LEAST_SYSTEMD = 252
UNIT = "simplerd.service"
SOCKETS = ("simplerd.socket", "simplerd-admin.socket")
HIDDEN = (Path("/root"), Path("/home"))


def systemd(patient: Patient) -> Result:
    if not (patient.root / "run/systemd/system").is_dir():  # sd_booted(3)
        return skip("this host does not run systemd: nobody starts simplerd again when it dies")
    shown = patient.run("systemctl", "--version").stdout
    version = int(re.findall(r"\d+", shown)[0])
    if version >= LEAST_SYSTEMD:
        return ok(f"systemd {version}")
    return warn(f"systemd {version}", "Use systemd 252 or later: the units are written for it.")


def unit(patient: Patient) -> Result:
    facts = _show(patient, UNIT)
    state = f"{facts['ActiveState']} ({facts['SubState']})"
    if facts["LoadState"] == "not-found":
        return skip(f"there is no {UNIT}; `simplerctl service install` puts it in place")
    if facts["LoadState"] != "loaded":
        return fail(f"{UNIT}: {facts['LoadState']}", f"systemd-analyze verify {UNIT} says what is wrong with it.")
    if facts["ActiveState"] == "failed":
        again = "when it is mended: systemctl reset-failed 'simplerd*' && systemctl start simplerd"
        return fail(f"{UNIT} has failed: {facts['Result']}", f"journalctl -u {UNIT} -n 50 says why; {again}")
    if facts["ActiveState"] == "inactive":
        return warn(f"{UNIT} is {state}", "systemctl start simplerd; clients of its sockets start it too.")
    return ok(f"{UNIT} is {state}")


def unit_is_current(patient: Patient) -> Result:
    if _installed(patient)["NeedDaemonReload"] == "yes":
        return warn("its unit file has changed since systemd read it", "systemctl daemon-reload")
    return ok("systemd has read the unit file as it is")


def sockets(patient: Patient) -> Result:
    _installed(patient)
    states = {name: _show(patient, name)["ActiveState"] for name in SOCKETS}
    closed = [name for name, state in states.items() if state != "active"]
    if not closed:
        return ok(f"{' and '.join(SOCKETS)} listen")
    found = ", ".join(f"{name} is {states[name]}" for name in closed)
    return warn(found, f"systemctl start {' '.join(closed)}: clients are not refused while the daemon restarts.")


def enabled(patient: Patient) -> Result:
    state = _installed(patient)["UnitFileState"]
    if state in ("enabled", "static", "generated", "linked"):
        return ok(f"{UNIT} is {state}")
    return warn(f"{UNIT} is {state or 'not enabled'}", "systemctl enable simplerd: it is not started with the host.")


def restarts(patient: Patient) -> Result:
    count = int(_installed(patient)["NRestarts"])
    if count == 0:
        return ok("systemd did not have to start it again")
    return warn(
        f"systemd had to start it again; restarts so far: {count}",
        f"journalctl -u {UNIT} -p warning says why; `simplerctl bugreport` gathers what helps.",
    )


def watchdog(patient: Patient) -> Result:
    interval = _installed(patient)["WatchdogUSec"]
    if interval not in ("0", "infinity"):
        return ok(f"a daemon that hangs is replaced within {interval}")
    return warn("no watchdog", "Set WatchdogSec=30 in the unit: a daemon that hangs is replaced, sessions go on.")


def interpreter(patient: Patient) -> Result:
    facts = _installed(patient)
    command = Path(re.findall(r"path=(\S+)", facts["ExecStart"])[0]).resolve()
    hidden = [str(folder) for folder in HIDDEN if command.is_relative_to(folder)]
    if facts["ProtectHome"] == "no" or not hidden:
        return ok(f"it runs {command}")
    return fail(
        f"it runs {command}, but ProtectHome= hides {hidden[0]} from it",
        "Install simpler elsewhere (such as /opt/simpler), and `simplerctl service install` from there.",
    )


def _installed(patient: Patient) -> dict[str, str]:
    facts = _show(patient, UNIT)
    if facts["LoadState"] == "not-found":
        raise CannotTell(f"there is no {UNIT}")
    return facts


def _show(patient: Patient, name: str) -> dict[str, str]:
    """Of the system's unit or, where it has none, of this user's."""
    if not (patient.root / "run/systemd/system").is_dir():  # sd_booted(3)
        raise CannotTell("this host does not run systemd")
    facts = _properties(patient, name)
    if facts["LoadState"] == "not-found" and os.geteuid() != 0:
        with contextlib.suppress(CannotTell):  # this user has no service manager
            return _properties(patient, name, "--user")
    return facts


def _properties(patient: Patient, name: str, *scope: str) -> dict[str, str]:
    done = patient.run("systemctl", *scope, "show", name)
    if done.returncode:
        raise CannotTell(f"systemctl: {done.stderr.strip()}")
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


CHECKS = (
    Check("service.systemd", systemd),
    Check("service.unit", unit),
    Check("service.current", unit_is_current),
    Check("service.sockets", sockets),
    Check("service.enabled", enabled),
    Check("service.restarts", restarts),
    Check("service.watchdog", watchdog),
    Check("service.interpreter", interpreter),
)
