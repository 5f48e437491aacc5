"""Metrics over HTTP/1.1 on this host (RFC 9112): GET /metrics for a Prometheus server, GET /healthz for who probes;
HEAD has the same answers without their text.

Rules
  1. Loopback only (config.py sees to that), and nothing can be changed here: every user of the host may read it.
  2. A connection is one request and its answer, within a deadline; its head has at most HTTP_HEAD_BYTES, and what
     follows that is not read. When there are too many the oldest gives way, so that a scraper always gets in.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

import trio

from simpler import limits
from simplerd.log import get_logger
from simplerd.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    import h11

PLAIN = "text/plain; charset=utf-8"
RECEIVE_BYTES = 4096
_log = get_logger("metrics")


class Answer(NamedTuple):
    """What a request gets."""

    status: int
    text: str
    content_type: str = PLAIN


class MetricsListener:
    """Serves `metrics`, and what `self_check` says: what is wrong with the daemon, or None."""

    def __init__(
        self,
        metrics: Metrics,
        self_check: Callable[[], str | None],
        *,
        max_connections: int = limits.HTTP_CONNECTIONS,
        timeout_s: float = limits.HTTP_TIMEOUT_S,
    ) -> None:
        self._metrics = metrics
        self._self_check = self_check
        self._max_connections = max_connections
        self._timeout_s = timeout_s
        self._open: dict[trio.SocketStream, trio.CancelScope] = {}
        """Oldest first."""

    async def serve(
        self, listening: socket.socket, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answers whoever comes to `listening`, which is then closed, until cancelled."""
        listening.setblocking(False)
        async with trio.SocketListener(trio.socket.from_stdlib_socket(listening)) as listener:
            task_status.started()
            await trio.serve_listeners(self._serve_connection, [listener])

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        if len(self._open) >= self._max_connections:
            self._open.pop(next(iter(self._open))).cancel()  # one that comes before it has left hangs up on the next
        try:
            async with stream:
                with trio.move_on_after(self._timeout_s) as self._open[stream]:
                    await self._converse(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client went away in the middle of something
        except Exception:
            _log.exception("a request for metrics failed")
        finally:
            self._open.pop(stream, None)

    async def _converse(self, stream: trio.SocketStream) -> None:
        import h11

        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.HTTP_HEAD_BYTES)
        with_body = True
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(RECEIVE_BYTES))
            if not isinstance(event, h11.Request):  # it hung up without a word
                return
            with_body = event.method != b"HEAD"
            answer = await self._answer(event.method, event.target)
        except h11.RemoteProtocolError as error:
            answer = Answer(error.error_status_hint, f"not a request of HTTP/1.1: {error}\n")
        await stream.send_all(_encoded(connection, answer, with_body=with_body))

    async def _answer(self, method: bytes, target: bytes) -> Answer:
        if method not in (b"GET", b"HEAD"):
            return Answer(405, "expected GET; nothing can be changed here\n")
        match target.partition(b"?")[0]:
            case b"/metrics":
                return Answer(200, await self._metrics.text(), CONTENT_TYPE)
            case b"/healthz":
                problem = self._self_check()
                return Answer(503, f"{problem}\n") if problem else Answer(200, "ok\n")
        return Answer(404, "expected /metrics or /healthz\n")


def _encoded(connection: h11.Connection, answer: Answer, *, with_body: bool) -> bytes:
    import h11

    body = answer.text.encode()
    headers = [("Content-Type", answer.content_type), ("Content-Length", str(len(body))), ("Connection", "close")]
    if answer.status == 405:
        headers.append(("Allow", "GET, HEAD"))
    reason = HTTPStatus(answer.status).phrase.encode()
    events: list[h11.Event] = [h11.Response(status_code=answer.status, headers=headers, reason=reason)]
    if with_body:
        events.append(h11.Data(data=body))
    return b"".join(connection.send(event) or b"" for event in (*events, h11.EndOfMessage()))
