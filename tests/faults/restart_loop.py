"""Restarts of simplerd under a running job: ``python -m tests.faults.restart_loop --restarts 200``.

One program does task after task, another opens and closes sessions all the while, and the daemon is ended by SIGTERM,
which keeps its sessions, and by SIGKILL in turns. Exits with 1 when anything was lost, doubled or leaked.
"""

from __future__ import annotations

import argparse
import logging
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # by hand it is started from the top

from faults.numbered_program import NumberedProgram
from faults.restart_scene import KEEP, LOOK_S, RestartScene, until
from simpler.errors import ConnectError

MADE_ANEW = "was lost and made anew"
JOB_DEVICE = 0
PHASE_S = 0.2
"""About what it takes to open and close a session."""


@dataclass
class Stalls:
    """Seconds that each thing took. ``resuming``: from when a daemon is ended until the job's session is the next's."""

    tasks: list[float] = field(default_factory=list)
    opening: list[float] = field(default_factory=list)
    starting: list[float] = field(default_factory=list)
    resuming: list[float] = field(default_factory=list)

    def lines(self) -> list[str]:
        """One for each, with the median and the longest."""
        return [_line(name.strip("_"), sorted(times)) for name, times in vars(self).items()]


def _line(name: str, times: list[float]) -> str:
    median_ms, longest_ms = (1e3 * one for one in (times[len(times) // 2], times[-1]))
    return f"{name:>9}: {len(times):>7}, median {median_ms:8.1f} ms, longest {longest_ms:8.1f} ms"


class _Resumed(logging.Handler):
    """Counts the control connections that were made anew."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += MADE_ANEW in record.getMessage()


class RestartLoop:
    """``run`` it once."""

    def __init__(self, scene: RestartScene) -> None:
        self._scene = scene
        self._stopping = threading.Event()
        self._job = NumberedProgram(scene.daemon.endpoint, scene.folder, device_ids=[JOB_DEVICE])
        self._others: list[NumberedProgram] = []
        self._failures: list[BaseException] = []
        self._closed = 0
        self._random = random.Random(0)
        self.stalls = Stalls()

    def run(self, restarts: int) -> list[str]:
        """What went wrong, in words."""
        self._job.worker.init()
        work = [threading.Thread(target=self._keep, args=[one]) for one in (self._do_a_task, self._open_and_close)]
        for thread in work:
            thread.start()
        try:
            for number in range(restarts):
                self._restart(number)
        finally:
            self._stopping.set()
            for thread in work:
                thread.join()
            self._job.worker.close()
        self._scene.settle()
        return [*map(str, self._failures), *self._scene.problems(self._job, *self._others)]

    def _restart(self, number: int) -> None:
        self._scene.read_events()
        resumed = _Resumed()
        logging.getLogger("simpler.remote").addHandler(resumed)
        done, closed = len(self.stalls.tasks), self._closed
        since = time.monotonic()
        if number % 2:
            self._scene.daemon.kill()
        else:
            assert self._scene.daemon.stop(signal.SIGTERM) == 0
        self._scene.daemon.start_again()
        self.stalls.starting.append(time.monotonic() - since)
        until(lambda: resumed.count or self._failures, "the job's session is the next daemon's")
        self.stalls.resuming.append(time.monotonic() - since)
        logging.getLogger("simpler.remote").removeHandler(resumed)
        until(lambda: len(self.stalls.tasks) > done or self._failures, "a task is done")
        until(lambda: self._closed > closed or self._failures, "a session is closed")
        time.sleep(self._random.uniform(0, PHASE_S))  # so that restarts meet other steps of opening and closing

    def _keep(self, doing: Callable[[], None]) -> None:
        while not self._stopping.is_set() and not self._failures:
            try:
                doing()
            except BaseException as failure:
                self._failures.append(failure)

    def _do_a_task(self) -> None:
        since = time.monotonic()
        self._job.do()
        self.stalls.tasks.append(time.monotonic() - since)

    def _open_and_close(self) -> None:
        since = time.monotonic()
        while True:
            program = NumberedProgram(self._scene.daemon.endpoint, self._scene.folder)
            try:
                program.worker.init()
            except ConnectError:  # nobody listens: without systemd the sockets are the daemon's own
                time.sleep(LOOK_S)
            else:
                break
        self.stalls.opening.append(time.monotonic() - since)
        self._others.append(program)
        program.do()
        program.worker.close()
        self._closed += 1


def main() -> int:
    """The loop by hand, with what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--restarts", type=int, default=200)
    restarts: int = parser.parse_args().restarts
    with tempfile.TemporaryDirectory() as folder, RestartScene(Path(folder), KEEP) as scene:
        loop = RestartLoop(scene)
        problems = loop.run(restarts)
    print(f"{restarts} restarts", *loop.stalls.lines(), f"{len(problems)} problems", *problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
