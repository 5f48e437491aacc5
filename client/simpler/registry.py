"""The callables that a Worker knows: their content, the handles it has given out, and how many of those still live.

Rules
  1. A digest lives as long as its last handle. Each handle is released once, and refused afterwards.
  2. Changes are made under ``lock``, which is held while workers confirm; looking up needs none.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from simpler.callables import (
    CallableHandle,
    CallableKind,
    ChipCallable,
    Content,
    RemoteCallable,
    issue_handle,
    parse_hashid,
    verify_handle,
)
from simpler.errors import RegistrationError, StaleHandle


@dataclass(slots=True)
class Entry:
    """One digest. ``name`` is for people; ``handles`` are the live ones."""

    content: Content
    name: str
    digest: bytes
    kind: CallableKind
    handles: set[CallableHandle] = field(default_factory=set)


class Registry:
    """The callables of one Worker."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._key = os.urandom(16)
        self._serial = 0
        self._by_handle: dict[CallableHandle | str, Entry] = {}
        self._by_digest: dict[bytes, Entry] = {}

    def find(self, content: Content) -> Entry | None:
        """The entry of that digest. Raises RegistrationError when it has another content."""
        entry = self._by_digest.get(content.digest)
        if entry is not None and entry.content != content:
            raise RegistrationError(
                f"{content.hashid} is registered with another descriptor or payload", code="HASHID_DESCRIPTOR_MISMATCH"
            )
        return entry

    def add(self, content: Content, name: str) -> Entry:
        """A new entry, for ``find`` to find."""
        entry = Entry(content, name, content.digest, content.kind)
        self._by_digest[entry.digest] = self._by_handle[content.hashid] = entry
        return entry

    def remove(self, entry: Entry) -> None:
        """Forgets an entry that has no handle."""
        del self._by_digest[entry.digest], self._by_handle[entry.content.hashid]

    def issue(self, entry: Entry, target_namespace: str) -> CallableHandle:
        """A new handle of the entry."""
        self._serial += 1
        handle = issue_handle(self._key, self._serial, entry.content, target_namespace)
        self._by_handle[handle] = entry
        entry.handles.add(handle)
        return handle

    def release(self, handle: CallableHandle) -> Entry:
        """Takes back a handle; its entry may have others."""
        entry = self.resolve(handle)
        del self._by_handle[handle]
        entry.handles.remove(handle)
        return entry

    def resolve(self, handle: CallableHandle | str) -> Entry:
        """The entry that a handle, or the hashid of something registered, stands for.

        Raises StaleHandle for a released or foreign handle, RegistrationError for a forged or changed one, a malformed
        hashid (HASHID_FORMAT_INVALID) and an unknown one (CALLABLE_KIND_UNSUPPORTED), ArgumentError for anything else.
        """
        if isinstance(handle, str):
            parse_hashid(handle)
        else:
            verify_handle(handle, self._key)
        entry = self._by_handle.get(handle)
        if entry is not None:
            return entry
        if isinstance(handle, str):
            raise RegistrationError(f"{handle} is not registered with this Worker", code="CALLABLE_KIND_UNSUPPORTED")
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


def display_name(target: object) -> str:
    """What people call a callable: in errors and traces."""
    if isinstance(target, ChipCallable):
        return target.symbol
    if isinstance(target, RemoteCallable):
        return target.target
    if isinstance(target, Content):
        return target.hashid
    return str(getattr(target, "__qualname__", type(target).__name__))
