"""Handles of callables: what they show, and that none is copied, changed, forged or used elsewhere."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from simpler.callable_handle import CallableHandle, Passport, issue_handle, verify_handle
from simpler.callables import CallableKind, content_of
from simpler.errors import ArgumentError, RegistrationError, StaleHandle


def refused(code: str, match: str) -> Any:
    return pytest.raises(RegistrationError, match=match, check=lambda error: error.code == code)


@pytest.fixture
def handle() -> CallableHandle:
    return issue_handle(b"key", 5, content_of(len), "sub", Passport())


def test_a_handle_shows_what_it_stands_for(handle: CallableHandle) -> None:  # C3
    content = content_of(len)
    assert (handle.hashid, handle.digest, handle.kind) == (content.hashid, content.digest, content.kind)
    assert handle.target_namespace == "sub"
    assert verify_handle(handle, b"key") == 5
    assert repr(handle) == f"CallableHandle({content.hashid}, PYTHON_SERIALIZED, 'sub')"


def test_handles_of_one_content_are_not_one(handle: CallableHandle) -> None:  # C3
    assert issue_handle(b"key", 6, content_of(len), "sub", Passport()) != handle


def test_a_handle_of_another_worker_is_refused(handle: CallableHandle) -> None:  # C3
    with pytest.raises(StaleHandle, match="belongs to another Worker"):
        verify_handle(handle, b"other")


def test_a_handle_cannot_be_changed(handle: CallableHandle) -> None:  # C3
    with refused("CALLABLE_HANDLE_MUTATED", "digest stays as it is"):
        handle.digest = bytes(32)
    with refused("CALLABLE_HANDLE_MUTATED", "kind stays as it is"):
        del handle.kind


@pytest.mark.parametrize(
    ("name", "value"),
    [("digest", bytes(32)), ("kind", CallableKind.CHIP), ("target_namespace", "chip"), ("_serial", 6), ("digest", [])],
)
def test_a_handle_changed_by_force_is_found_out(handle: CallableHandle, name: str, value: object) -> None:  # C3
    object.__setattr__(handle, name, value)
    with refused("CALLABLE_HANDLE_MUTATED", "is not as Worker.register made it"):
        verify_handle(handle, b"key")


def test_a_forged_handle_is_refused() -> None:  # C3
    with refused("CALLABLE_HANDLE_MUTATED", "cannot be made by hand"):
        CallableHandle()
    with refused("CALLABLE_HANDLE_MUTATED", "is not as Worker.register made it"):
        verify_handle(object.__new__(CallableHandle), b"key")
    with pytest.raises(ArgumentError, match=r"expected a CallableHandle from Worker\.register, not str"):
        verify_handle("sha256:", b"key")


def test_a_callable_that_holds_a_handle_is_refused_by_path(handle: CallableHandle) -> None:  # C3, C7
    held = {"handles": [handle]}
    with refused(
        "CALLABLE_NOT_SERIALIZABLE", r"\['held'\]\['handles'\]\[0\] is of type CallableHandle.*pass handle\.hashid"
    ):
        content_of(lambda: held)


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_handle_does_not_travel(handle: CallableHandle, way: Any) -> None:  # C3
    with refused("CALLABLE_NOT_SERIALIZABLE", r"pass handle\.hashid instead"):
        way(handle)


@pytest.fixture
def travelled() -> CallableHandle:
    """A child's handle as it arrives in another process."""
    passport = Passport()
    passport.valid = True
    sent: CallableHandle = pickle.loads(pickle.dumps(issue_handle(b"key", 5, content_of(len), "sub", passport)))
    return sent


def test_a_childs_handle_is_checked_where_it_arrives(travelled: CallableHandle) -> None:  # C3
    with pytest.raises(StaleHandle, match="belongs to another Worker"):
        verify_handle(travelled, b"other")
    assert [verify_handle(travelled, b"key") for _ in range(2)] == [5, 5]


@pytest.mark.parametrize(
    ("name", "value"),
    [("digest", bytes(32)), ("kind", CallableKind.CHIP), ("target_namespace", "x"), ("_serial", 6), ("_serial", -1)],
)
def test_a_handle_that_was_changed_on_its_way_is_found_out(
    travelled: CallableHandle, name: str, value: object
) -> None:  # C3
    object.__setattr__(travelled, name, value)
    with refused("CALLABLE_HANDLE_MUTATED", "is not as Worker.register made it"):
        verify_handle(travelled, b"key")


def test_a_handle_travels_once(travelled: CallableHandle) -> None:  # C3
    with refused("CALLABLE_NOT_SERIALIZABLE", r"pass handle\.hashid instead"):
        pickle.dumps(travelled)
