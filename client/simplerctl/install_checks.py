"""What was installed, and how it is configured: the package, the configuration file and the files of TLS."""

from __future__ import annotations

import importlib.metadata
import os
import re
import stat
import sys
import time
from pathlib import Path
from typing import Any

import tomli

from simplerctl.config_verbs import environ_for_file
from simplerctl.errors import AdminError
from simplerctl.examination import Check, Patient, Result, fail, ok, skip, warn

SYSTEM_CONFIG = Path("/etc/simplerd/simplerd.toml")
RENEW_DAYS = 30
_DAY_S = 86_400


def extension(patient: Patient) -> Result:
    done = patient.run(sys.executable, "-c", "import simpler._native")
    if done.returncode == 0:
        return ok("simpler._native can be loaded")
    why = done.stderr.strip().rpartition("\n")[2]
    return fail(f"simpler._native: {why}", "Install simpler again for this Python; in a checkout, `make native`.")


def dependencies(patient: Patient) -> Result:
    needed = [each for each in importlib.metadata.requires("simpler") or () if "extra ==" not in each]
    wanted = [re.split(r"[^\w.-]", each)[0] for each in needed]
    missing = [name for name in wanted if not _is_installed(name)]
    if not missing:
        return ok(f"all {len(wanted)} are there")
    return fail(f"not installed: {', '.join(missing)}", f"{sys.executable} -m pip install {' '.join(missing)}")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def versions(patient: Patient) -> Result:
    ours, its = importlib.metadata.version("simpler"), patient.ask("daemon.version")["simplerd"]
    if ours == its:
        return ok(f"simplerctl and simplerd are both {ours}")
    return warn(
        f"simplerd is {its}, simplerctl {ours}",
        "After an upgrade restart the daemon (`systemctl restart simplerd`); or use its own simplerctl.",
    )


def config_file(patient: Patient) -> Path | None:
    """The configuration file of the daemon, or the one that it would take; None when there is none."""
    try:
        named = str(patient.ask("daemon.status")["config"])
        return Path(named) if named.startswith("/") else None
    except AdminError:
        found = Path(os.environ.get("SIMPLERD_CONFIG") or SYSTEM_CONFIG)
        return found if found.exists() else None


def configuration(patient: Patient) -> Result:
    path = config_file(patient)
    if path is None:
        return ok("there is no file: the defaults hold")
    path.read_bytes()  # whether it may be read by this user is no problem of the file
    done = patient.run(sys.executable, "-m", "simplerd", "--config", path, "--check", environ=environ_for_file())
    if done.returncode == 0:
        return ok(f"{path} is good")
    problems = [line for line in done.stderr.splitlines() if line.startswith(str(path))] or [done.stderr.strip()]
    return fail("; ".join(problems), f"Mend {path}: the next start would fail, and so would `simplerctl reload`.")


def config_owner(patient: Patient) -> Result:
    path = config_file(patient)
    if path is None:
        return skip("there is no file")
    status = path.stat()
    if status.st_mode & stat.S_IWOTH or status.st_uid not in (0, os.geteuid()):
        return fail(
            f"{path} belongs to uid {status.st_uid} and has mode {stat.S_IMODE(status.st_mode):04o}",
            f"chown root {path} && chmod go-w {path}: who can write it decides what the daemon does.",
        )
    return ok(f"{path} is written by its owner only")


def insecure(patient: Patient) -> Result:
    if _section(patient, "tls").get("insecure_off") is not True:
        return ok("TCP beyond this host is for TLS only")
    return warn(
        "tls.insecure_off: whoever reaches the session port may run programs here",
        "Make certificates (`simplerctl tls issue host NAME`) and set tls.certificate, key and ca.",
    )


def certificate(patient: Patient) -> Result:
    path = _section(patient, "tls").get("certificate")
    if path is None:
        return skip("TLS is not configured")
    from cryptography import x509

    ends = x509.load_pem_x509_certificate(Path(path).read_bytes()).not_valid_after_utc
    days = (ends.timestamp() - time.time()) / _DAY_S
    renew = f"Issue it again (`simplerctl tls issue host NAME`) and copy it over {path}; no restart is needed."
    if days < 0:
        return fail(f"{path} ended on {ends:%Y-%m-%d}", renew)
    found = f"{path} is good until {ends:%Y-%m-%d}"
    return warn(found, renew) if days < RENEW_DAYS else ok(found)


def key(patient: Patient) -> Result:
    path = _section(patient, "tls").get("key")
    if path is None:
        return skip("TLS is not configured")
    mode = Path(path).stat().st_mode
    if mode & (stat.S_IRWXO | stat.S_IRWXG):
        return fail(
            f"{path} has mode {stat.S_IMODE(mode):04o}", f"chmod 600 {path}: who reads it can pass for this host."
        )
    return ok(f"{path} is for its owner only")


def _section(patient: Patient, name: str) -> dict[str, Any]:
    path = config_file(patient)
    section = tomli.loads(path.read_text()).get(name, {}) if path else {}
    return section if isinstance(section, dict) else {}


CHECKS = (
    Check("install.extension", extension),
    Check("install.dependencies", dependencies),
    Check("install.versions", versions),
    Check("config.file", configuration),
    Check("config.owner", config_owner),
    Check("config.insecure", insecure),
    Check("tls.certificate", certificate),
    Check("tls.key", key),
)
