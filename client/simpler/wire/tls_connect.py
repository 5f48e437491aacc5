"""The client's end of TLS: to the daemon, and to the runner behind a lane.

A connection begins in clear where it must: the first frame of a lane, ATTACH, is for the daemon, which passes the
connection on; from the byte behind it on the runner speaks TLS, and the lane begins with ATTACH once more. And a daemon
that speaks no TLS, or takes no such lane, says so in clear. Anybody between may have said it: so it ends the connection
and does nothing else, and nothing in it is unpickled.
"""

from __future__ import annotations

import ssl

import trio

from simpler import limits
from simpler.error_record import decode_error
from simpler.errors import AuthError, ConnectError, SimplerError
from simpler.wire.control_messages import Attach, Fault
from simpler.wire.first_frame import receive_first
from simpler.wire.frames import MAGIC, VERSION, Flags, Frame, MessageType, encode_header
from simpler.wire.last_words import FAREWELL_TIMEOUT_S, hear_out
from simpler.wire.tls_stream import TlsStream

FRAME_START = MAGIC + bytes([VERSION])


async def connect_tls(
    stream: trio.SocketStream,
    context: ssl.SSLContext,
    *,
    name: str,
    server_hostname: str | None = None,
    timeout_s: float = limits.CONNECT_TIMEOUT_S,
) -> TlsStream:
    """TLS with ``name`` over ``stream``, which is taken over, and closed after an error.

    Raises AuthError when one end refuses the other, what the other end answers in clear, or ConnectError.
    """
    try:
        tls = TlsStream(stream, context, name=name, server_hostname=server_hostname)
    except trio.BrokenResourceError as error:
        raise ConnectError(f"the connection to {name} was lost: {error}") from error
    try:
        with trio.fail_after(timeout_s):
            await _shake_hands(tls, name)
    except BaseException as error:
        await trio.aclose_forcefully(tls)
        if isinstance(error, trio.TooSlowError):
            raise ConnectError(
                f"{name} did not finish the TLS handshake within {timeout_s:g} s", code="TIMEOUT"
            ) from None
        if isinstance(error, trio.BrokenResourceError):
            raise ConnectError(f"the connection to {name} ended during the TLS handshake: {error}") from error
        raise
    return tls


async def connect_tls_lane(
    stream: trio.SocketStream, context: ssl.SSLContext, attach: Attach, *, session: int, name: str
) -> TlsStream:
    """TLS with the runner of ``session`` (its number) behind ``stream``; otherwise as `connect_tls`.

    ``context`` is of `LaneIdentity`. The caller then requests ``attach`` on the lane.
    """
    payload = attach.encode()
    try:
        await stream.send_all(encode_header(attach.TYPE, Flags.NONE, 1, len(payload), session=session) + payload)
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise ConnectError(f"the connection to {name} broke: {error}") from error
    return await connect_tls(stream, context, name=name)


async def _shake_hands(tls: TlsStream, name: str) -> None:
    try:
        await tls.handshake()
    except AuthError as refusal:
        if getattr(refusal.__cause__, "reason", None) != "WRONG_VERSION_NUMBER":
            await hear_out(tls.give_up_tls())  # so that the other end learns why it is refused
            raise
        raise await _said_in_clear(tls.give_up_tls(), name) or refusal from None


async def _said_in_clear(stream: trio.SocketStream, name: str) -> SimplerError | None:
    """What a simplerd has answered in clear; None when it is something else.

    OpenSSL has read as many bytes as the header of a TLS record has, and they were none. Every frame of ours begins
    with the same bytes, as many; whether these were such is seen by what comes behind them.
    """
    async with stream:
        with trio.move_on_after(FAREWELL_TIMEOUT_S):
            try:
                frame, _ = await receive_first(stream, FRAME_START)
                return _refusal_in(frame, name)
            except (SimplerError, trio.BrokenResourceError):
                return None
    return None


def _refusal_in(frame: Frame, name: str) -> SimplerError | None:
    if frame.header.type is MessageType.FAULT:
        record = Fault.decode(frame.payload).error
    elif frame.header.flags & Flags.ERROR:
        record = frame.payload
    else:
        return None
    said = decode_error(record, trust_pickle=False)
    said.message = f"{name} speaks no TLS on this connection: {said.message}"
    return said
