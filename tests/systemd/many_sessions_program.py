"""A program for the tests of control groups: opens and closes as many sessions as it is told, several at a time."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import simpler
from simpler import RemoteWorkerSpec

AT_A_TIME = 4


def open_and_close(number: int) -> None:
    parent = simpler.Worker(level=4, name=f"p{number}")
    parent.add_remote_worker(RemoteWorkerSpec("unix:/run/simplerd/session.sock"))
    with parent:
        pass


def main() -> None:
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        for _ in threads.map(open_and_close, range(int(sys.argv[1]))):
            pass


if __name__ == "__main__":
    main()
