"""The callables of a Worker that serves a level above, and the runs of its orchestration functions.

This is the same whether the level above is in another process of this host (dist_worker.py) or has a session here.

Rules
  1. A Python callable is loaded here, where it may be an orchestration function, and registered with the Worker too
     when a child of its can run it; a kernel is registered with the Worker alone. Registering twice counts twice.
  2. What is prepared is loaded and registered wherever it is to run, but nobody can name it before it is committed.
     Each prepared reference is committed or aborted once.
  3. A run has ended when ``run`` returns or raises, whatever was raised: what the task borrowed may be given back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

from simpler.callable_loading import load
from simpler.callables import CallableHandle, CallableKind, ChipBlob, Content
from simpler.descriptors import format_hashid
from simpler.errors import RegistrationError
from simpler.inner_worker import InnerWorker
from simpler.registry import display_name
from simpler.result_record import encode_result
from simpler.run import TaskRef


class KnownCallable(NamedTuple):
    """A callable as people see it. ``references``: that are committed; ``prepared``: those that are not yet."""

    digest: bytes
    name: str
    kind: CallableKind
    references: int
    prepared: int


class _Registered:
    """A callable. ``function`` is None for kernels, ``handles`` empty where no child of the Worker has it.

    ``references`` are the committed ones, ``prepared`` those that are not committed yet; each has a handle.
    """

    def __init__(self, content: Content, function: Callable[..., Any] | None) -> None:
        self.function = function
        self.name, self.kind = _name_of(content, function), content.kind
        self.references = self.prepared = 0
        self.handles: list[CallableHandle] = []


class _Left(Exception):
    """An orchestration function raised what is no Exception, such as SystemExit."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


class InnerCallables:
    """``where``: who has them, for errors. ``import_paths``: folders that modules must lie under, None allows any."""

    def __init__(self, worker: InnerWorker, import_paths: Sequence[str] | None, where: str) -> None:
        self._worker, self._import_paths, self._where = worker, import_paths, where
        self._registered: dict[bytes, _Registered] = {}

    def known(self) -> list[KnownCallable]:
        """All of them, for people; any thread may ask."""
        return [
            KnownCallable(digest, entry.name, entry.kind, entry.references, entry.prepared)
            for digest, entry in list(self._registered.items())
        ]

    def register(self, content: Content) -> None:
        """Installs validated content wherever it can be used. Raises RegistrationError, changing nothing."""
        self.prepare(content)
        self.commit(content.digest)

    def prepare(self, content: Content) -> None:
        """Has validated content loaded wherever it can be used; visible after ``commit``. Raises as ``register``."""
        entry = self._registered.get(content.digest)
        is_kernel = content.kind is CallableKind.CHIP
        if entry is None:
            entry = _Registered(content, None if is_kernel else _contained(load(content, self._import_paths)))
        if self._worker.can_run(content.kind):
            entry.handles.append(self._register_concealed(content, entry))
        elif is_kernel:
            raise RegistrationError(
                f"{content.hashid} is a kernel, and {self._where} has no chip to run it; give it devices (device_ids)",
                code="CALLABLE_KIND_UNSUPPORTED",
                hashid=content.hashid,
            )
        entry.prepared += 1
        self._registered[content.digest] = entry

    def commit(self, digest: bytes) -> None:
        """Makes a prepared reference a registered one. Raises RegistrationError when there is none."""
        entry = self._prepared(digest)
        self._worker.reveal(digest)
        entry.prepared -= 1
        entry.references += 1

    def abort(self, digest: bytes) -> None:
        """Gives a prepared reference back. Raises RegistrationError when there is none."""
        entry = self._prepared(digest)
        entry.prepared -= 1
        self._give_back(digest, entry)

    def unregister(self, digest: bytes) -> None:
        """Gives one reference back. Raises RegistrationError when there is none."""
        entry = self._find(digest)
        entry.references -= 1
        self._give_back(digest, entry)

    def _register_concealed(self, content: Content, entry: _Registered) -> CallableHandle:
        if entry.references:
            return self._worker.register_content(content, entry.name)
        self._worker.conceal(content.digest)
        try:
            return self._worker.register_content(content, entry.name)
        except BaseException:
            if not entry.prepared:
                self._worker.reveal(content.digest)
            raise

    def _give_back(self, digest: bytes, entry: _Registered) -> None:
        """What is not referenced any more is not found any more, even where a child could not be made to forget it."""
        is_left = bool(entry.references or entry.prepared)
        if not is_left:
            del self._registered[digest]
        elif not entry.references:
            self._worker.conceal(digest)
        try:
            if entry.handles:
                self._worker.unregister(entry.handles.pop())
        finally:
            if not is_left:
                self._worker.reveal(digest)

    def run(self, digest: bytes, args: object, config: object) -> list[bytes | memoryview] | None:
        """Runs an orchestration function to the end of its graph; gives the result record of what it returned, if any,
        or of what the task returned whose TaskRef it returned.

        Raises whatever it or its tasks raised.
        """
        function = self._find(digest).function
        if function is None:
            raise RegistrationError(
                f"{format_hashid(digest)} is a kernel, which {self._where} runs only inside an orchestration function: "
                "submit a Python function that calls orch.submit_next_level",
                code="CALLABLE_KIND_UNSUPPORTED",
            )
        run = self._worker.submit(function, args, config)
        try:
            value = run.result()
        except _Left as left:
            raise left.cause from None
        finally:
            run.wait()  # a signal's handler may have raised, such as Ctrl-C's, while the run was waited for
        if isinstance(value, TaskRef):  # it means nothing to the level above; what its task returned does
            value = value.result()
        return None if value is None else encode_result(value)

    def check_on_subs(self, digest: bytes) -> None:
        """Raises RegistrationError unless SUB workers here have the callable."""
        entry = self._find(digest)
        if entry.function is None or not entry.handles:
            what = "a kernel" if entry.function is None else "a Python function"
            raise RegistrationError(
                f"{format_hashid(digest)} is {what}, and {self._where} has no SUB worker to run it; give it some "
                "(num_sub_workers)",
                code="CALLABLE_KIND_UNSUPPORTED",
            )

    def _find(self, digest: bytes) -> _Registered:
        entry = self._registered.get(digest)
        if entry is None or not entry.references:
            raise self._unknown(digest, "registered")
        return entry

    def _prepared(self, digest: bytes) -> _Registered:
        entry = self._registered.get(digest)
        if entry is None or not entry.prepared:
            raise self._unknown(digest, "prepared")
        return entry

    def _unknown(self, digest: bytes, expected: str) -> RegistrationError:
        hashid = format_hashid(digest)
        return RegistrationError(
            f"{hashid} is not {expected} in {self._where}", code="CALLABLE_NOT_REGISTERED", hashid=hashid
        )


def _name_of(content: Content, function: Callable[..., Any] | None) -> str:
    """What people call it: the level above knows it by that name, too."""
    return ChipBlob.decode(content.payload).symbol if function is None else display_name(function)


def _contained(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, but its run is waited for even when it exits: ``Worker.run`` leaves at once otherwise."""

    @wraps(function)
    def contained(*args: object) -> Any:
        try:
            return function(*args)
        except Exception:
            raise
        except BaseException as leaving:
            raise _Left(leaving) from None

    contained.__qualname__ = display_name(function)  # which an instance of a class has not
    return contained
