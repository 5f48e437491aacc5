"""Runs as root in a machine with cgroup v2 (sdvm): limits of sessions, as the kernel keeps them for the service.

`limits_job.py DESTDIR`: where `make install` has put everything. Ends with 0 when all is as it must be.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import simpler
from simpler import RemoteWorkerSpec, SimplerError, TaskArgs

MIB = 1 << 20
MEMORY_BYTES = 160 * MIB
PATIENCE_S = 600.0
"""An emulated machine is slow."""
SERVICE = "simplerd.service"
ENDPOINT = "unix:/run/simplerd/session.sock"
CONFIG = f"""
[limits]
open_timeout_s = {PATIENCE_S}
attach_timeout_s = {PATIENCE_S}
lost_client_grace_s = {PATIENCE_S}
session_memory_bytes = {MEMORY_BYTES}
session_processes = 40
session_cpu_weight = 50
"""
CHECKOUT = Path(__file__).resolve().parents[2]


def run(*words: object) -> str:
    return subprocess.run([str(word) for word in words], check=True, stdout=subprocess.PIPE, text=True).stdout


def install(tree: Path) -> None:
    """What a package does after its files are there."""
    Path("/run/checkout").mkdir()
    run("mount", "--bind", CHECKOUT, "/run/checkout")
    run("mount", "--bind", tree / "usr/local", "/usr/local")
    run("systemd-sysusers", "simplerd.conf")
    run("systemd-tmpfiles", "--create", "simplerd.conf")
    Path("/etc/simplerd").mkdir(exist_ok=True)
    Path("/etc/simplerd/simplerd.toml").write_text(CONFIG)
    slow = Path("/etc/systemd/system/simplerd.service.d/slow.conf")
    slow.parent.mkdir()
    slow.write_text(f"[Service]\nTimeoutStartSec={PATIENCE_S:g}\nWatchdogSec={PATIENCE_S:g}\n")
    run("systemctl", "daemon-reload")
    # An emulated machine reads files slowly, the first time; simplerd does not wait that long for its spawner.
    run("/run/checkout/.venv/bin/python", "-c", "import simplerd.runner.main, simpler.sub_worker, numpy, cloudpickle")
    run("systemctl", "start", SERVICE)


def show(name: str) -> str:
    return run("systemctl", "show", "--value", "-p", name, SERVICE).strip()


def group_of(session: str) -> Path:
    return Path(f"/sys/fs/cgroup{show('ControlGroup')}") / session


def sessions() -> list[dict[str, Any]]:
    return list(json.loads(run("simplerctl", "session", "list", "--all", "--format", "json")))


def limited(name: str) -> list[dict[str, Any]]:
    """The fields of the events that say what a session was refused."""
    lines = run("simplerctl", "events", "--after", "0", "--type", "session.limited", "--format", "json").splitlines()
    return [event["fields"] for line in lines if (event := json.loads(line))["fields"]["limit"] == name]


# ---- what runs in the session


def hold_memory(args: Any) -> int:
    return len(bytearray(b"x") * (args.scalar(0) << 20))


def start_processes(args: Any) -> int:
    """How many may be started before the kernel refuses one more."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        while len(started) < 200:
            started.append(subprocess.Popen(["sleep", "1000"]))
    except BlockingIOError:
        return len(started)
    finally:
        for process in started:
            process.kill()
            process.wait()
    return -1


def in_sub(orch: simpler.Orchestrator, args: Any, config: object = None) -> simpler.TaskRef:
    return orch.submit_sub(args.scalar(0), TaskArgs().add_scalar(args.scalar(1)))


def in_runner(orch: simpler.Orchestrator, args: Any, config: object = None) -> int:
    return len(bytearray(b"x") * (args.scalar(0) << 20))


# ---- what is checked


