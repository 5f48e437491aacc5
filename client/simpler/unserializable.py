"""What is never serialized, and which part of a callable keeps it from being so, named by path."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, ClassVar, NoReturn

MAX_STEPS = 64
Part = tuple[str, object]


class Unserializable:
    """Base of what belongs to a Worker, a process or a thread, and so refuses to be pickled, as a whole and at once.

    Pickling its members to find one that refuses would copy all the shared memory that they look into.
    """

    __slots__ = ()

    _why_not: ClassVar[str]
    """What whoever tries is told."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(self._why_not)


def find_unserializable(
    name: str, target: object, error: Exception, dumps: Callable[[Any], bytes]
) -> tuple[str, object, Exception]:
    """The innermost part of ``target`` that ``dumps`` refuses: its path from ``name``, the part, and the refusal.

    ``error``: how ``dumps`` refused ``target`` itself. Descends into the first part that fails on its own, until one
    fails that has no failing part.
    """
    path, found = name, target
    seen = {id(target)}
    for _ in range(MAX_STEPS):
        step = _failing_part(found, dumps, seen)
        if step is None:
            break
        (suffix, found), error = step
        path += suffix
        seen.add(id(found))
    return path, found, error


def _failing_part(found: object, dumps: Callable[[Any], bytes], seen: set[int]) -> tuple[Part, Exception] | None:
    with suppress(Exception):  # an object whose code raises when it is looked into is as far as one gets
        if isinstance(found, Unserializable):
            return None
        for suffix, part in _parts(found):
            if id(part) not in seen and (error := refusal_of(part, dumps)) is not None:
                return (suffix, part), error
    return None


def refusal_of(part: object, dumps: Callable[[Any], object]) -> Exception | None:
    """What ``dumps`` raises for it, None when nothing."""
    try:
        dumps(part)
    except Exception as error:  # whatever a class's own pickling code raises is the answer here
        return error
    return None


def _parts(found: object) -> Iterator[Part]:
    """What ``found`` is made of, each with the path that leads to it."""
    if isinstance(found, FunctionType):
        yield from _function_parts(found)
    elif isinstance(found, MethodType):
        yield from ((".__self__", found.__self__), (".__func__", found.__func__))
    elif isinstance(found, functools.partial):
        yield from ((".func", found.func), (".args", found.args), (".keywords", found.keywords))
    elif isinstance(found, dict):
        yield from ((f"[{key!r}]", value) for key, value in found.items())
        yield from ((f".keys()[{at}]", key) for at, key in enumerate(found))
    elif isinstance(found, (list, tuple, set, frozenset)):
        yield from ((f"[{at}]", value) for at, value in enumerate(found))
    if not isinstance(found, (ModuleType, FunctionType)):
        yield from _attributes(found)


def _function_parts(function: FunctionType) -> Iterator[Part]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f".__closure__[{name!r}]", cell.cell_contents
        except ValueError:  # a variable that was not assigned yet
            continue
    for name in _names_used(function.__code__):
        if name in function.__globals__:
            yield f".__globals__[{name!r}]", function.__globals__[name]
    for at, default in enumerate(function.__defaults__ or ()):
        yield f".__defaults__[{at}]", default
    for name, default in (function.__kwdefaults__ or {}).items():
        yield f".__kwdefaults__[{name!r}]", default
    for name, annotation in function.__annotations__.items():
        yield f".__annotations__[{name!r}]", annotation
    yield from _attributes(function)


def _names_used(code: CodeType) -> Iterator[str]:
    """Names that the code, or a function or comprehension inside it, may read from its globals."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_used(constant)


def _attributes(found: object) -> Iterator[Part]:
    yield from ((f".{name}", value) for name, value in getattr(found, "__dict__", {}).items())
    for cls in type(found).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(found, name):
                yield f".{name}", getattr(found, name)
