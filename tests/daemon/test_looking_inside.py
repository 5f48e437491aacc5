"""What operators see of a session: what it has done, what it does and holds, what it printed, and how it ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon.conftest import Client, client_of, descendants, until_gone
from simpler import limits
from simpler.callables import content_of
from simpler.wire.command_messages import Malloc, Register, Task
from simpler.wire.control_messages import Close, OpenReply
from simpler.wire.link import Link
from simplerctl.client import AdminClient
from simplerctl.errors import AdminError
from simplerd.foreground import ForegroundDaemon

TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


@contextmanager
def admin_of(daemon: ForegroundDaemon) -> Iterator[AdminClient]:
    with AdminClient(daemon.admin_socket, TIMEOUT_S) as admin:
        yield admin


async def run(client: Client, session: OpenReply, function: Callable[..., Any]) -> Link:
    """The command lane, on which the session's program has had `function` run."""
    lane = await client.lane(session, "command")
    content = content_of(function)
    await lane.request(Register(digest=content.digest), content.encode())
    await lane.request(Task(digest=content.digest, args=b""))
    return lane


PRINT_THREE_LINES = lambda orch, args, config: print("one\ntwo \x1b[31mred\nthree", flush=True)  # noqa: E731


async def test_the_counters_of_a_session_are_told_while_it_is_there(daemon: ForegroundDaemon) -> None:
    async with client_of(daemon.endpoint) as client:
        session = await client.open(device_ids=[0], num_sub_workers=1, heap_bytes=1 << 24)
        with admin_of(daemon) as admin:
            stats = admin.call("session.stats", {"session": session.session})
            assert [(each["name"], each["kind"], each["deaths"]) for each in stats["workers"]] == [
                ("chip0", "chip", 0),
                ("sub0", "sub", 0),
            ]
            assert (stats["tasks"], stats["live"], stats["heap_bytes"]) == (0, 0, 1 << 24)
            await client.close(session)
            with pytest.raises(AdminError, match=f"session {session.session} has ended"):
                admin.call("session.stats", {"session": session.session})


async def test_what_a_session_printed_is_read_line_by_line_and_to_the_end(daemon: ForegroundDaemon) -> None:  # D7
    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        await run(client, session, PRINT_THREE_LINES)
        with admin_of(daemon) as admin:
            read: list[str] = []
            while len(read) < 3:
                part = admin.call("session.logs", {"session": session.session, "after": len(read), "wait_s": 20})
                read += [line["text"] for line in part["lines"]]
            assert (read, part["last"], part["is_over"]) == (["one", "two \x1b[31mred", "three"], 3, False)
            await client.close(session)
            kept = admin.call("session.logs", {"session": session.session, "after": 1})
            assert ([line["text"] for line in kept["lines"]], kept["is_over"]) == (read[1:], True)


# ---- what runs


async def seen_by(admin: AdminClient, session: OpenReply, holds: Callable[[Any], bool]) -> Any:
    """The first answer about its tasks that `holds`: what a session does shows in nothing else."""
    with trio.fail_after(TIMEOUT_S):
        while not holds(tasks := admin.call("session.tasks", {"session": session.session})):
            await trio.lowlevel.checkpoint()
    return tasks


