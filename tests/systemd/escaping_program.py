"""A program for the tests of control groups: its session starts a process that nothing but its group leads to.

That is in a session of its own (setsid(2)), its parent has ended, and it has another standard input. Prints its process
id, and waits for a line on stdin before it closes.
"""

from __future__ import annotations

import subprocess
import sys

import simpler
from simpler import RemoteWorkerSpec


def escape(orch: simpler.Orchestrator, args: object, config: object = None) -> int:
    script = "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!"
    started = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True)
    return int(started.stdout)


def main() -> None:
    parent = simpler.Worker(level=4)
    session = parent.add_remote_worker(RemoteWorkerSpec("unix:/run/simplerd/session.sock"))
    function = parent.register(escape)
    with parent:
        run = parent.run(lambda orch, args, config: orch.submit_next_level(function, worker=session))
        print(run.result(), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main()
