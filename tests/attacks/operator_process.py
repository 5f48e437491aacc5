"""An operator who asks ``daemon.status`` again and again, each time on a new connection: a process of its own.

Arguments: the admin socket and the daemon's pid. A byte on standard input starts it, the next has it print what it saw
as one line of JSON: how often it asked, the longest wait, and what went wrong.

A wait is counted without the time in which daemon and operator were ready to run and the machine did not let them,
which the kernel tells (/proc/PID/schedstat, Documentation/scheduler/sched-stats.rst): so a loaded machine is not taken
for a daemon that is held up.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from pathlib import Path

PAUSE_S = 0.02
TIMEOUT_S = 10.0
CALL = b'{"jsonrpc":"2.0","id":1,"method":"daemon.status"}\n'


def waited_to_run_s(*pids: str) -> float:
    total = 0
    for pid in pids:
        total += int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    return total / 1e9


def ask(path: str, daemon: str) -> float:
    """Seconds from connecting to the whole answer."""
    queued, began = waited_to_run_s(daemon, "self"), time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(path)
        connection.sendall(CALL)
        received = b""
        while not received.endswith(b"\n"):
            piece = connection.recv(65536)
            if not piece:
                raise ConnectionError("the daemon hung up")
            received += piece
    took_s = time.monotonic() - began
    if "result" not in json.loads(received):
        raise ConnectionError(received.decode())
    return max(0.0, took_s - (waited_to_run_s(daemon, "self") - queued))


def watch(path: str, daemon: str) -> dict[str, object]:
    """Asks until a byte comes on standard input, and at least once."""
    asked, worst_s, wrong = 0, 0.0, ""
    while True:
        try:
            worst_s = max(worst_s, ask(path, daemon))
        except OSError as error:
            wrong = wrong or f"{type(error).__name__}: {error}"
        asked += 1
        if select.select([0], [], [], PAUSE_S)[0]:
            os.read(0, 1)
            return {"asked": asked, "worst_s": worst_s, "wrong": wrong}


if __name__ == "__main__":
    while os.read(0, 1):
        print(json.dumps(watch(*sys.argv[1:])), flush=True)