async def test_what_a_session_runs_and_what_waits_in_it(daemon: ForegroundDaemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fifo = str(tmp_path / "fifo")

    def read_a_byte(args: Any) -> None:
        with Path(args.scalar(0)).open("rb", buffering=0) as pipe:
            pipe.read(1)

    content = content_of(read_a_byte)
    hashid = content.hashid

    def graph(orch: Any, args: Any, config: Any) -> None:
        from simpler import CallConfig, TaskArgs

        first = orch.submit_sub(hashid, TaskArgs().add_scalar(fifo), CallConfig(timeout_s=60))
        orch.submit_sub(hashid, TaskArgs().add_scalar(fifo), after=[first])

    async with client_of(daemon.endpoint) as client:
        session = await client.open(num_sub_workers=1)
        lane = await client.lane(session, "command")
        for each in (content, orchestration := content_of(graph)):
            await lane.request(Register(digest=each.digest), each.encode())
        with admin_of(daemon) as admin, (tmp_path / "fifo").open("rb+", buffering=0) as pipe:  # waits for nobody
            running = await lane.begin(Task(digest=orchestration.digest, args=b""))
            tasks = await seen_by(admin, session, lambda tasks: tasks["live"] == 2 and tasks["tasks"][0]["worker"])
            function = tasks["orchestration"]
            assert (function["name"].rpartition(".")[2], function["callable"]) == ("graph", orchestration.hashid)
            first, second = tasks["tasks"]
            assert (first["state"], first["worker"], first["callable"], first["timeout_s"]) == (
                "running",
                "sub0",
                hashid,
                60,
            )
            assert (second["state"], second["worker"], second["timeout_s"]) == ("pending", None, None)
            assert first["name"].endswith("read_a_byte")
            assert abs(time.time() - first["since"]) < TIMEOUT_S
            pipe.write(b"..")
            await running.wait()
            assert admin.call("session.tasks", {"session": session.session}) == {
                "orchestration": None,
                "live": 0,
                "tasks": [],
            }
            await client.close(session)


async def test_the_trace_of_a_session_is_told_page_by_page(daemon: ForegroundDaemon) -> None:
    count = limits.TRACE_PAGE_EVENTS + 5
    content = content_of(lambda args: None)
    hashid = content.hashid

    def graph(orch: Any, args: Any, config: Any) -> None:
        for _ in range(count):
            orch.submit_sub(hashid)

    async with client_of(daemon.endpoint) as client:
        session = await client.open(num_sub_workers=1)
        lane = await client.lane(session, "command")
        for each in (content, orchestration := content_of(graph)):
            await lane.request(Register(digest=each.digest), each.encode())
        await lane.request(Task(digest=orchestration.digest, args=b""))
        with admin_of(daemon) as admin:
            first = admin.call("session.trace", {"session": session.session})
            rest = admin.call("session.trace", {"session": session.session, "begin": first["next"]})
        assert (first["is_last"], rest["is_last"]) == (False, True)
        spans = [*first["spans"], *rest["spans"]]
        calls = [span for span in spans if span["callable"] == hashid and span["op"] == "call"]
        assert len(calls) == count == len({span["task"] for span in calls})
        assert [(span["outcome"], span["worker"]) for span in calls[:1]] == [("succeeded", 0)]
        (run,) = [span for span in spans if span["op"] == "run"]
        assert run["started_ns"] < min(span["submitted_ns"] for span in calls)
        assert run["ended_ns"] > max(span["started_ns"] for span in calls)
        assert [lane["name"] for lane in first["lanes"]] == ["sub0", "orchestration"]
        await client.close(session)


async def test_what_sessions_hold_and_know_is_listed_by_session(daemon: ForegroundDaemon) -> None:
    async with client_of(daemon.endpoint) as client:
        sessions = [await client.open(num_sub_workers=1), await client.open(num_sub_workers=1)]
        lane = await client.lane(sessions[0], "command")
        for nbytes in (100, 5000):
            await lane.request(Malloc(nbytes=nbytes))
        content = content_of(print_nothing := lambda args: None)
        await lane.request(Register(digest=content.digest), content.encode())
        with admin_of(daemon) as admin:
            held = {each["session"]: each["held"] for each in admin.call("buffer.list")}
            known = {each["session"]: each["known"] for each in admin.call("callable.list")}
            alone = admin.call("callable.list", {"session": sessions[0].session})
        one, other = (session.session for session in sessions)
        assert [(each["nbytes"], each["kind"], each["access"]) for each in held[one]["buffers"]] == [
            (5000, "own", "readwrite"),
            (100, "own", "readwrite"),
        ]
        assert (held[one]["count"], held[one]["nbytes"], held[other]["buffers"]) == (2, 5100, [])
        assert [(each["callable"], each["references"]) for each in known[one]["callables"]] == [(content.hashid, 1)]
        assert known[one]["callables"][0]["name"] == print_nothing.__qualname__
        assert known[other]["callables"] == []
        assert [each["session"] for each in alone] == [one]
        for session in sessions:
            await client.close(session)


async def test_a_session_that_does_not_answer_holds_up_no_other(daemon: ForegroundDaemon) -> None:  # R9
    async with client_of(daemon.endpoint) as client:
        stopped, other = await client.open(num_sub_workers=1), await client.open(num_sub_workers=1)
        os.kill(stopped.pid, signal.SIGSTOP)
        with admin_of(daemon) as waiting, admin_of(daemon) as admin, ThreadPoolExecutor(1) as thread:
            answers = thread.submit(waiting.call, "buffer.list")
            nothing = {"count": 0, "nbytes": 0, "buffers": []}
            assert admin.call("buffer.list", {"session": other.session})[0]["held"] == nothing
            assert not answers.done()
            os.kill(stopped.pid, signal.SIGCONT)
            assert [each["held"] for each in answers.result(TIMEOUT_S)] == [nothing, nothing]
        for session in (stopped, other):
            await client.close(session)


# ---- killed by an operator


async def stuck(client: Client, folder: Path) -> OpenReply:
    """A session of two workers whose orchestration function goes on for ever, and has begun to."""
    begun = folder / "begun"
    os.mkfifo(begun)
    path = str(begun)

    def goes_on(orch: Any, args: Any, config: Any) -> None:
        print("begun", flush=True)
        Path(path).write_text("yes")
        signal.pause()

    session = await client.open(device_ids=[0], num_sub_workers=1)
    lane = await client.lane(session, "command")
    content = content_of(goes_on)
    await lane.request(Register(digest=content.digest), content.encode())
    await lane.begin(Task(digest=content.digest, args=b""))
    assert await trio.to_thread.run_sync(begun.read_text) == "yes"
    return session


async def test_an_operator_ends_a_session_that_is_stuck_at_once(daemon: ForegroundDaemon, tmp_path: Path) -> None:  # D7
    async with client_of(daemon.endpoint) as client:
        session = await stuck(client, tmp_path)
        tree = descendants(session.pid) | {session.pid}
        with admin_of(daemon) as admin:
            report = admin.call("session.kill", {"session": session.session, "reason": "it is stuck"})
            assert (report["state"], report["signal"]) == ("failed", signal.SIGKILL)
            assert report["cause"] == f"killed by an operator (uid {os.getuid()}): it is stuck"
            await until_gone(tree)
            assert [device["state"] for device in admin.call("device.list")] == ["free", "free"]
            with pytest.raises(AdminError, match="has ended: killed by an operator"):
                admin.call("session.kill", {"session": session.session})
        ended = await client.ended.receive()
        assert (ended.cause, ended.signal) == (report["cause"], signal.SIGKILL)


async def test_a_session_that_does_not_close_says_both_who_closed_and_who_killed_it(
    daemon: ForegroundDaemon, tmp_path: Path
) -> None:  # D7
    async with client_of(daemon.endpoint) as client:
        session = await stuck(client, tmp_path)
        with admin_of(daemon) as admin:
            admin.call("events.subscribe", {"types": ["session.closing"]})
            await client.link.begin(Close(session=session.session, reason="done"))
            next(admin.events(follow=True))
            report = admin.call("session.kill", {"session": session.session})
        assert report["state"] == "ended"
        assert report["cause"] == (
            f"its client closed it: done; killed by an operator (uid {os.getuid()}): it was not waited for"
        )


# ---- over a restart


async def until_over(admin: AdminClient, session: OpenReply) -> None:
    after = 0
    while not (part := admin.call("session.logs", {"session": session.session, "after": after, "wait_s": 20}))[
        "is_over"
    ]:
        after = part["last"]


@pytest.mark.slow
async def test_the_next_daemon_knows_who_has_ended_and_looks_into_who_goes_on(tmp_path: Path) -> None:  # D2 D7
    with ForegroundDaemon() as daemon:  # of its own: it is killed
        async with client_of(daemon.endpoint) as client:
            dead, going = await client.open(), await stuck(client, tmp_path)
            await run(client, dead, PRINT_THREE_LINES)
            os.kill(dead.pid, signal.SIGSEGV)
            with admin_of(daemon) as admin:
                await until_over(admin, dead)
                before = admin.call("session.logs", {"session": going.session, "wait_s": 20})
            daemon.kill()
            daemon.start_again()
            with admin_of(daemon) as admin:
                knows_how_it_ended(admin, dead)
                function = admin.call("session.tasks", {"session": going.session})["orchestration"]
                assert function["name"].endswith("goes_on")
                assert len(admin.call("session.stats", {"session": going.session})["workers"]) == 2
                after = admin.call("session.logs", {"session": going.session, "wait_s": 20})
                texts = [[line["text"] for line in part["lines"]] for part in (before, after)]
                assert texts == [["begun"], ["begun"]]
                report = admin.call("session.kill", {"session": going.session, "reason": "enough"})
                assert report["cause"] == f"killed by an operator (uid {os.getuid()}): enough"
                assert report["signal"] == signal.SIGKILL


def knows_how_it_ended(admin: AdminClient, session: OpenReply) -> None:
    """Of a session that printed three lines and was killed by SIGSEGV."""
    report = admin.call("session.get", {"session": session.session})
    assert (report["state"], report["signal"], report["code"]) == ("failed", signal.SIGSEGV, "SESSION_LOST")
    assert report["cause"] == f"its runner (pid {session.pid}) was killed by SIGSEGV"
    assert report["stderr"][:4] == ["one", "two \\x1b[31mred", "three", "Fatal Python error: Segmentation fault"]
    assert report["ended_at"] > report["opened_at"]
    log = admin.call("session.logs", {"session": session.session})
    assert [line["text"] for line in log["lines"]][:3] == ["one", "two \x1b[31mred", "three"]
    admin.call("events.subscribe", {"after": 0, "types": ["session"]})
    types: list[str] = []
    while "session.failed" not in types:
        event = admin.next_event(TIMEOUT_S)
        types += [event["type"]] if event["fields"]["session"] == session.session else []
    assert types == ["session.opened", "session.ready", "session.failed"]
