"""``SimplerExecutor``: a ``concurrent.futures.Executor`` whose calls run in processes of their own."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

from simpler.errors import ArgumentError
from simpler.executor.backend import ExecutorBackend, Interruptible
from simpler.executor.calls.options import Output
from simpler.executor.in_worker.call_runner import RunnerConfig
from simpler.executor.observers import LifecycleObservable
from simpler.executor.session_backend import SessionBackend
from simpler.executor.settings import BackendName, Settings, resolve
from simpler.executor.view import Entrance, ExecutorView
from simpler.plain_text import LONGEST_NAME, is_name


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
        if made is not None:
            _require_backend(made)
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
        if made is not None:
            of_backend = {"max_workers": max_workers, "endpoints": endpoints, "env_allow": env_allow}
            _refuse_beside_backend(of_backend | {"initializer": initializer})
        else:
            _require_name(name)
            config = RunnerConfig.of(name=name, initializer=initializer, initargs=initargs)
            made = _backend_of(settings, config)
        super().__init__(Entrance(made), settings.options)
        self._name = name

    def __repr__(self) -> str:
        state = "shut down" if self._entrance.is_closed else "open"
        kind = type(self._entrance.backend).__name__
        return f"<SimplerExecutor {self._name!r}, {state}: {self._max_workers} workers of {kind}>"

    def observe(self, observer: object) -> Callable[[], None]:
        """Has ``observer`` told of each call from now on: the methods of LifecycleObserver that it has.

        Call what is returned to stop that. Raises ArgumentError when it has none of these methods or the backend tells
        nothing, and StateError after shutdown.
        """
        if not isinstance(self._entrance.backend, LifecycleObservable):
            raise ArgumentError(
                f"{self._entrance.backend!r} cannot be observed; expected a backend with a method observe"
            )
        return self._entrance.backend.observe(observer)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls, and ends the workers once those that it has are over; ``wait``: returns then.

        ``cancel_futures``: calls that have not begun are cancelled. May be called again, and from any thread.
        """
        self._entrance.close(wait=wait, cancel_futures=cancel_futures)

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Shuts down, and waits; for calls that have begun too, unless it is left by Ctrl-C or sys.exit."""
        backend = self._entrance.backend
        if isinstance(raised, (KeyboardInterrupt, SystemExit)) and isinstance(backend, Interruptible):
            backend.interrupt()
        self.shutdown(wait=True)


def _backend_of(settings: Settings, config: RunnerConfig) -> ExecutorBackend:
    n_workers, environment, endpoints = settings.max_workers, settings.environment, settings.endpoints
    if settings.backend == "session":
        return SessionBackend(n_workers, config=config, environment=environment, endpoints=endpoints)
    if endpoints:
        raise ArgumentError(f"endpoints={endpoints!r} beside the backend 'loky', which runs calls on this host alone")
    from simpler.executor.loky_backend import LokyBackend

    return LokyBackend(n_workers, config=config, environment=environment)


def _require_backend(made: object) -> None:
    lacks = [name for name in ("max_workers", "execute", "shutdown") if not hasattr(made, name)]
    if lacks:
        raise ArgumentError(
            f"backend={made!r} is not possible, since it has no {', '.join(lacks)}; expected 'session', 'loky' or an "
            "object with all that ExecutorBackend has"
        )


def _require_name(name: object) -> None:
    if not is_name(name):
        expected = f"a string of at most {LONGEST_NAME} printable characters"
        raise ArgumentError(f"name={name!r} is not possible; expected {expected}")


def _refuse_beside_backend(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            raise ArgumentError(f"{name}={value!r} beside a backend that is made already: give it to that backend")
