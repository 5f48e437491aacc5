"""What simplerd needs of the host: its kernel, memory, processes, control groups, disks and clock."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import re
import shutil
import sys
from pathlib import Path

from simplerctl.examination import Check, Patient, Result, fail, ok, skip, warn

LEAST_PYTHON = (3, 11)
LEAST_KERNEL = (5, 15)
ARCHITECTURES = ("x86_64", "aarch64")
LOW_MEMORY, NO_MEMORY = 0.10, 0.02
LOW_DISK, NO_DISK = 0.10, 0.01
HIGH_PROCESSES = 0.8
TIME_ERROR, TIMEX_BYTES = 5, 512
"""What adjtimex(2) returns for a clock that nobody keeps right; more than its struct has."""
_MIB = 1 << 20


def python(patient: Patient) -> Result:
    running = platform.python_version()
    if sys.version_info >= LEAST_PYTHON:
        return ok(f"Python {running}")
    return fail(f"Python {running}", "Install Python 3.11 or later, and simpler for it.")


def kernel(patient: Patient) -> Result:
    release = patient.read("proc/sys/kernel/osrelease").strip()
    version = tuple(map(int, re.findall(r"\d+", release)[:2]))
    if version >= LEAST_KERNEL:
        return ok(f"Linux {release}")
    return fail(f"Linux {release}", "Boot Linux 5.15 or later: pidfds, sealed memfds and close_range are needed.")


def architecture(patient: Patient) -> Result:
    machine = platform.machine()
    if machine in ARCHITECTURES:
        return ok(machine)
    return warn(machine, f"Use a host with {' or '.join(ARCHITECTURES)}: simpler is tried on no other.")


def pidfd(patient: Patient) -> Result:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return fail(f"pidfd_open: {error.strerror}", "Let the sandbox or container allow pidfd_open(2).")
    return ok("processes can be held by descriptor")


def memfd(patient: Patient) -> Result:
    try:
        fd = os.memfd_create("doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        return fail(f"memfd_create: {error.strerror}", "Let the sandbox or container allow memfd_create(2).")
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except OSError as error:
        return fail(f"F_ADD_SEALS: {error.strerror}", "Let the sandbox or container allow fcntl(2) with F_ADD_SEALS.")
    finally:
        os.close(fd)
    return ok("shared memory can be made and sealed")


def memory(patient: Patient) -> Result:
    facts = dict(re.findall(r"^(\w+):\s+(\d+) kB$", patient.read("proc/meminfo"), re.MULTILINE))
    total, available = int(facts["MemTotal"]) << 10, int(facts["MemAvailable"]) << 10
    found = f"{available // _MIB:,} of {total // _MIB:,} MiB are available"
    fix = "Close sessions that are not needed (`simplerctl top` shows their heaps), or give the host more memory."
    if available < total * NO_MEMORY:
        return fail(found, fix)
    return warn(found, fix) if available < total * LOW_MEMORY else ok(found)


def overcommit(patient: Patient) -> Result:
    if patient.read("proc/sys/vm/overcommit_memory").strip() != "2":
        return ok("heaps take memory as they are used")
    return warn(
        "vm.overcommit_memory is 2: a heap takes its whole size at once",
        "Set vm.overcommit_memory=0 in /etc/sysctl.d, or give sessions small heaps (heap_bytes).",
    )


def processes(patient: Patient) -> Result:
    running = int(patient.read("proc/loadavg").split()[3].partition("/")[2])
    limits = {name: int(patient.read(f"proc/sys/kernel/{name}")) for name in ("pid_max", "threads-max")}
    name, most = min(limits.items(), key=lambda each: each[1])
    found = f"{running:,} processes and threads of at most {most:,}"
    if running < most * HIGH_PROCESSES:
        return ok(found)
    return warn(found, f"Raise kernel.{name} in /etc/sysctl.d, or find out who has so many (`ps -eLf`).")


def control_groups(patient: Patient) -> Result:
    try:
        controllers = set(patient.read("sys/fs/cgroup/cgroup.controllers").split())
    except FileNotFoundError:
        return warn(
            "no unified hierarchy (cgroup v2) at /sys/fs/cgroup",
            "Boot with systemd.unified_cgroup_hierarchy=1: until then the kernel applies no limits to sessions.",
        )
    missing = sorted({"memory", "pids", "cpu"} - controllers)
    if not missing:
        return ok("cgroup v2 with memory, pids and cpu")
    return warn(
        f"cgroup v2 without {', '.join(missing)}",
        f"Enable {', '.join(missing)} (on some hosts: boot with cgroup_no_v1=all) for the kernel to apply limits.",
    )


def disk(patient: Patient) -> Result:
    full: list[tuple[float, str]] = []
    for folder in {patient.socket.parent, Path("/var/lib/simplerd"), Path("/tmp")}:
        at = patient.root / folder.relative_to("/")
        if at.is_dir():
            space, nodes = shutil.disk_usage(at), os.statvfs(at)
            free = min(space.free / space.total, nodes.f_favail / nodes.f_files if nodes.f_files else 1.0)
            full.append((free, f"{folder} has {free:.0%} free"))
    if not full:
        return skip("none of simplerd's folders is there")
    free, found = min(full)
    fix = "Make room there (files or inodes), or move daemon.runtime_dir and daemon.state_dir to another file system."
    if free < NO_DISK:
        return fail(found, fix)
    return warn(found, fix) if free < LOW_DISK else ok(found)


def clock(patient: Patient) -> Result:
    # Nothing is set with modes = 0, the first word; timedatectl would start a service to say the same.
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    if state < 0:
        return skip(f"adjtimex: {os.strerror(ctypes.get_errno())}")
    if state != TIME_ERROR:
        return ok("synchronized")
    return warn(
        "the clock is not synchronized",
        "Start a time service (`timedatectl set-ntp true`): certificates and the times of events need it.",
    )


CHECKS = (
    Check("host.python", python),
    Check("host.kernel", kernel),
    Check("host.architecture", architecture),
    Check("host.pidfd", pidfd),
    Check("host.memfd", memfd),
    Check("host.memory", memory),
    Check("host.overcommit", overcommit),
    Check("host.processes", processes),
    Check("host.cgroup", control_groups),
    Check("host.disk", disk),
    Check("host.clock", clock),
)
