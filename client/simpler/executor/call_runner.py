"""The worker's side of an executor: what a worker process runs for each call."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from simpler.args import ReceivedArgs
from simpler.errors import ArgumentError, TaskError
from simpler.executor.call_record import OpenedCall, encode_outcome, open_call
from simpler.executor.metrics import CallMetrics
from simpler.result_record import EncodedResult, Parts
from simpler.user_traceback import user_traceback

INITIALIZER_FAILED = "INITIALIZER_FAILED"
"""The code of the TaskError of each task in a process whose initializer raised."""


class RunnerConfig(NamedTuple):
    """What the workers of one executor are told.

    ``name``: the executor's. ``initializer``: a pickle of the function and its arguments, or b"". ``folder``: where
    large results and captured output go (mode 0700, the user's own), or None.
    """

    name: str = "executor"
    initializer: bytes = b""
    folder: str | None = None

    @classmethod
    def of(
        cls,
        *,
        name: str = "executor",
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        folder: str | None = None,
    ) -> RunnerConfig:
        """With the initializer pickled. Raises ArgumentError when it or its arguments cannot be."""
        if initializer is None:
            return cls(name, b"", folder)
        import cloudpickle

        try:
            pickled = bytes(cloudpickle.dumps((initializer, tuple(initargs))))
        except Exception as error:  # any class may refuse in any way
            raise ArgumentError(f"initializer={initializer!r} or its initargs cannot be pickled: {error}") from error
        return cls(name, pickled, folder)


class CallRunner:
    """Runs calls: a SUB callable that is registered once for each executor."""

    def __init__(self, config: RunnerConfig) -> None:
        self._config = config
        self._is_begun = False

    def __reduce__(self) -> tuple[Any, ...]:
        return CallRunner, (self._config,)

    def __call__(self, args: ReceivedArgs) -> EncodedResult:
        """Runs the call in scalar 0, and gives its outcome's record."""
        record = args.scalar(0)
        assert isinstance(record, bytes)
        return EncodedResult(self.run(record))

    def run(self, record: bytes | memoryview) -> Parts:
        """Runs the call of ``record``; its outcome's record. Raises TaskError INITIALIZER_FAILED."""
        if not self._is_begun:
            self._begin()
        return _run(open_call(record))

    def _begin(self) -> None:
        if self._config.initializer:
            _initialize(self._config.initializer)
        self._is_begun = True


def _initialize(pickled: bytes) -> None:
    import cloudpickle

    try:
        initializer, initargs = cloudpickle.loads(pickled)
        initializer(*initargs)
    except BaseException as error:
        text = user_traceback(error)
        failed = TaskError(
            f"the executor's initializer failed in {os.environ.get('SIMPLER_WORKER_ID', '')} (pid {os.getpid()} on "
            f"{socket.gethostname()}):\n{text}",
            code=INITIALIZER_FAILED,
        )
        failed.remote_traceback = text
        raise failed from error


def _run(call: OpenedCall) -> Parts:
    started, begun, used = time.time(), time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    value: object = None
    error: BaseException | None = None
    is_chunk = False
    try:
        fn, args, kwargs, is_chunk = call.load()
        if is_chunk:
            value = values = []
            for item in args:
                values.append(fn(*item))
        else:
            value = fn(*args, **kwargs)
    except BaseException as raised:
        error = raised
    now = resource.getrusage(resource.RUSAGE_SELF)
    metrics = CallMetrics(
        started,
        time.time(),
        time.perf_counter() - begun,
        now.ru_utime - used.ru_utime,
        now.ru_stime - used.ru_stime,
        now.ru_maxrss << 10,
        os.getpid(),
        os.environ.get("SIMPLER_WORKER_ID", ""),
        socket.gethostname(),
    )
    return encode_outcome(value, error, metrics, is_chunk=is_chunk)
