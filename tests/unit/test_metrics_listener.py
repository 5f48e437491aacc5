"""Metrics over HTTP: what a scraper gets, and what becomes of who speaks nonsense, nothing, or too much."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio

from simpler import limits
from simplerd.metrics import CONTENT_TYPE, Metrics
from simplerd.metrics_listener import MetricsListener

TIMEOUT_S = 20.0


class Constant:
    """Metrics of no daemon."""

    async def text(self) -> str:
        return "answer 42\n"


class Site:
    """A listener at a port of this host, and its problem."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self.address: tuple[str, int]

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.address)

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], str]:
        """Status, headers and body of the answer."""
        async with await self.connect() as stream:
            await stream.send_all(request)
            answer = b"".join([piece async for piece in stream]).decode()
        head, _, body = answer.partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


@asynccontextmanager
async def listening(**bounds: float) -> AsyncIterator[Site]:
    site = Site()
    sock = socket.create_server(("127.0.0.1", 0))
    site.address = sock.getsockname()
    listener = MetricsListener(cast(Metrics, Constant()), lambda: site.problem, **bounds)  # type: ignore[arg-type]
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(listener.serve, sock)
            yield site
            nursery.cancel_scope.cancel()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def test_a_scraper_gets_the_metrics() -> None:
    async with listening() as site:
        status, headers, body = await site.ask(get("/metrics?name=x"))
    assert (status, headers["Content-Type"], body) == (200, CONTENT_TYPE, "answer 42\n")
    assert (headers["Content-Length"], headers["Connection"]) == ("10", "close")


@pytest.mark.parametrize(("path", "status"), [("/metrics", 200), ("/healthz", 200), ("/", 404)])
async def test_head_is_the_same_answer_without_its_text(path: str, status: int) -> None:  # RFC 9110 9.3.2
    async with listening() as site:
        (_, wanted, text), answer = await site.ask(get(path)), await site.ask(get(path).replace(b"GET", b"HEAD", 1))
    assert answer == (status, wanted, "")
    assert wanted["Content-Length"] == str(len(text))


async def test_health_is_that_of_the_self_check() -> None:
    async with listening() as site:
        assert (await site.ask(get("/healthz")))[::2] == (200, "ok\n")
        site.problem = "the spawner has ended"
        assert (await site.ask(get("/healthz")))[::2] == (503, "the spawner has ended\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), 404),
        (get("/metrics/"), 404),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"\x16\x03\x01\x02\x00 this is TLS\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),  # no Host, RFC 9112 3.2
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"x" * limits.HTTP_HEAD_BYTES, 431),
    ],
)
async def test_anything_else_is_refused_in_its_terms(request_: bytes, status: int) -> None:
    async with listening() as site:
        answer = await site.ask(request_)
        assert answer[0] == status
        assert answer[1].get("Allow") == ("GET, HEAD" if status == 405 else None)
        assert (await site.ask(get("/metrics")))[0] == 200


async def test_who_is_silent_is_hung_up_on() -> None:
    async with listening(timeout_s=0.05) as site:
        for begun in (b"", b"GET /metr"):
            async with await site.connect() as stream:
                await stream.send_all(begun)
                assert await stream.receive_some(1) == b""


async def test_the_oldest_gives_way_when_there_are_too_many() -> None:
    async with listening(max_connections=2) as site, await site.connect() as first, await site.connect() as second:
        await trio.testing.wait_all_tasks_blocked()
        assert (await site.ask(get("/metrics")))[0] == 200
        assert await first.receive_some(1) == b""
        await second.send_all(get("/metrics"))
        assert (await second.receive_some(4096)).startswith(b"HTTP/1.1 200 ")


async def test_a_flood_leaves_no_more_open_than_there_may_be() -> None:
    hung_up = trio.Semaphore(0)

    async def wait_for_the_end(site: Site) -> None:
        async with await site.connect() as stream:
            assert await stream.receive_some(1) == b""
            hung_up.release()

    async with listening(max_connections=2, timeout_s=2 * TIMEOUT_S) as site, trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(wait_for_the_end, site)
        for _ in range(98):
            await hung_up.acquire()
        nursery.cancel_scope.cancel()
