"""The TCP port with TLS: certificates that are not good enough, and what comes instead of a handshake."""

from __future__ import annotations

import ssl
import struct
from pathlib import Path

from attacks.raw import Raw, frame
from attacks.scene import TIMEOUT_S, Scene, small
from attacks.table import attack
from simpler import limits
from simpler.wire.frames import MessageType as T
from simpler.wire.lane_identity import LaneIdentity
from tls_site import TlsSite

HELLO = {"versions": [2], "program": "attack", "pid": 1}
CROWD = 300
FFDHE8192 = 0x104
RECORD = 1 << 14
LONGEST_CLIENT_HELLO = 131_396
"""As much as OpenSSL takes: CLIENT_HELLO_MAX_LENGTH in its statem_srvr.c."""
CLIENT_HELLO_BEGINS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


def extension(number: int, content: bytes) -> bytes:
    return struct.pack("!HH", number, len(content)) + content


def client_hello(group: int, share: bytes) -> bytes:
    """A whole ClientHello (RFC 8446, 4.1.2) that offers one group for the key exchange."""
    shares = struct.pack("!HH", group, len(share)) + share
    extensions = (
        extension(43, b"\x02\x03\x04")  # supported_versions: 1.3
        + extension(10, struct.pack("!HH", 2, group))  # supported_groups
        + extension(13, struct.pack("!HH", 2, 0x0403))  # signature_algorithms: ECDSA with P-256 and SHA-256
        + extension(51, struct.pack("!H", len(shares)) + shares)  # key_share
    )
    suites = struct.pack("!HH", 2, 0x1301) + b"\x01\x00"
    body = b"\x03\x03" + bytes(32) + b"\x00" + suites + struct.pack("!H", len(extensions)) + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + struct.pack("!H", len(message)) + message


def client(scene: Scene, certificate: Path | None) -> ssl.SSLContext:
    """What a client that trusts the host shows: the certificate in this folder, or none."""
    context = ssl.create_default_context(cafile=scene.fortress.site.client.ca)
    if certificate is not None:
        context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    return context


def good(scene: Scene) -> ssl.SSLContext:
    return client(scene, Path(scene.fortress.site.client.certificate).parent)


def shaken(scene: Scene, context: ssl.SSLContext) -> Raw:
    """A connection after the handshake."""
    secured = context.wrap_socket(scene.tcp().socket, server_hostname="127.0.0.1")
    scene.open.callback(secured.close)
    return Raw(secured)


def refused(scene: Scene, context: ssl.SSLContext) -> str:
    """The alert that a client gets, in the handshake or, as TLS 1.3 allows, with the first bytes."""
    try:
        raw = shaken(scene, context)
        raw.say(T.HELLO, HELLO)
        return raw.refusal()
    except ssl.SSLError as alert:
        return str(alert)


def told(scene: Scene, said: bytes) -> str:
    """What is said to bytes that are no TLS, or not enough of it: in clear, or as an alert, which is all that it is."""
    raw = scene.tcp()
    raw.send(said)
    raw.socket.settimeout(TIMEOUT_S)
    answer = b""
    try:
        while piece := raw.socket.recv(4096):
            answer += piece
    except ConnectionResetError:
        return "hung up"
    return "an alert, or nothing" if answer[:1] in (b"", b"\x15") else "something else"


@attack(r"CERTIFICATE_REQUIRED", logged=r"(?i)certificate")
def no_certificate(scene: Scene) -> str:
    """A client without a certificate."""
    return refused(scene, client(scene, None))


@attack(r"UNKNOWN_CA", logged=r"(?i)certificate|issuer")
def a_certificate_of_another_authority(scene: Scene) -> str:
    """A certificate with the right name, of a CA that anybody can make."""
    other = TlsSite(scene.fortress.allowed.parent / "another-authority")
    return refused(scene, client(scene, Path(other.client.certificate).parent))


@attack(r"EXPIRED", logged=r"expired")
def a_certificate_that_has_expired(scene: Scene) -> str:
    """Yesterday's certificate."""
    return refused(scene, client(scene, scene.fortress.site.issued("client", "late", days=0)))


