"""What is said on command lanes about memory of one session that another uses."""

from __future__ import annotations

from typing import Annotated

import msgspec

from simpler import limits
from simpler.wire.control_messages import LaneCertificate
from simpler.wire.frames import MessageType
from simpler.wire.messages import Message, Natural, Request, Seconds

Rights = Annotated[int, msgspec.Meta(ge=1, le=3)]
"""1: may be read, 2: may be written, 3: both."""


class GrantReply(Message, frozen=True, kw_only=True):
    """``secret``: with it the importer's runner gets the range, once."""

    TYPE = MessageType.GRANT
    secret: bytes


class Grant(Request[GrantReply], frozen=True, kw_only=True):
    """To the owner: the session ``importer`` may use a range of a buffer, with these rights.

    ``certificate``: what it shows on lanes under TLS, where it comes from another daemon.
    """

    TYPE = MessageType.GRANT
    REPLY = GrantReply
    buffer: Natural
    generation: Natural
    offset: Natural
    nbytes: Annotated[int, msgspec.Meta(ge=1)]
    access: Rights
    importer: str
    certificate: LaneCertificate = b""


class RevokeReply(Message, frozen=True, kw_only=True):
    """The secret is of no use any more."""

    TYPE = MessageType.REVOKE


class Revoke(Request[RevokeReply], frozen=True, kw_only=True):
    """To the owner: a grant that was not used, or of which that is not known. One that was used is left alone."""

    TYPE = MessageType.REVOKE
    REPLY = RevokeReply
    secret: bytes


class ImportReply(Message, frozen=True, kw_only=True):
    """The name that the import has in the importer's session, like that of a buffer."""

    TYPE = MessageType.IMPORT
    buffer: Natural
    generation: Natural


class Import(Request[ImportReply], frozen=True, kw_only=True):
    """To the importer: get what the session ``owner`` granted. ``number``: what frame headers call that session.

    ``endpoint``, ``certificate``: where the owner's daemon is, should it be another, and what the owner shows there.
    ``silence_s``: how long it may be cut off before tasks that use the import fail.
    """

    TYPE = MessageType.IMPORT
    REPLY = ImportReply
    owner: str
    number: Annotated[int, msgspec.Meta(ge=0, lt=1 << 56)]
    secret: bytes
    nbytes: Annotated[int, msgspec.Meta(ge=1)]
    access: Rights
    endpoint: str = ""
    silence_s: Seconds = limits.HEALTH_TIMEOUT_S
    certificate: LaneCertificate = b""


class ReleaseReply(Message, frozen=True, kw_only=True):
    """The import's name is void, and the owner knows."""

    TYPE = MessageType.RELEASE


class Release(Request[ReleaseReply], frozen=True, kw_only=True):
    """To the importer: give an import back. On a peer lane, to the owner: the import that the lane is, buffer 0."""

    TYPE = MessageType.RELEASE
    REPLY = ReleaseReply
    buffer: Natural
    generation: Natural
