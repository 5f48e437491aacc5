"""What keeps a callable from being serialized is named by path."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest

from simpler.callables import content_of
from simpler.errors import RegistrationError


def refused(code: str, match: str) -> Any:
    return pytest.raises(RegistrationError, match=match, check=lambda error: error.code == code)


class Holder:
    __slots__ = ("items",)

    def __init__(self, *items: object) -> None:
        self.items = list(items)

    def __call__(self) -> None:
        raise AssertionError("never called")


LOCK = threading.Lock()


def closes_over_a_lock() -> Any:
    lock = threading.Lock()

    def work() -> object:
        return lock

    return work


def has_a_lock_as_default() -> Any:
    def work(first: int = 1, second: object = threading.Lock()) -> None:
        pass

    return work


def has_a_lock_as_keyword_default() -> Any:
    def work(*, guard: object = threading.Lock()) -> None:
        pass

    return work


def has_a_lock_as_attribute() -> Any:
    def work() -> None:
        pass

    work.guard = {"deep": [1, threading.Lock()]}  # type: ignore[attr-defined]
    return work


def reaches_a_lock_through_a_global() -> Any:
    names = {"__builtins__": __builtins__, "lock": threading.Lock()}
    exec("def work():\n    return [lock for _ in range(1)]", names)
    return names["work"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (closes_over_a_lock(), "work.__closure__['lock']"),
        (has_a_lock_as_default(), "work.__defaults__[1]"),
        (has_a_lock_as_attribute(), "work.guard['deep'][1]"),
        (reaches_a_lock_through_a_global(), "work.__globals__['lock']"),
        (functools.partial(print, 1, end=LOCK), "partial.keywords['end']"),
        (has_a_lock_as_keyword_default(), "work.__kwdefaults__['guard']"),
        (Holder({1: LOCK}), "Holder.items[0][1]"),
        (Holder(Holder((1, {LOCK}))).__call__, "__call__.__self__.items[0].items[0][1][0]"),
        (Holder({LOCK: 1}), "Holder.items[0].keys()[0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_serialized_is_named_by_path(target: Any, path: str) -> None:  # C7
    with pytest.raises(RegistrationError) as caught:
        content_of(target)
    assert caught.value.code == "CALLABLE_NOT_SERIALIZABLE"
    assert caught.value.context["path"] == path
    assert f"{path} is of type lock, which cannot be pickled (TypeError:" in str(caught.value)


def test_a_class_that_refuses_in_its_own_way_is_named() -> None:  # C7
    class Proud:
        def __reduce__(self) -> str:
            raise KeyError("not me")

    proud = Proud()
    with refused("CALLABLE_NOT_SERIALIZABLE", r"<lambda>.__closure__\['proud'\] .*KeyError: 'not me'"):
        content_of(lambda: proud)


def test_a_class_that_refuses_only_once_is_refused_all_the_same() -> None:  # C7
    class Moody:
        refusals = 0

        def __reduce__(self) -> tuple[Any, ...]:
            Moody.refusals += 1
            if Moody.refusals == 1:
                raise KeyError("not now")
            return (object, ())

        def __call__(self) -> None:
            raise AssertionError("never called")

    with refused("CALLABLE_NOT_SERIALIZABLE", "Moody is of type .*Moody, which .*KeyError: 'not now'"):
        content_of(Moody())


def test_a_structure_that_contains_itself_ends_the_search() -> None:  # C7
    ring: list[object] = [LOCK]
    ring.insert(0, ring)
    with refused("CALLABLE_NOT_SERIALIZABLE", r"\['ring'\]\[1\] is of type lock"):
        content_of(lambda: ring)


class Hostile:
    """Refuses to be pickled, to be looked into and to be shown."""

    def __getattribute__(self, name: str) -> object:
        raise Unprintable

    def __hash__(self) -> int:
        return 1

    def __repr__(self) -> str:
        raise Unprintable


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("there is no text")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (Holder(Hostile()), r"Holder.items\[0\] is of type Hostile"),
        (Holder({Hostile(): LOCK}), r"Holder.items\[0\] is of type dict"),
    ],
    ids=["attribute", "key"],
)
def test_what_raises_when_it_is_looked_into_is_named_all_the_same(target: Any, path: str) -> None:  # C7
    with refused("CALLABLE_NOT_SERIALIZABLE", f"{path}, which cannot be pickled .*Unprintable: <exception str"):
        content_of(target)