@attack(r"(?i)certificate", logged=r"(?i)purpose")
def the_certificate_of_a_host(scene: Scene) -> str:
    """A host's certificate, stolen and shown as a client's."""
    return refused(scene, client(scene, scene.fortress.site.host))


@attack(r"(?i)version", logged="offers no TLS 1.3")
def an_older_tls(scene: Scene) -> str:
    """A client that speaks TLS 1.2 and nothing newer."""
    context = good(scene)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return refused(scene, context)


@attack(r"AUTH.*takes TCP clients only over TLS")
def hello_in_clear(scene: Scene) -> str:
    """A HELLO without TLS."""
    raw = scene.tcp()
    raw.say(T.HELLO, HELLO)
    return raw.refusal()


@attack(r"AUTH.*was not opened over TLS")
def a_lane_of_a_local_session(scene: Scene) -> str:
    """The right token of a session that was opened on the Unix socket, over TCP."""
    raw = scene.tcp()
    scene.victim.attach(raw, "data")
    return raw.refusal()


@attack(r"AUTH.*there is no session 's-[0-9a-f]{8}' with that token, or it has ended")
def how_a_session_ended(scene: Scene) -> str:
    """A lane of a session that is over, to be told by somebody without a certificate why it is."""
    raw = shaken(scene, good(scene))
    raw.good(T.HELLO, HELLO)
    opened = raw.good(T.OPEN, {"manifest": small(), "lane_certificate": LaneIdentity.make().certificate})
    raw.good(T.CLOSE, {"session": opened["session"], "reason": "nobody's business"})
    lane = scene.tcp()
    lane.say(T.ATTACH, {"session": opened["session"], "token": opened["token"], "lane": "data"})
    said = lane.refusal()
    assert "business" not in said
    return said


@attack(r"ATTACH comes in clear")
def attach_inside_tls(scene: Scene) -> str:
    """A lane inside the daemon's own TLS, where the daemon could read along."""
    raw = shaken(scene, good(scene))
    scene.victim.attach(raw, "data")
    return raw.refusal()


@attack(r"BAD_MAGIC")
def rubbish_inside_tls(scene: Scene) -> str:
    """A good handshake, and then no frame."""
    raw = shaken(scene, good(scene))
    raw.send(b"x" * 44)
    return raw.refusal()


@attack(r"no whole frame came within 1 s")
def silence_inside_tls(scene: Scene) -> str:
    """A good handshake, and then nothing."""
    return shaken(scene, good(scene)).refusal()


@attack(r"ARGUMENT.*OPEN over TLS needs a lane_certificate")
def a_session_without_its_certificate(scene: Scene) -> str:
    """An OPEN over TLS whose lanes nobody could tell from anybody else's."""
    raw = shaken(scene, good(scene))
    raw.good(T.HELLO, HELLO)
    raw.say(T.OPEN, {"manifest": small()})
    return raw.refusal()


@attack(r"AUTH.*lane certificate of 102 bytes is no X.509 certificate")
def a_certificate_that_is_none(scene: Scene) -> str:
    """An OPEN whose lane certificate is rubbish."""
    raw = shaken(scene, good(scene))
    raw.good(T.HELLO, HELLO)
    raw.say(T.OPEN, {"manifest": small(), "lane_certificate": b"\x30\x82" + bytes(100)})
    return raw.refusal()


@attack(r"lane refused", logged=r"was given up")
def the_lane_of_another_identity(scene: Scene) -> str:
    """The right token, in time, and then TLS with a certificate that the session does not know."""
    raw = shaken(scene, good(scene))
    raw.good(T.HELLO, HELLO)
    mine, stranger = LaneIdentity.make(), LaneIdentity.make()
    opened = raw.good(T.OPEN, {"manifest": small(), "lane_certificate": mine.certificate})
    lane = scene.tcp()
    attach = {"session": opened["session"], "token": opened["token"], "lane": "data"}
    lane.send(frame(T.ATTACH, attach, session=opened["number"]))
    try:
        secured = stranger.client_context(opened["lane_certificate"]).wrap_socket(lane.socket)
        scene.open.callback(secured.close)
        if not secured.recv(1):
            return "lane refused"
    except (ssl.SSLError, ConnectionResetError):
        return "lane refused"
    return "lane taken"


