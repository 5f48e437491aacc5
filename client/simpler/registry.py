"""The callables that a Worker knows: their content, the handles it has given out, and how many of those still live.

Rules
  1. A digest lives as long as its last handle. Each handle is released once, and refused afterwards.
  2. Changes are made under ``lock``, which nobody holds for long; looking up needs none. What workers must confirm
     first, or are told afterwards, is for registrar.py.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

import msgspec

from simpler.callable_handle import CallableHandle, Passport, issue_handle, verify_handle
from simpler.callables import CallableKind, ChipCallable, Content, RemoteCallable, format_hashid, parse_hashid
from simpler.errors import RegistrationError, StaleHandle
from simpler.targets import NOWHERE, Target


@dataclass(slots=True)
class Entry:
    """One digest. ``name`` is for people; ``handles`` are the serials of the live ones.

    ``scope``: the workers that ``register`` was given, None for all that it is usually for. ``target``: who that is,
    once the Worker has started.
    """

    content: Content
    name: str
    digest: bytes
    kind: CallableKind
    scope: frozenset[int] | None
    target: Target
    handles: set[int] = field(default_factory=set)


class RegisteredContent(msgspec.Struct, frozen=True):
    """An entry, as it goes to another process of its Worker."""

    descriptor: bytes
    payload: bytes
    name: str
    scope: frozenset[int] | None
    handles: list[int]


class RegistryContents(msgspec.Struct, frozen=True):
    """A whole registry, as it goes to another process of its Worker."""

    key: bytes
    serial: int
    entries: list[RegisteredContent]


class Registry:
    """The callables of one Worker."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._key = os.urandom(16)
        self._serial = 0
        self.passport = Passport()
        self._by_handle: dict[int | str, Entry] = {}  # by the serial of a handle, or the hashid
        self._by_digest: dict[bytes, Entry] = {}
        self._concealed: set[bytes] = set()

    def contents(self) -> RegistryContents:
        """All of it, for ``restored``."""
        entries = [
            RegisteredContent(
                entry.content.descriptor, entry.content.payload, entry.name, entry.scope, sorted(entry.handles)
            )
            for entry in self.entries()
        ]
        return RegistryContents(self._key, self._serial, entries)

    @classmethod
    def restored(cls, contents: RegistryContents) -> Registry:
        """The registry that ``contents`` gave; it knows the same handles."""
        registry = cls()
        for each in contents.entries:
            entry = registry.add(Content(each.descriptor, each.payload), each.name, each.scope)
            entry.handles.update(each.handles)
            registry._by_handle.update(dict.fromkeys(each.handles, entry))
        registry._key, registry._serial = contents.key, contents.serial
        return registry

    def find(self, content: Content) -> Entry | None:
        """The entry of that digest. Raises RegistrationError when it has another content."""
        entry = self._by_digest.get(content.digest)
        if entry is not None and entry.content != content:
            raise RegistrationError(
                f"{content.hashid} is registered with another descriptor or payload", code="HASHID_DESCRIPTOR_MISMATCH"
            )
        return entry

    def add(self, content: Content, name: str, scope: frozenset[int] | None = None, target: Target = NOWHERE) -> Entry:
        """A new entry, for ``find`` to find."""
        entry = Entry(content, name, content.digest, content.kind, scope, target)
        self._by_digest[entry.digest] = self._by_handle[content.hashid] = entry
        return entry

    def enter(self, content: Content, name: str, scope: frozenset[int] | None, target_namespace: str) -> CallableHandle:
        """A handle of a callable that no worker needs to confirm, because none has started yet."""
        with self.lock:
            entry = self.find(content)
            if entry is None:
                entry = self.add(content, name, scope)
            elif entry.scope != scope:
                raise scope_mismatch(content, name)
            return self.issue(entry, target_namespace)

    def issue(self, entry: Entry, target_namespace: str) -> CallableHandle:
        """A new handle of the entry."""
        with self.lock:
            self._serial += 1
            handle = issue_handle(self._key, self._serial, entry.content, target_namespace, self.passport)
            entry.handles.add(self._serial)
            self._by_handle[self._serial] = entry
            return handle

    def has(self, digest: bytes) -> bool:
        """Whether something of that digest is registered."""
        return digest in self._by_digest

    def forget(self, digest: bytes) -> None:
        """Undoes ``add`` and ``issue``, wherever they were interrupted: nobody has got a handle yet."""
        with self.lock:
            entry = self._by_digest.pop(digest, None)
            self._by_handle.pop(format_hashid(digest), None)
            for serial in entry.handles if entry is not None else ():
                self._by_handle.pop(serial, None)

    def conceal(self, digest: bytes) -> None:
        """Its hashid stands for nothing until ``reveal``, whatever is registered meanwhile; a handle does."""
        self._concealed.add(digest)

    def reveal(self, digest: bytes) -> None:
        """Undoes ``conceal``."""
        self._concealed.discard(digest)

    def digest_of(self, handle: CallableHandle) -> bytes:
        """What a handle of this registry stands for, released or not. Raises as ``resolve`` does for any other."""
        verify_handle(handle, self._key)
        return handle.digest

    def release(self, handle: CallableHandle) -> Entry:
        """Takes back a handle. With its last one the entry is not found any more. Raises as ``resolve`` does."""
        serial = verify_handle(handle, self._key)
        with self.lock:
            entry = self.resolve(handle)
            entry.handles.discard(serial)  # should this be interrupted, it is released once more
            if not entry.handles:
                self._by_handle.pop(entry.content.hashid, None)
            del self._by_handle[serial]
            if not entry.handles:
                self._by_digest.pop(entry.digest, None)
            return entry

    def resolve(self, handle: CallableHandle | str) -> Entry:
        """The entry that a handle, or the hashid of something registered, stands for.

        Raises StaleHandle for a released or foreign handle, RegistrationError for a forged or changed one, a malformed
        hashid (HASHID_FORMAT_INVALID) and an unknown one (CALLABLE_NOT_REGISTERED), ArgumentError for anything else.
        """
        if isinstance(handle, str):
            entry = self._by_handle.get(handle)
            if self._concealed and entry is not None and entry.digest in self._concealed:
                entry = None
        else:
            entry = self._by_handle.get(verify_handle(handle, self._key))
        if entry is not None:
            return entry
        if isinstance(handle, str):
            parse_hashid(handle)
            raise RegistrationError(f"{handle} is not registered with this Worker", code="CALLABLE_NOT_REGISTERED")
        raise StaleHandle(f"{handle!r} was unregistered; register the callable again")

    def name_of(self, digest: bytes) -> str:
        """A callable's name for people."""
        entry = self._by_digest.get(digest)
        return entry.name if entry is not None else f"sha256:{digest.hex()}"

    def names(self) -> dict[bytes, str]:
        """Names for people, by digest."""
        return {entry.digest: entry.name for entry in self.entries()}

    def entries(self) -> list[Entry]:
        """All that is registered."""
        return list(self._by_digest.values())


def scope_mismatch(content: Content, name: str) -> RegistrationError:
    """The error for a callable that is registered already, for other workers."""
    return RegistrationError(
        f"{name} is registered for other workers; name the same ones, or unregister it there first",
        code="REMOTE_CALLABLE_ENDPOINT_SCOPE_MISMATCH",
        hashid=content.hashid,
    )


def display_name(target: object) -> str:
    """What people call a callable: in errors and traces."""
    if isinstance(target, ChipCallable):
        return target.symbol
    if isinstance(target, RemoteCallable):
        return target.target
    if isinstance(target, Content):
        return target.hashid
    return str(getattr(target, "__qualname__", type(target).__name__))
