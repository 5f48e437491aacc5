"""Calls with options of their own: what an executor and each of its views let a program do."""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, SupportsIndex, TypedDict, Unpack

from simpler import limits
from simpler.errors import ArgumentError, StateError
from simpler.executor.backend import ExecutorBackend
from simpler.executor.calls.call_record import CallRecord, name_of
from simpler.executor.calls.options import CallOptions, Output
from simpler.executor.future import CallFuture
from simpler.unserializable import Unserializable

if TYPE_CHECKING:
    from simpler.executor.call_map import CallMap


class OptionChanges(TypedDict, total=False):
    """The fields of CallOptions, which documents them."""

    timeout_s: float | None
    memory_bytes: int | None
    cwd: str | os.PathLike[str] | None
    env_updates: Mapping[str, str | None]
    python_path: Sequence[str | os.PathLike[str]]
    output: Output


class Entrance:
    """Where the calls of an executor and of its views go, until it is closed."""

    def __init__(self, backend: ExecutorBackend) -> None:
        self.backend = backend
        self.is_closed = False
        self.has_mapped = False

    def require_open_for(self, fn: object) -> None:
        """Raises StateError when it is closed, and ArgumentError for what cannot be called."""
        if self.is_closed:
            raise StateError("cannot schedule new futures after shutdown of the executor")
        if not callable(fn):
            raise ArgumentError(f"{fn!r} cannot be called; expected a function, then what it is called with")

    def execute(self, call: CallRecord) -> CallFuture:
        """Begins the call. Raises what the backend refuses it for."""
        future = CallFuture()
        try:
            self.backend.execute(call, future)
        except BaseException as refused:
            if not future.done():
                future.set_exception(refused)  # which observers wait for
            raise
        return future

    def close(self, *, wait: bool, cancel_futures: bool) -> None:
        """Shuts the backend down; what maps have taken is sent before, unless it is to be cancelled."""
        self.is_closed = True
        for call_map in self._running_maps():
            if cancel_futures:
                call_map.cut(CancelledError())
            else:
                call_map.send_all()
        self.backend.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _running_maps(self) -> list[CallMap]:
        if not self.has_mapped:
            return []
        from simpler.executor.call_map import live_maps

        return [each for each in live_maps() if each.entrance is self]


class ExecutorView(Unserializable):
    """Calls on an executor with options of their own: what ``SimplerExecutor.options`` returns.

    ``submit``, ``map`` and ``options`` are all that it has: the executor itself is shut down and observed.
    """

    _why_not = "an executor is for the process that made it; make one inside the function that needs it"

    def __init__(self, entrance: Entrance, options: CallOptions) -> None:
        self._entrance, self._options = entrance, options

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self._options.changed())
        return f"<ExecutorView of {type(self._entrance.backend).__name__} with {said or 'no options'}>"

    @property
    def _max_workers(self) -> int:
        """Dask and joblib read it, as they do of the executors of concurrent.futures."""
        return self._entrance.backend.max_workers

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> CallFuture:
        """Begins ``fn(*args, **kwargs)`` in a worker process; never waits for one.

        The future has what the function returned, or raises what it raised. A call whose process died raises
        WorkerDied, one whose time was over TaskTimeout, one whose result cannot be brought here TaskError; none is run
        again. Raises StateError after shutdown, and ExecutorBroken when no worker can be had any more.
        """
        self._entrance.require_open_for(fn)
        return self._entrance.execute(CallRecord(fn, args, kwargs, self._options, False))

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> Iterator[Any]:
        """``fn`` of each input, or of one from each of ``iterables`` until one of them ends: results in their order.

        Inputs go to workers in chunks. ``chunksize``: inputs in each; None has a chunk take some 20 ms, whatever one
        input takes. A worker that dies costs its whole chunk; with ``timeout_s`` each input is a call of its own,
        whatever ``chunksize`` says, and has that time for itself.

        ``buffersize``: how many inputs are taken ahead of the results given, so that inputs may be endless, or too many
        to be held; None takes all at once. ``timeout``: seconds from now after which TimeoutError is raised in place of
        a result. ``progress``: shows on standard error how far it is.

        What an input raises is raised in place of its result. An iterator that was begun and is then left cancels what
        has not begun.
        """
        from simpler.executor.call_map import CallMap
        from simpler.executor.chunk_sizes import ChunkSizes
        from simpler.executor.progress import Progress

        entrance, options = self._entrance, self._options
        entrance.require_open_for(fn)
        entrance.has_mapped = True
        workers = entrance.backend.max_workers
        deadline = None if timeout is None else time.monotonic() + timeout
        chunksize, buffersize = _count("chunksize", chunksize), _count("buffersize", buffersize)
        if options.timeout_s is not None:
            chunksize = 1
        call_map = CallMap(
            entrance,
            lambda inputs: entrance.execute(CallRecord(fn, inputs, {}, options, True)),
            zip(*iterables, strict=False),
            ChunkSizes(workers, fixed=chunksize, buffersize=buffersize),
            buffersize=buffersize,
            most_sent=limits.CHUNKS_PER_WORKER * workers,
            progress=Progress(name_of(fn)) if progress else None,
        )
        call_map.begin()
        return call_map.results(deadline)

    def options(self, **changes: Unpack[OptionChanges]) -> ExecutorView:
        """The same executor with other options for its calls: the fields of CallOptions.

        What is not named stays as it is; ``env_updates`` and ``python_path`` are replaced as a whole. Raises
        ArgumentError for what cannot be.
        """
        return ExecutorView(self._entrance, self._options.replaced(**changes))


def _count(what: str, value: int | None) -> int | None:
    if value is None:
        return None
    if not (isinstance(value, SupportsIndex) and value >= 1):
        raise ArgumentError(f"{what}={value!r} is not possible; expected a whole number from 1 on, or None")
    return operator.index(value)