@attack(r"an alert, or nothing|hung up", logged="a client was refused")
def rubbish_after_the_first_byte(scene: Scene) -> str:
    """The first byte of a handshake, and then rubbish."""
    return told(scene, b"\x16" + b"\xff" * 4096)


@attack(r"an alert, or nothing|hung up", logged="a client was refused")
def a_record_of_sixty_four_kilobytes(scene: Scene) -> str:
    """A TLS record longer than any may be."""
    return told(scene, b"\x16\x03\x01\xff\xff" + bytes(70_000))


@attack(r"an alert, or nothing|hung up", logged="no whole frame came within 1 s")
def a_handshake_that_stops(scene: Scene) -> str:
    """The beginning of a ClientHello, and nothing more."""
    return told(scene, CLIENT_HELLO_BEGINS)


@attack(r"waited for", logged="no whole frame came within 1 s")
def a_handshake_byte_by_byte(scene: Scene) -> str:
    """A ClientHello of which a byte comes now and then."""
    raw = scene.tcp()
    raw.socket.settimeout(0.05)
    for byte in CLIENT_HELLO_BEGINS + bytes(200):
        raw.send(struct.pack("B", byte))
        try:
            if not raw.socket.recv(4096):
                return "it was not waited for"
        except TimeoutError:
            continue
        except ConnectionResetError:
            return "it was not waited for"
    return "everything was taken"


@attack(r"an alert, or nothing", logged="offers no key exchange by P-256")
def key_exchanges_that_cost_much(scene: Scene) -> str:
    """The most expensive key exchange that TLS has, on as many connections as may be silent."""
    hello = client_hello(FFDHE8192, b"\x7f" * 1024)
    for _ in range(limits.SILENT_CONNECTIONS - 1):
        scene.tcp().send(hello)
    return told(scene, hello)


@attack(r"no whole|an alert, or nothing|hung up", logged="no whole frame came within 1 s")
def client_hellos_that_lack_a_byte(scene: Scene) -> str:
    """The longest ClientHello that is taken but its last byte, on as many connections as may be silent."""
    message = b"\x01" + LONGEST_CLIENT_HELLO.to_bytes(3, "big") + bytes(LONGEST_CLIENT_HELLO)
    pieces = (message[at : at + RECORD] for at in range(0, len(message), RECORD))
    said = b"".join(b"\x16\x03\x01" + struct.pack("!H", len(piece)) + piece for piece in pieces)[:-1]
    for _ in range(limits.SILENT_CONNECTIONS - 1):
        scene.tcp().send(said)
    return told(scene, said)


@attack(r"hung up", logged="it said nothing, and gave way: 128 connections were silent")
def half_handshakes(scene: Scene) -> str:
    """Hundreds of half handshakes, while another address wants to get in."""
    crowd = []
    for _ in range(CROWD):
        raw = scene.tcp()
        raw.send(CLIENT_HELLO_BEGINS)
        crowd.append(raw)
    newcomer = Scene(scene.fortress, scene.uid + 1000)
    with newcomer.open:
        shaken(newcomer, good(newcomer)).good(T.HELLO, HELLO)
    crowd[0].socket.settimeout(TIMEOUT_S)
    try:
        return "hung up" if crowd[0].socket.recv(1) == b"" else "answered"
    except ConnectionResetError:
        return "hung up"


@attack(r"AUTH.*cannot be resumed")
def a_session_resumed_from_the_host_itself(scene: Scene) -> str:
    """RESUME of a TLS client's session, with the right token, on the Unix socket."""
    raw = shaken(scene, good(scene))
    raw.good(T.HELLO, HELLO)
    opened = raw.good(T.OPEN, {"manifest": small(), "lane_certificate": LaneIdentity.make().certificate})
    thief = scene.control()
    thief.say(T.RESUME, {"session": opened["session"], "token": opened["resume"]})
    return thief.refusal()