class Program:
    """A program with one session, which has one sub-worker."""

    def __init__(self) -> None:
        self.parent = simpler.Worker(level=4, startup_timeout_s=PATIENCE_S)
        self.at = self.parent.add_remote_worker(RemoteWorkerSpec(ENDPOINT, num_sub_workers=1))
        self.functions = {
            f.__name__: self.parent.register(f) for f in (hold_memory, start_processes, in_sub, in_runner)
        }
        self.parent.init()
        (self.session,) = [one["id"] for one in sessions() if one["state"] == "ready"]

    def sub(self, name: str, number: int = 0) -> Any:
        args = TaskArgs().add_scalar(self.functions[name].hashid).add_scalar(number)
        return self.call("in_sub", args)

    def call(self, name: str, args: TaskArgs) -> Any:
        handle = self.functions[name]
        return self.parent.run(lambda orch, a, c: orch.submit_next_level(handle, args, worker=self.at)).result()


def wait_for(what: str, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.5)
    check(what, is_so())


def check(what: str, is_so: object) -> None:
    print("ok:" if is_so else "NOT SO:", what, flush=True)
    if not is_so:
        raise SystemExit(1)


def error_of(call: Callable[[], object]) -> SimplerError:
    try:
        call()
    except SimplerError as error:
        return error
    raise SystemExit("NOT SO: it raised nothing")


def limits_are_set(session: str) -> bool:
    files = [group_of(session) / name for name in ("memory.max", "pids.max", "cpu.weight")]
    found = {file.name: file.read_text().strip() if file.exists() else None for file in files}
    print(found)
    return found == {"memory.max": str(MEMORY_BYTES), "pids.max": "40", "cpu.weight": "50"}


def check_told(name: str, at: int) -> None:
    wait_for(f"the operator is told of {name}", lambda: bool(limited(name)))
    told = limited(name)[0]
    check("and which setting it is", (told["at"], told["setting"]) == (at, f"limits.session_{name} of this host"))


def check_worker_without_memory(program: Program) -> None:
    died = error_of(lambda: program.sub("hold_memory", 300))
    print(died)
    check("a worker that has too much memory dies", isinstance(died, simpler.WorkerDied))
    check("it is told why", f"out of memory: yes (its control group {program.session} may have 160 MiB)" in str(died))
    check("its session goes on", program.sub("hold_memory", 1) == MIB)
    check_told("memory_bytes", MEMORY_BYTES)


def check_processes(program: Program) -> None:
    count = program.sub("start_processes")
    check(f"no more processes are started than may be ({count})", 20 < count < 40)
    check_told("processes", 40)


def check_restarts(program: Program) -> None:
    for number, command in enumerate((("kill", "-KILL", show("MainPID")), ("systemctl", "restart", SERVICE))):
        was = show("MainPID")
        run(*command)
        wait_for(
            f"the daemon is there again after {command[0]}",
            lambda was=was: show("MainPID") not in (was, "0") and show("SubState") == "running",  # type: ignore[misc]
        )
        check("and did not fail before", show("NRestarts") == str(1 - number))
        check("and gives the session its limits again", limits_are_set(program.session))
        check("which goes on", program.sub("hold_memory", 1) == MIB)


def check_runner_without_memory(program: Program) -> None:
    lost = error_of(lambda: program.call("in_runner", TaskArgs().add_scalar(300)))
    print(lost)
    words = "out of memory: yes (its limit of 160 MiB: limits.session_memory_bytes of this host)"
    check("a session whose runner has too much memory is lost", isinstance(lost, simpler.SessionLost))
    # The program itself waits 2 s for the reason, which this machine may need longer for.
    wait_for(
        "it is kept why",
        lambda: any(words in (one["cause"] or "") for one in sessions() if one["id"] == program.session),
    )
    program.parent.close()
    wait_for("nothing is left of it", lambda: not group_of(program.session).exists())


def main() -> None:
    install(Path(sys.argv[1]))
    kept = "the kernel keeps: cpu_weight, memory_bytes, processes"
    check("the kernel keeps all limits", kept in run("simplerctl", "status"))
    program = Program()
    check("the limits of a session are set", limits_are_set(program.session))
    check_worker_without_memory(program)
    check_processes(program)
    check_restarts(program)
    check_runner_without_memory(program)


if __name__ == "__main__":
    main()
