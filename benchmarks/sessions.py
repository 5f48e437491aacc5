"""Sessions at a daemon: how soon one is ready, and what one costs that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measurement import Result, Samples
from benchmarks.processors import process_tree
from benchmarks.remote_tasks import free_endpoint
from simpler import RemoteWorkerSpec, TlsConfig, Worker
from simplerctl.authority import Authority
from simplerd.foreground import ForegroundDaemon

OPENS = 20
PROCESSES = 5
IDLE_S = 10.0
IDLE_REPEATS = 3
SUB_WORKERS = 2
MILLISECONDS = 1e3
RUNNER_IMPORTS = "trio, msgpack, msgspec, cloudpickle, numpy, simpler.worker, simplerd.runner.main"


def measure() -> Iterator[Result]:
    """The rows, as they come."""
    with ForegroundDaemon() as daemon:
        _open_and_close(daemon.endpoint)  # the first one finds the daemon's spawner still importing
        opening = Samples([_open_and_close(daemon.endpoint) * MILLISECONDS for _ in range(OPENS)])
        process = Samples.of_calls(_start_python, PROCESSES, scale=MILLISECONDS)
        yield Result(
            "session open at a warm daemon, to READY (1 chip, 2 SUB)",
            "ms",
            60,
            opening,
            others={"Python process": process},
        )
        yield from _opening_by_tls()
        with _worker(daemon.endpoint):
            idle = Samples([_idle_percent(daemon.pid) for _ in range(IDLE_REPEATS)])
        yield Result(f"idle daemon with one idle session, over {IDLE_S:.0f} s", "% of a core", 0.1, idle)


def _opening_by_tls() -> Iterator[Result]:
    """As above, over loopback TCP with certificates on both sides, for the lanes too."""
    with tempfile.TemporaryDirectory() as folder:
        authority, endpoint = Authority.make(Path(folder) / "authority"), free_endpoint()
        host = authority.issue("host", "bench", ["127.0.0.1"], days=1)
        client = TlsConfig.from_folder(authority.issue("client", "bench", days=1))
        config = Path(folder) / "simplerd.toml"
        names = {"certificate": "certificate.pem", "key": "key.pem", "ca": "ca.pem"}
        config.write_text("[tls]\n" + "".join(f'{key} = "{host / name}"\n' for key, name in names.items()))
        with ForegroundDaemon("--config", str(config), "--listen", endpoint):
            _open_and_close(endpoint, client)
            opening = Samples([_open_and_close(endpoint, client) * MILLISECONDS for _ in range(OPENS)])
    yield Result("    by TCP and TLS", "ms", 80, opening)


def _worker(endpoint: str, tls: TlsConfig | None = None) -> Worker:
    worker = Worker(4, name="bench")
    worker.add_remote_worker(RemoteWorkerSpec(endpoint, device_ids=(0,), num_sub_workers=SUB_WORKERS, tls=tls))
    return worker


def _open_and_close(endpoint: str, tls: TlsConfig | None = None) -> float:
    """Seconds until the session was ready."""
    worker = _worker(endpoint, tls)
    began = time.perf_counter()
    with worker:
        return time.perf_counter() - began


def _start_python() -> None:
    subprocess.run([sys.executable, "-c", f"import {RUNNER_IMPORTS}"], check=True)


def _idle_percent(daemon: int) -> float:
    """How busy the daemon, its session and its client are while nothing happens."""
    before, began = cpu_ns(daemon), time.perf_counter_ns()
    threading.Event().wait(IDLE_S)
    return 100 * (cpu_ns(daemon) - before) / (time.perf_counter_ns() - began)


def cpu_ns(daemon: int) -> int:
    """CPU time so far of the daemon, all its descendants and this process's other threads."""
    tasks = [task for pid in process_tree(daemon) for task in Path(f"/proc/{pid}/task").iterdir()]
    tasks += [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
