"""What the daemon says of itself, and whether its sockets are what they should be."""

from __future__ import annotations

import errno
import socket
import stat
import time
from typing import TYPE_CHECKING, Any

from simplerctl.errors import AdminError, NoDaemon, NotPermitted
from simplerctl.examination import Check, Patient, Result, fail, ok, skip, warn

if TYPE_CHECKING:
    from simpler.wire.endpoint import Endpoint

SLOW_ANSWER_S = 0.5
SLOW_PASS_S = "0.3"
SLOW_SHARE = 0.01
HIGH_USE = 0.9
RECENT_S = 3600
CONNECT_TIMEOUT_S = 2.0


def reachable(patient: Patient) -> Result:
    try:
        status = patient.ask("daemon.status")
    except NotPermitted as error:
        return fail(error.message, f"Join the group of {patient.socket} (`ls -l` shows it), or use sudo.")
    except NoDaemon as error:
        return fail(error.message, "systemctl start simplerd; or name its socket with --socket.")
    except AdminError as error:
        return fail(error.message, "systemctl restart simplerd, if its watchdog does not; sessions go on.")
    return ok(f"process {status['pid']} answers at {patient.socket}")


def answers_in_time(patient: Patient) -> Result:
    begun = time.monotonic()
    patient.ask("rpc.discover")
    took_s = time.monotonic() - begun
    found = f"it answered within {took_s:.3f} s"
    if took_s < SLOW_ANSWER_S:
        return ok(found)
    return warn(found, "See who keeps the host busy (`top`), or whether it swaps (`vmstat 1`).")


def state(patient: Patient) -> Result:
    now = patient.ask("daemon.status")["state"]
    if now == "serving":
        return ok("it takes new sessions")
    if now in ("draining", "drained"):
        return warn(f"it is {now}: new sessions are refused", "simplerctl undrain, when that is over.")
    return warn(f"it is {now}", "Wait for it (`simplerctl wait --for ready`).")


def socket_mode(patient: Patient) -> Result:
    if not patient.socket.exists():
        return skip(f"there is no {patient.socket}")
    status = patient.socket.stat()
    mode = f"{patient.socket} has mode {stat.S_IMODE(status.st_mode):04o}"
    if status.st_mode & stat.S_IWOTH:
        return fail(mode, f"chmod o-w {patient.socket}, and SocketMode=0660 in its unit: every user may operate it.")
    folder = patient.socket.parent.stat()
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        return fail(f"{patient.socket.parent} can be written by all", f"chmod o-w {patient.socket.parent}")
    return ok(mode)


def session_sockets(patient: Patient) -> Result:
    from simpler.wire.endpoint import parse_endpoint  # trio comes with it, and takes its time

    endpoints = patient.ask("daemon.status")["endpoints"]
    problems = [f"{endpoint}: {why}" for endpoint in endpoints if (why := _unreachable(parse_endpoint(endpoint)))]
    if not problems:
        return ok(f"{', '.join(endpoints)} can be connected to")
    return fail("; ".join(problems), "Restart the daemon (sessions go on); programs cannot open sessions meanwhile.")


def _unreachable(at: Endpoint) -> str | None:
    family = socket.AF_UNIX if at.is_unix else socket.AF_INET6 if ":" in at.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT_S)
        try:
            probe.connect(at.path if at.is_unix else (at.host, at.port))
        except OSError as error:
            may_not = error.errno in (errno.EACCES, errno.EPERM)  # which is as it should be for who is not in the group
            return None if may_not else error.strerror or str(error)
    return None


def capacity(patient: Patient) -> Result:
    status = patient.ask("daemon.status")
    found = f"{status['sessions']} of {status['max_sessions']} sessions"
    if status["sessions"] < status["max_sessions"] * HIGH_USE:
        return ok(found)
    return warn(found, "Close some (`simplerctl session list`), or raise limits.max_sessions and `simplerctl reload`.")


def devices(patient: Patient) -> Result:
    every: list[dict[str, Any]] = patient.ask("device.list")
    if not every:
        return warn("this host has no devices", "Name them in [devices] ids, then restart the daemon.")
    out = [f"device {each['device']} is {each['state']}" for each in every if each["state"] not in ("free", "leased")]
    if not out:
        return ok(f"all {len(every)} are free or leased")
    return warn(
        ", ".join(out), "simplerctl device show N says why; simplerctl device undrain N takes it into use again."
    )


