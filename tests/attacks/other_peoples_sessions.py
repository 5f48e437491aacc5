"""Sessions of others: what is done with their names, tokens and numbers by who has no right to."""

from __future__ import annotations

from attacks.raw import described
from attacks.scene import Scene, Session
from attacks.table import attack
from simpler.wire.frames import MessageType as T


def attached(scene: Scene, lane: str = "data", **fields: object) -> str:
    """What is said to an ATTACH to the victim's session, with its token unless told otherwise."""
    raw = scene.unix()
    scene.victim.attach(raw, lane, **fields)
    return raw.refusal()


@attack(r"AUTH.*the token is not that of session|AUTH.*the token is not that")
def a_guessed_token(scene: Scene) -> str:
    """A lane of somebody's session with a token of the right length."""
    return attached(scene, token=bytes(32))


@attack(r"AUTH.*the token is not that")
def an_empty_token(scene: Scene) -> str:
    """A lane with no token at all."""
    return attached(scene, token=b"")


@attack(r"AUTH.*the token is not that")
def the_beginning_of_a_token(scene: Scene) -> str:
    """All of the token but its last byte."""
    return attached(scene, token=scene.victim.token[:-1])


@attack(r"AUTH.*the token is not that")
def more_than_the_token(scene: Scene) -> str:
    """The token and one byte more."""
    return attached(scene, token=scene.victim.token + b"\0")


@attack(r"AUTH.*the token is not that")
def ones_own_token(scene: Scene) -> str:
    """The token of another session, which is good there."""
    return attached(scene, token=scene.opened().token)


@attack(r"the command lane .* cannot be attached: it was attached before")
def a_token_used_again(scene: Scene) -> str:
    """The right token, overheard and sent again."""
    return attached(scene, "command")


@attack(r"ARGUMENT.*lane|Invalid enum value")
def a_lane_that_there_is_not(scene: Scene) -> str:
    """A lane called "admin"."""
    return attached(scene, "admin")


@attack(r"NO_SUCH_SESSION.*there is no session 's-00000000'")
def a_session_that_never_was(scene: Scene) -> str:
    """A lane of a session that there is not."""
    return attached(scene, session="s-00000000")


@attack(r"there is no session '\.\./\.\./etc/passwd")
def a_session_that_is_a_path(scene: Scene) -> str:
    """A session whose name is a path."""
    return attached(scene, session="../../etc/passwd")


@attack(r"STALE_HANDLE.*session s-[0-9a-f]{8} has ended")
def a_session_that_has_ended(scene: Scene) -> str:
    """The token of a session that is over."""
    mine = scene.opened()
    mine.control.good(T.CLOSE, {"session": mine.id, "reason": "done"})
    raw = scene.unix()
    mine.attach(raw, "data")
    return raw.refusal()


@attack(r"STALE_HANDLE.*was not opened on this connection")
def close_somebody_elses(scene: Scene) -> str:
    """CLOSE of the session of another client."""
    return described_error(scene, {"session": scene.victim.id, "reason": "mine now"})


@attack(r"STALE_HANDLE.*was not opened on this connection")
def close_ones_own_from_elsewhere(scene: Scene) -> str:
    """CLOSE of one's own session, on a connection that did not open it."""
    return described_error(scene, {"session": scene.opened().id, "reason": "mine"})


@attack(r"STALE_HANDLE.*was not opened on this connection, or was closed before")
def close_twice(scene: Scene) -> str:
    """CLOSE of a session that was closed."""
    mine = scene.opened()
    mine.control.good(T.CLOSE, {"session": mine.id, "reason": "done"})
    answer = mine.control.ask(T.CLOSE, {"session": mine.id, "reason": "again"})
    assert answer.error is not None
    return described(answer.error)


@attack(r"STALE_HANDLE.*has ended: its client closed it: zz", logged=r"session\.ended .*characters in all")
def close_for_a_reason_of_a_megabyte(scene: Scene) -> str:
    """CLOSE with a reason of 900,000 characters, which would be kept for operators."""
    mine = scene.opened()
    mine.control.good(T.CLOSE, {"session": mine.id, "reason": "z" * 900_000})
    raw = scene.unix()
    mine.attach(raw, "data")
    said = raw.refusal()
    assert len(said) < 20_000
    return said


def described_error(scene: Scene, close: dict[str, str]) -> str:
    raw = scene.control()
    raw.say(T.CLOSE, close)
    return raw.refusal()


@attack(r"AUTH.*the token is not that", logged=r"more was refused|the token is not that")
def guess_after_guess(scene: Scene) -> str:
    """Hundreds of tokens, one after the other: each is refused, and the log does not grow with them."""
    for guess in range(300):
        raw = scene.unix()
        with raw.socket:
            scene.victim.attach(raw, "data", token=guess.to_bytes(32, "big"))
            said = raw.refusal()
            assert "the token is not that" in said
    return said


def resumed(scene: Scene, session: Session, token: bytes) -> str:
    """What is said to RESUME on a fresh control connection."""
    raw = scene.unix()
    raw.good(T.HELLO, {"versions": [2], "program": "attack", "pid": 1})
    raw.say(T.RESUME, {"session": session.id, "token": token})
    return raw.refusal()


@attack(r"AUTH.*cannot be resumed: the token or the client is not its own")
def resume_by_a_guess(scene: Scene) -> str:
    """RESUME of the victim's session with a guessed token."""
    return resumed(scene, scene.victim, bytes(32))


@attack(r"AUTH.*cannot be resumed: the token or the client is not its own")
def resume_with_the_token_of_the_lanes(scene: Scene) -> str:
    """RESUME of the victim's session with the token of its lanes."""
    return resumed(scene, scene.victim, scene.victim.token)


@attack(r"AUTH.*cannot be resumed: the token or the client is not its own")
def resume_as_somebody_else(scene: Scene) -> str:
    """RESUME with the right token, by another user than the one who opened the session."""
    assert scene.victim.resume, "the victim's session has no token to resume it"
    return resumed(scene, scene.victim, scene.victim.resume)


@attack(r"AUTH.*cannot be resumed")
def resume_again_and_again(scene: Scene) -> str:
    """RESUME of one's own session 1,000 times, which is told of once all the same, and then with a guessed token."""
    mine = scene.opened()
    for _ in range(1000):
        mine.control.good(T.RESUME, {"session": mine.id, "token": mine.resume})
    assert len(scene.log()) < 10
    mine.control.say(T.RESUME, {"session": mine.id, "token": bytes(32)})
    return mine.control.refusal()


@attack(r"AUTH.*cannot be resumed|NO_SUCH_SESSION|STALE_HANDLE")
def resume_what_has_ended(scene: Scene) -> str:
    """RESUME of a session that is over."""
    mine = scene.opened()
    mine.control.good(T.CLOSE, {"session": mine.id, "reason": "done"})
    return resumed(scene, mine, mine.resume)
