"""Memory between sessions: grants that were guessed, used twice, used by somebody else, or ask for too much."""

from __future__ import annotations

from typing import Any

from attacks.raw import HUNG_UP, Raw, frame
from attacks.scene import Scene, Session
from attacks.table import attack
from simpler import limits
from simpler.wire.frames import MessageType as T

READ = 1


def granted(owner: Session, importer: str, **fields: Any) -> bytes:
    """The secret of a grant of 64 bytes to `importer`."""
    wish = {**owner.malloc(64), "offset": 0, "nbytes": 64, "access": READ, "importer": importer}
    return bytes(owner.command.good(T.GRANT, wish | fields)["secret"])


def wanting(owner: Session, secret: bytes, **fields: Any) -> dict[str, Any]:
    return {"owner": owner.id, "number": owner.number, "secret": secret, "nbytes": 64, "access": READ} | fields


def asked(raw: Raw, type: int, payload: dict[str, Any]) -> str:
    raw.say(type, payload)
    return raw.refusal()


@attack(r"has granted whoever asks nothing by that secret", logged="has granted whoever asks nothing by that secret")
def a_guessed_secret(scene: Scene) -> str:
    """A lane to the victim's memory with a secret of the right length, from nobody's session."""
    raw = scene.unix()
    scene.victim.attach(raw, "peer", token=bytes(32))
    return raw.refusal()


@attack(r"has granted whoever asks nothing by that secret", logged="more was refused|nothing by that secret")
def secret_after_secret(scene: Scene) -> str:
    """Hundreds of secrets, one after the other: each is refused, and the log does not grow with them."""
    owner = scene.opened()
    for guess in range(300):
        raw = scene.unix()
        with raw.socket:
            owner.attach(raw, "peer", token=guess.to_bytes(32, "big"))
            said = raw.refusal()
            assert "nothing by that secret" in said
    return said


@attack(r"has granted whoever asks nothing by that secret", logged="has granted whoever asks nothing by that secret")
def the_token_for_a_secret(scene: Scene) -> str:
    """A session's own token, shown where a grant's secret belongs."""
    raw = scene.unix()
    scene.victim.attach(raw, "peer")
    return raw.refusal()


@attack(r"has granted session s-[0-9a-f]{8} nothing by that secret")
def a_secret_of_ones_own_making(scene: Scene) -> str:
    """IMPORT from the victim's session by a secret that it never gave."""
    return asked(scene.opened().command, T.IMPORT, wanting(scene.victim, bytes(32)))


@attack(r"has granted session s-[0-9a-f]{8} nothing by that secret")
def a_secret_for_somebody_else(scene: Scene) -> str:
    """A grant to one session, used by another of the same daemon."""
    secret = granted(scene.victim, "s-00000001")
    return asked(scene.opened().command, T.IMPORT, wanting(scene.victim, secret))


@attack(r"has granted session s-[0-9a-f]{8} nothing by that secret")
def a_secret_used_twice(scene: Scene) -> str:
    """A grant that was used, overheard and used again."""
    mine = scene.opened()
    secret = granted(scene.victim, mine.id)
    mine.command.good(T.IMPORT, wanting(scene.victim, secret))
    return asked(mine.command, T.IMPORT, wanting(scene.victim, secret))


@attack(r"has granted session s-[0-9a-f]{8} nothing by that secret")
def a_secret_that_was_revoked(scene: Scene) -> str:
    """A grant that was taken back."""
    mine = scene.opened()
    secret = granted(scene.victim, mine.id)
    scene.victim.command.good(T.REVOKE, {"secret": secret})
    return asked(mine.command, T.IMPORT, wanting(scene.victim, secret))


@attack(r"STALE_HANDLE|was freed")
def a_grant_of_what_was_freed(scene: Scene) -> str:
    """A grant whose buffer was freed before it was used."""
    mine, name = scene.opened(), scene.victim.malloc(64)
    secret = granted(scene.victim, mine.id, **name)
    scene.victim.command.good(T.FREE, name)
    return asked(mine.command, T.IMPORT, wanting(scene.victim, secret))


@attack(r"bytes 32 to 96 of a buffer of 64")
def a_grant_beyond_the_end(scene: Scene) -> str:
    """GRANT of what lies behind a buffer."""
    mine = scene.opened()
    wish = {**mine.malloc(64), "offset": 32, "nbytes": 64, "access": READ, "importer": "s-00000001"}
    return asked(mine.command, T.GRANT, wish)


@attack(r"ARGUMENT.*access")
def a_grant_of_rights_that_there_are_not(scene: Scene) -> str:
    """GRANT of right number 7."""
    mine = scene.opened()
    wish = {**mine.malloc(64), "offset": 0, "nbytes": 64, "access": 7, "importer": "s-00000001"}
    return asked(mine.command, T.GRANT, wish)


@attack(rf"CAPACITY.*{limits.GRANTS_WAITING} grants")
def grants_without_end(scene: Scene) -> str:
    """One grant after the other, of which none is used."""
    mine = scene.opened()
    wish = {**mine.malloc(64), "offset": 0, "nbytes": 64, "access": READ, "importer": "s-00000001"}
    for _ in range(limits.GRANTS_WAITING):
        mine.command.good(T.GRANT, wish)
    return asked(mine.command, T.GRANT, wish)


@attack(r"AUTH.*the token is not that of session")
def the_region_of_the_victim(scene: Scene) -> str:
    """A lane for the descriptor of the victim's whole memory, with a guessed token."""
    raw = scene.unix()
    scene.victim.attach(raw, "memory", token=bytes(32))
    return raw.refusal()


@attack(r"UNSUPPORTED.*memory is shared over Unix sockets only")
def the_region_over_tcp(scene: Scene) -> str:
    """One's own session's memory as a descriptor, over TCP."""
    mine, raw = scene.opened(), scene.tcp()
    mine.attach(raw, "memory")
    return raw.refusal()


@attack(r"STALE_HANDLE")
def where_a_stale_buffer_lies(scene: Scene) -> str:
    """LOCATE of a buffer that was freed, for who has the descriptor."""
    mine = scene.opened()
    name = mine.malloc(64)
    mine.command.good(T.FREE, name)
    return asked(mine.data, T.LOCATE, name)


@attack(rf"has granted whoever asks|{HUNG_UP}", logged="has granted whoever asks nothing by that secret")
def frames_behind_a_guessed_secret(scene: Scene) -> str:
    """A guessed secret with copies sent right behind it, before the answer."""
    raw = scene.unix()
    scene.victim.attach(raw, "peer", token=bytes(32))
    copy = {"buffer": 0, "generation": 0, "offset": 0, "nbytes": 64}
    raw.send(b"".join(frame(T.COPY_FROM, copy, sequence=number) for number in range(2, 100)))
    return raw.refusal()
