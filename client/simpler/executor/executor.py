"""``SimplerExecutor``: a ``concurrent.futures.Executor`` whose calls run in processes of their own."""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from simpler import limits
from simpler.errors import ArgumentError, StateError
from simpler.executor.backend import ExecutorBackend
from simpler.executor.call_record import CallRecord
from simpler.executor.call_runner import RunnerConfig
from simpler.executor.future import CallFuture
from simpler.executor.lifecycle import LifecycleObservable
from simpler.executor.options import CallOptions, Output
from simpler.executor.session_backend import SessionBackend
from simpler.executor.settings import BackendName, Settings, resolve

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


class ExecutorView:
    """Calls on an executor with options of their own: what ``SimplerExecutor.options`` returns."""

    def __init__(self, executor: SimplerExecutor, options: CallOptions) -> None:
        self._executor, self._options = executor, options

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> CallFuture:
        """Begins ``fn(*args, **kwargs)`` in a worker process; never waits for one.

        The future has what the function returned, or raises what it raised. A call whose process died raises
        WorkerDied, one whose time was over TaskTimeout, one whose result cannot be brought here TaskError; none is run
        again. Raises StateError after shutdown, and ExecutorBroken when no worker can be had any more.
        """
        self._executor._check(fn)
        return self._executor._execute(CallRecord(fn, args, kwargs, self._options, False))

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

        executor, options = self._executor, self._options
        executor._check(fn)
        executor._has_mapped = True
        deadline = None if timeout is None else time.monotonic() + timeout
        chunksize, buffersize = _count("chunksize", chunksize), _count("buffersize", buffersize)
        if options.timeout_s is not None:
            chunksize = 1
        call_map = CallMap(
            executor,
            lambda inputs: executor._execute(CallRecord(fn, inputs, {}, options, True)),
            zip(*iterables, strict=False),
            ChunkSizes(executor._max_workers, fixed=chunksize, buffersize=buffersize),
            buffersize=buffersize,
            most_sent=limits.CHUNKS_PER_WORKER * executor._max_workers,
            progress=Progress(getattr(fn, "__qualname__", type(fn).__name__)) if progress else None,
        )
        call_map.begin()
        return call_map.results(deadline)

    def options(self, **changes: Unpack[OptionChanges]) -> ExecutorView:
        """The same executor with other options for its calls: the fields of CallOptions.

        What is not named stays as it is; ``env_updates`` and ``python_path`` are replaced as a whole. Raises
        ArgumentError for what cannot be.
        """
        return ExecutorView(self._executor, self._options.replaced(**changes))


class SimplerExecutor(ExecutorView, concurrent.futures.Executor):
    """Runs Python functions in isolation, each call in one of ``max_workers`` processes.

    No process is started before the first call. Each of these is what its argument says, else what the environment
    variable SIMPLER_EXECUTOR_ with its name in capitals says: ``max_workers``, by default as many as this process may
    use cores; ``backend``, "session" (workers of this host, or in the sessions at ``endpoints``) or "loky";
    ``endpoints``; ``timeout_s``; ``memory_bytes``; ``output``; ``env_allow``, names of further environment variables
    that workers keep.

    ``backend`` may also be an ExecutorBackend that is there already; then it says how many workers there are and what
    they are made with. ``initializer(*initargs)`` runs once in each process before its first call; when it raises, the
    executor is broken. ``name``: of the workers, in what they print and in errors. The others, which CallOptions
    documents, are for calls for which ``options`` says nothing else. Raises ArgumentError for what cannot be.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        backend: BackendName | ExecutorBackend | None = None,
        endpoints: Sequence[Any] | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        name: str = "executor",
        env_allow: Collection[str] | None = None,
        timeout_s: float | None = None,
        memory_bytes: int | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env_updates: Mapping[str, str | None] | None = None,
        python_path: Sequence[str | os.PathLike[str]] = (),
        output: Output | None = None,
    ) -> None:
        named, made = (backend, None) if backend is None or isinstance(backend, str) else (None, backend)
        settings = resolve(
            backend=named,
            max_workers=max_workers,
            endpoints=endpoints,
            timeout_s=timeout_s,
            memory_bytes=memory_bytes,
            output=output,
            env_allow=env_allow,
            cwd=cwd,
            env_updates=env_updates or {},
            python_path=python_path,
        )
        super().__init__(self, settings.options)
        if made is not None:
            of_backend = {"max_workers": max_workers, "endpoints": endpoints, "env_allow": env_allow}
            _refuse_beside_backend(of_backend | {"initializer": initializer})
            self._backend = made
        else:
            config = RunnerConfig.of(name=name, initializer=initializer, initargs=initargs)
            self._backend = _backend_of(settings, config)
        self._name = name
        self._has_mapped = False
        self._is_shut_down = False

    @property
    def _max_workers(self) -> int:
        """Dask and joblib read it, as they do of the executors of concurrent.futures."""
        return self._backend.max_workers

    def __repr__(self) -> str:
        state = "shut down" if self._is_shut_down else "open"
        kind = type(self._backend).__name__
        return f"<SimplerExecutor {self._name!r}, {state}: {self._max_workers} workers of {kind}>"

    def observe(self, observer: object) -> Callable[[], None]:
        """Has ``observer`` told of each call from now on: the methods of LifecycleObserver that it has.

        Call what is returned to stop that. Raises ArgumentError when it has none of these methods or the backend tells
        nothing, and StateError after shutdown.
        """
        if not isinstance(self._backend, LifecycleObservable):
            raise ArgumentError(f"{self._backend!r} cannot be observed; expected a backend with a method observe")
        return self._backend.observe(observer)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls, and ends the workers once those that it has are over; ``wait``: returns then.

        ``cancel_futures``: calls that have not begun are cancelled. May be called again, and from any thread.
        """
        self._is_shut_down = True
        for call_map in self._running_maps():
            if cancel_futures:
                call_map.cut(concurrent.futures.CancelledError())
            else:
                call_map.send_all()
        self._backend.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _running_maps(self) -> list[CallMap]:
        if not self._has_mapped:
            return []
        from simpler.executor.call_map import live_maps

        return [each for each in live_maps() if each.executor is self]

    def _check(self, fn: Callable[..., Any]) -> None:
        if self._is_shut_down:
            raise StateError("cannot schedule new futures after shutdown of the executor")
        if not callable(fn):
            raise ArgumentError(f"{fn!r} cannot be called; expected a function, then what it is called with")

    def _execute(self, call: CallRecord) -> CallFuture:
        future = CallFuture()
        try:
            self._backend.execute(call, future)
        except BaseException as refused:
            if not future.done():
                future.set_exception(refused)  # which observers wait for
            raise
        return future


def _backend_of(settings: Settings, config: RunnerConfig) -> ExecutorBackend:
    n_workers, environment, endpoints = settings.max_workers, settings.environment, settings.endpoints
    if settings.backend == "session":
        return SessionBackend(n_workers, config=config, environment=environment, endpoints=endpoints)
    if endpoints:
        raise ArgumentError(f"endpoints={endpoints!r} beside the backend 'loky', which runs calls on this host alone")
    from simpler.executor.loky_backend import LokyBackend

    return LokyBackend(n_workers, config=config, environment=environment)


def _refuse_beside_backend(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            raise ArgumentError(f"{name}={value!r} beside a backend that is made already: give it to that backend")


def _count(what: str, value: int | None) -> int | None:
    if value is not None and not (isinstance(value, int) and value >= 1):
        raise ArgumentError(f"{what}={value!r} is not possible; expected a whole number from 1 on, or None")
    return value
