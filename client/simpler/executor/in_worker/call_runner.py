"""The worker's side of an executor: what a worker process runs for each call.

The order is fixed: a call's options are in force before anything of it is unpickled; what it took is measured before
its outcome is pickled, and the process is put back after that, since a value's class may run code and import modules.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from simpler.args import ReceivedArgs
from simpler.errors import ArgumentError, TaskError
from simpler.executor.calls import by_value
from simpler.executor.calls.call_record import OpenedCall, encode_outcome, open_call
from simpler.executor.calls.captured_output import flush_streams
from simpler.executor.calls.metrics import CallMetrics
from simpler.executor.calls.options import decode_options
from simpler.executor.calls.placement import run_placed
from simpler.executor.in_worker.import_scope import import_scope
from simpler.executor.in_worker.keeper import Keeper, stop_timers, unlimit_memory
from simpler.executor.in_worker.keeper import keeper as process_keeper
from simpler.executor.in_worker.surroundings import Surroundings
from simpler.region_records import Done
from simpler.result_record import EncodedResult, Parts
from simpler.user_traceback import user_traceback

INITIALIZER_FAILED = "INITIALIZER_FAILED"
"""The code of the TaskError of each task in a process whose initializer raised."""
_TRIES_TO_SETTLE = 3
"""Each signal that had come already may interrupt one; a second is rare."""


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
        if not callable(initializer):
            raise ArgumentError(f"initializer={initializer!r} is not possible; expected a function")
        if isinstance(initargs, (str, bytes)) or not isinstance(initargs, Iterable):
            raise ArgumentError(
                f"initargs={initargs!r} is not possible; expected a tuple, ({initargs!r},) for one alone"
            )
        try:
            pickled = by_value.dumps((initializer, tuple(initargs)))
        except Exception as error:  # any class may refuse in any way
            raise ArgumentError(f"initializer={initializer!r} or its initargs cannot be pickled: {error}") from error
        return cls(name, pickled, folder)


class CallRunner:
    """Runs calls: a SUB callable that is registered once for each executor."""

    def __init__(self, config: RunnerConfig) -> None:
        self._config = config
        self._keeper: Keeper | None = None
        self._failure: TaskError | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return CallRunner, (self._config,)

    def __call__(self, args: ReceivedArgs) -> EncodedResult | Done:
        """Runs a call that ``Places`` placed, and places its outcome."""
        return run_placed(args, self.run, self._config.folder)

    def run(self, record: bytes | memoryview) -> Parts:
        """Runs the call of ``record``; its outcome's record. Raises TaskError INITIALIZER_FAILED."""
        keeper = self._keeper or self._begin()
        call = open_call(record)
        try:
            if not call.options:
                return self._outcome(keeper, call, None)
            options = decode_options(call.options)
            with Surroundings(options, self._config.folder) as surroundings, import_scope(options.python_path):
                return self._outcome(keeper, call, surroundings)
        finally:
            keeper.restore()

    def _outcome(self, keeper: Keeper, call: OpenedCall, surroundings: Surroundings | None) -> Parts:
        value: object = None
        error: BaseException | None = None
        is_chunk = False
        keeper.begin()
        try:
            if surroundings is not None:
                surroundings.begin()
            fn, args, kwargs, is_chunk = call.load()
            if surroundings is not None:
                surroundings.limit_memory()
            if is_chunk:
                value = values = []
                for item in args:
                    values.append(fn(*item))
                    keeper.restore()
                    if surroundings is not None:
                        surroundings.apply()
            else:
                value = fn(*args, **kwargs)
        except BaseException as raised:
            error = raised
        tries = _TRIES_TO_SETTLE if keeper.is_suspect else 0
        while tries:
            try:
                stop_timers(keeper.native)  # rule 3 of keeper.py
                unlimit_memory()
                keeper.put_signals_back()
                break
            except BaseException:
                tries -= 1
        unlimit_memory()  # what comes now needs some, and all may be in the hands of the call
        used = keeper.usage(error)
        flush_streams()
        output = None if surroundings is None else surroundings.finish()
        try:
            return encode_outcome(value, error, self._metrics(used), output, is_chunk=is_chunk)
        finally:
            error = None  # its traceback has this frame

    def _metrics(self, used: list[float]) -> CallMetrics:
        started, ended, wall_s, user_s, system_s, peak_rss_bytes = used
        return CallMetrics(started, ended, wall_s, user_s, system_s, int(peak_rss_bytes), *self._identity)

    def _begin(self) -> Keeper:
        """Before the first call of this process."""
        if self._failure is not None:
            raise self._failure
        worker_id = os.environ.setdefault("SIMPLER_WORKER_ID", f"{self._config.name}.{os.getpid()}")
        node_id = os.environ.setdefault("SIMPLER_NODE_ID", socket.gethostname())
        self._identity = os.getpid(), worker_id, node_id
        if self._config.initializer:
            try:
                _initialize(self._config.initializer, worker_id)
            except TaskError as failure:
                self._failure = failure
                raise
            process_keeper().remember()
        self._keeper = process_keeper()
        return self._keeper


def _initialize(pickled: bytes, worker_id: str) -> None:
    import cloudpickle

    try:
        initializer, initargs = cloudpickle.loads(pickled)
        initializer(*initargs)
    except BaseException as error:
        text = user_traceback(error)
        failed = TaskError(
            f"the executor's initializer failed in {worker_id} (pid {os.getpid()} on {socket.gethostname()}):\n{text}",
            code=INITIALIZER_FAILED,
        )
        failed.remote_traceback = text
        raise failed from error