def failures(patient: Patient) -> Result:
    since = time.time() - RECENT_S
    died = [each for each in patient.ask("session.list", all=True) if each["state"] == "failed"]
    recent = [each for each in died if (each.get("ended_at") or each["opened_at"]) >= since]
    if not recent:
        return ok("no session failed in the last hour")
    last = recent[-1]
    return warn(
        f"{len(recent)} sessions failed in the last hour; the last, {last['id']}: {last['cause']}",
        f"simplerctl session show {last['id']} has the whole cause and its last lines.",
    )


def silent(patient: Patient) -> Result:
    stuck = [each["session"] for each in patient.ask("session.activity") if not each["answered"]]
    if not stuck:
        return ok("every session says what it does")
    return warn(
        f"no answer from the runner of {', '.join(stuck)}",
        f"Code that holds its interpreter, or SIGSTOP? `simplerctl session kill {stuck[0]}` ends one for good.",
    )


def skew(patient: Patient) -> Result:
    ours = patient.ask("daemon.version")["simplerd"]
    others = [each for each in patient.ask("session.list") if each.get("version", ours) != ours]
    if not others:
        return ok(f"all sessions are of release {ours}")
    named = ", ".join(f"{each['id']} ({each['version']})" for each in others)
    return warn(f"sessions of another release than {ours}: {named}", "Let their programs end, and open them anew.")


def descriptors(patient: Patient) -> Result:
    values = _metrics(patient)
    used, most = values["process_open_fds"], values["process_max_fds"]
    found = f"{used:.0f} of {most:.0f} descriptors are in use"
    if used < most * HIGH_USE:
        return ok(found)
    return warn(found, "Raise LimitNOFILE= in the unit, or close sessions.")


def loop(patient: Patient) -> Result:
    values = _metrics(patient)
    passes = values["simplerd_loop_pass_seconds_count"]
    slow = passes - values[f"simplerd_loop_pass_seconds_bucket {SLOW_PASS_S}"]
    found = f"its loop took longer than {SLOW_PASS_S} s in {slow:.0f} of {passes:.0f} passes"
    if slow <= passes * SLOW_SHARE:
        return ok(found)
    return warn(found, "The host is overloaded or swaps: fewer workers per session, or limits.session_cpu_weight.")


def _metrics(patient: Patient) -> dict[str, float]:
    """By name and, where there are labels, their values."""
    from prometheus_client.parser import text_string_to_metric_families

    families = list(text_string_to_metric_families(patient.ask("metrics.get")["text"]))
    return {" ".join([each.name, *each.labels.values()]): each.value for family in families for each in family.samples}


def settings(patient: Patient) -> Result:
    waiting = _metrics(patient)["simplerd_settings_waiting"]
    if not waiting:
        return ok("what the file said when it was last read is in force")
    found = f"settings of the configuration file that wait for a restart: {waiting:.0f}"
    return warn(found, "systemctl restart simplerd (sessions go on); `simplerctl reload` names them.")


def resource_control(patient: Patient) -> Result:
    control = patient.ask("daemon.status")["resource_control"]
    if not control["reason"]:
        return ok(f"the kernel keeps {', '.join(control['kernel'])}")
    polled = f"; looked at every second: {', '.join(control['polled'])}" if control["polled"] else ""
    ignored = f"; not kept: {', '.join(control['ignored'])}" if control["ignored"] else ""
    return warn(
        f"{control['reason']}{polled}{ignored}",
        "For limits that always hold run it as the service of systemd, on a host with cgroup v2.",
    )


CHECKS = (
    Check("daemon.reachable", reachable),
    Check("daemon.answers", answers_in_time),
    Check("daemon.state", state),
    Check("daemon.socket", socket_mode),
    Check("daemon.endpoints", session_sockets),
    Check("daemon.capacity", capacity),
    Check("daemon.devices", devices),
    Check("daemon.failures", failures),
    Check("daemon.silent", silent),
    Check("daemon.skew", skew),
    Check("daemon.descriptors", descriptors),
    Check("daemon.loop", loop),
    Check("daemon.settings", settings),
    Check("daemon.limits", resource_control),
)
