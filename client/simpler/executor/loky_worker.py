"""A worker process of loky's: what the program knows of it, and what it runs.

Each has a loky executor of its own with one process, so that a death costs the call it held and no other.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import loky
import loky.process_executor

from simpler.child_process import die_with_parent
from simpler.error_record import encode_error
from simpler.errors import TaskError
from simpler.executor.in_worker.call_runner import CallRunner, RunnerConfig

Reply = tuple[bool, bytes]
"""Whether the call ran, and the record of its outcome; else of the error that kept it from running."""


class LokyWorker:
    """One process. All methods are the dispatching thread's, which lives longer than the process."""

    def __init__(self, name: str, config: RunnerConfig, environment: Mapping[str, str]) -> None:
        self.name = name
        self.pid = 0
        """0 until it has begun."""
        self._pidfd = -1
        # loky adds to this process's environment; emptied at least, what is not wanted is in no process's record of how
        # it began (/proc/PID/environ), and the process itself unsets it.
        unwanted = dict.fromkeys(os.environ.keys() - environment.keys(), "")
        self._executor = loky.ProcessPoolExecutor(
            1,
            timeout=None,  # it stays when it has nothing to do
            initializer=_begin,
            initargs=(config, os.getpid(), tuple(unwanted)),
            env={**unwanted, **environment, "SIMPLER_WORKER_ID": name},
        )

    def start(self) -> Future[int]:
        """Starts it. The future has its pid once it can be given calls; ``begun`` is to be called with that."""
        return self._executor.submit(os.getpid)  # type: ignore[no-any-return]

    def begun(self, pid: int) -> None:
        """It waits for calls. Raises ProcessLookupError when it has ended since."""
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid

    def run(self, record: bytes) -> Future[Reply]:
        """Gives it a call. Raises what loky raises when it has ended since the last one."""
        return self._executor.submit(_run, record)  # type: ignore[no-any-return]

    def kill(self) -> None:
        """Ends it at once, whatever it does; the future of its call then says that it ended."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Ends it once it has nothing to do, and waits for that."""
        self._executor.shutdown(wait=True)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


_runner: CallRunner | None = None


def _begin(config: RunnerConfig, parent: int, unwanted: Sequence[str]) -> None:
    """In the process, before its first call."""
    global _runner
    die_with_parent(parent)
    for name in unwanted:
        os.environ.pop(name, None)
    # loky would replace a process that has grown, between two calls and unseen; the one who kills has to know it.
    loky.process_executor._USE_PSUTIL = False
    _runner = CallRunner(config)


def _run(record: bytes) -> Reply:
    assert _runner is not None, "loky calls the initializer first"
    try:
        return True, b"".join(_runner.run(record))
    except TaskError as error:
        return False, encode_error(error)
