"""Sessions whose daemon was killed, or has left them: the next one goes on with each from where it was."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon.conftest import Client, alive, children, client_of, descendants, event, until, until_gone
from simpler.callables import content_of
from simpler.errors import DeviceBusy, SessionLost, StateError
from simpler.wire.command_messages import Register, Task
from simpler.wire.control_messages import Manifest, Open, OpenReply, Resume
from simplerd.fault_points import FOLDER
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow
KEY = bytes(range(32))
TIMEOUT_S = 20.0


@asynccontextmanager
async def connected(daemon: ForegroundDaemon) -> AsyncIterator[Client]:
    async with client_of(daemon.endpoint, protocol=2) as client:
        yield client


async def opened(daemon: ForegroundDaemon, **fields: Any) -> OpenReply:
    """A session with one device, of a client that has hung up; it has not been noticed yet when this returns."""
    async with connected(daemon) as client:
        session = await client.open(device_ids=[0], **fields)
        daemon.kill()
    return session


async def resume(client: Client, session: OpenReply) -> None:
    await client.link.request(Resume(session=session.session, token=session.resume), timeout_s=TIMEOUT_S)


def record_of(daemon: ForegroundDaemon, session: OpenReply) -> Path:
    return daemon.runtime_dir / session.session / "record.json"


def configured(folder: Path, **limits: float) -> tuple[str, str]:
    config = folder / "simplerd.toml"
    config.write_text("[limits]\n" + "".join(f"{name} = {value}\n" for name, value in limits.items()))
    return "--config", str(config)


async def ended(daemon: ForegroundDaemon, type: str = "session.ended") -> dict[str, Any]:
    fields: dict[str, Any] = (await event(daemon.admin_socket, type))["fields"]
    return fields


async def test_a_task_that_runs_while_the_daemon_is_killed_never_notices(tmp_path: Path) -> None:  # D2
    go_on = tmp_path / "go-on"
    os.mkfifo(go_on)

    def wait(orch: Any, args: Any, config: Any) -> str:
        return go_on.read_text()

    with ForegroundDaemon() as daemon:
        async with connected(daemon) as client:
            session = await client.open(device_ids=[0])
            lane = await client.lane(session, "command")
            content = content_of(wait)
            await lane.request(Register(digest=content.digest), content.encode())
            pending = await lane.begin(Task(digest=content.digest, args=b""))
            daemon.kill()
            daemon.start_again()
            await trio.to_thread.run_sync(go_on.write_text, "done")
            await pending.wait()
            async with connected(daemon) as again:
                await resume(again, session)
                with pytest.raises(DeviceBusy, match=f"device 0 is in use by session {session.session}"):
                    await again.open(device_ids=[0])
                await again.close(session)
        await until_gone({session.pid})
        assert not record_of(daemon, session).parent.exists()


async def test_lanes_are_attached_once_whichever_daemon_is_asked() -> None:  # D2 R1
    with ForegroundDaemon() as daemon:
        async with connected(daemon) as client:
            session = await client.open(device_ids=[0])
            await client.lane(session, "command")
            daemon.kill()
        daemon.start_again()
        async with connected(daemon) as client:
            await resume(client, session)
            with pytest.raises(StateError, match=r"the command lane of session .* was attached before"):
                await client.lane(session, "command")
            await client.lane(session, "data")
            await client.close(session)


async def test_a_daemon_that_is_to_keep_its_sessions_leaves_them(tmp_path: Path) -> None:  # D2
    config = tmp_path / "simplerd.toml"
    config.write_text('[daemon]\non_stop = "keep"\n')
    with ForegroundDaemon("--config", str(config)) as daemon:
        async with connected(daemon) as client:
            session = await client.open(device_ids=[0])
            assert daemon.stop(signal.SIGTERM) == 0
            assert alive({session.pid}) == {session.pid}
        daemon.start_again()
        async with connected(daemon) as client:
            await resume(client, session)
            assert (
                await trio.to_thread.run_sync(daemon.stop, signal.SIGINT) == 0
            )  # whoever sends that wants them closed
            assert (await client.ended.receive()).cause == "simplerd is stopping (SIGINT)"
        await until_gone({session.pid})
        assert not list(daemon.runtime_dir.glob("s*-*")), "neither a session's folder nor a spawner's socket is left"


async def test_a_session_that_starts_while_the_daemon_is_killed_becomes_ready(tmp_path: Path) -> None:  # D2 R1
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    for fifo in (begun, go_on):
        os.mkfifo(fifo)
    (tmp_path / "slow.py").write_text(
        f"open({str(begun)!r}, 'w').close()\nopen({str(go_on)!r}).close()\ndef task(*args): pass\n"
    )
    manifest = Manifest(
        platform="sim", runtime="graph", heap_bytes=1 << 24, import_paths=[str(tmp_path)], imports=["slow:task"]
    )
    with ForegroundDaemon() as daemon:
        async with connected(daemon) as client:
            await client.link.begin(Open(manifest=manifest, key=KEY))
            await trio.to_thread.run_sync(begun.read_text)
            daemon.kill()
        daemon.start_again()
        async with connected(daemon) as client:
            pending = await client.link.begin(Open(manifest=manifest, key=KEY))
            await trio.to_thread.run_sync(go_on.write_text, "")
            reply = client.link.reply_of(Open(manifest=manifest, key=KEY), await pending.wait())
            await client.lane(reply, "command")
            await client.close(reply)


async def test_a_session_that_was_never_forked_has_failed_and_holds_nothing() -> None:  # D2 R5
    with ForegroundDaemon() as daemon:
        async with connected(daemon) as client:
            (spawner,) = children(daemon.pid)
            os.kill(spawner, signal.SIGSTOP)
            await client.link.begin(Open(manifest=Manifest(platform="sim", runtime="graph", device_ids=[0]), key=KEY))
            await event(daemon.admin_socket, "device.leased")
            daemon.kill()
            os.kill(spawner, signal.SIGKILL)
        daemon.start_again()
        assert "before the session's runner was forked" in (await ended(daemon, "session.failed"))["cause"]
        async with connected(daemon) as client:
            await client.close(await client.open(device_ids=[0]))


async def test_who_is_about_to_be_refused_a_device_takes_it_from_nobody(tmp_path: Path) -> None:  # D2 D4
    wanted = Manifest(platform="sim", runtime="graph", device_ids=[0])
    with ForegroundDaemon(env={FOLDER: str(tmp_path)}) as daemon:
        async with connected(daemon) as client:
            session = await client.open(device_ids=[0])
            (tmp_path / "open:opened").write_text("0")  # it is in its record what it asks for, and not that it is busy
            await client.link.begin(Open(manifest=wanted, key=KEY))
            await until(lambda: is_stopped(daemon.pid))
            daemon.kill()
        daemon.start_again()
        async with connected(daemon) as client:
            await resume(client, session)
            assert "before the session's runner was forked" in (await ended(daemon, "session.failed"))["cause"]
            with pytest.raises(DeviceBusy, match=f"device 0 is in use by session {session.session}"):
                await client.open(device_ids=[0])
            await client.close(session)
            await client.close(await client.open(device_ids=[0]))


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T"


async def test_a_session_that_closes_while_the_daemon_is_killed_goes_on_closing(tmp_path: Path) -> None:  # D2 W3
    begun = tmp_path / "begun"
    os.mkfifo(begun)

    def stuck(orch: Any, args: Any, config: Any) -> None:
        begun.write_text("yes")
        time.sleep(3600)

    with ForegroundDaemon(*configured(tmp_path, close_timeout_s=1.0)) as daemon:
        async with connected(daemon) as client, trio.open_nursery() as nursery:
            session = await client.open(device_ids=[0])
            lane = await client.lane(session, "command")
            content = content_of(stuck)
            await lane.request(Register(digest=content.digest), content.encode())
            await lane.begin(Task(digest=content.digest, args=b""))
            await trio.to_thread.run_sync(begun.read_text)
            nursery.start_soon(hangs_up, client, session)
            await event(daemon.admin_socket, "session.closing")
            daemon.kill()
            nursery.cancel_scope.cancel()
        daemon.start_again()
        cause = (await ended(daemon))["cause"]
        assert cause == "its client closed it: done; its runner did not end within 1 s and was killed"
        assert not alive({session.pid})


async def hangs_up(client: Client, session: OpenReply) -> None:
    with pytest.raises(SessionLost):
        await client.close(session)


async def test_how_a_runner_ended_while_there_was_no_daemon_is_known() -> None:  # D2 D7
    with ForegroundDaemon() as daemon:
        session = await opened(daemon)
        os.kill(session.pid, signal.SIGBUS)
        await until_gone({session.pid}, TIMEOUT_S)
        daemon.start_again()
        fields = await ended(daemon, "session.failed")
        assert f"its runner (pid {session.pid}) was killed by SIGBUS" in fields["cause"]
        assert "Fatal Python error: Bus error" in "\n".join(fields["stderr"])


async def test_a_session_whose_spawner_is_gone_too_is_adopted_and_its_end_is_nobodys_secret() -> None:  # D2 D7
    with ForegroundDaemon() as daemon:
        async with connected(daemon) as client:
            session = await client.open(device_ids=[0])
            (spawner,) = children(daemon.pid)
            daemon.kill()
            os.kill(spawner, signal.SIGKILL)
        daemon.start_again()
        async with connected(daemon) as client:
            await resume(client, session)
            os.kill(session.pid, signal.SIGKILL)
            push = await client.ended.receive()
        assert push.cause == (
            f"its runner (pid {session.pid}) ended; how, nobody knows: the process that watched it was gone"
        )


async def test_a_session_nobody_comes_back_to_is_closed(tmp_path: Path) -> None:  # D2 R9
    with ForegroundDaemon(*configured(tmp_path, lost_client_grace_s=0.1)) as daemon:
        session = await opened(daemon)
        daemon.start_again()
        cause = (await ended(daemon))["cause"]
        assert cause == "its client did not come back within 0.1 s after simplerd was restarted"
        await until_gone({session.pid})


async def test_a_host_that_goes_down_does_not_wait_for_the_next_daemon() -> None:  # D2 W3
    with ForegroundDaemon() as daemon:
        async with connected(daemon) as client:
            await client.open(device_ids=[0])
            (spawner,) = children(daemon.pid)
            tree = descendants(daemon.pid)
            daemon.kill()
        await until(lambda: not ignores(spawner, signal.SIGTERM))  # as it does while it has a daemon
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):  # workers end with their spawner
                os.kill(pid, signal.SIGTERM)
        await until_gone(tree, TIMEOUT_S)


def ignores(pid: int, number: signal.Signals) -> bool:
    ignored = re.search(r"^SigIgn:\t([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert ignored is not None
    return bool(int(ignored[1], 16) >> (number - 1) & 1)


async def test_a_session_nobody_adopts_closes_itself(tmp_path: Path) -> None:  # D2 D7 W3
    with ForegroundDaemon(*configured(tmp_path, adoption_timeout_s=0.1)) as daemon:
        async with connected(daemon) as client:
            session = await client.open(device_ids=[0])
            tree = descendants(daemon.pid)
            daemon.kill()
        await until_gone(tree, TIMEOUT_S)
        assert "no daemon has come for this session within 0.1 s: it closes" in daemon.log.read_text()
        daemon.start_again()
        failed = await ended(daemon, "session.failed")
        assert failed["session"] == session.session
        assert failed["cause"].startswith("no simplerd came for it within limits.adoption_timeout_s")
        async with connected(daemon) as client:
            await client.close(await client.open(device_ids=[0]))


@pytest.mark.parametrize("content", [None, '{"format": 2, "session": "s-00000001"}'])
async def test_a_session_whose_record_is_unreadable_is_ended(content: str | None) -> None:  # D2 R5
    with ForegroundDaemon() as daemon:
        session = await opened(daemon)
        record_of(daemon, session).unlink()
        if content is not None:
            record_of(daemon, session).write_text(content)
        daemon.start_again()
        assert not alive({session.pid})
        assert not record_of(daemon, session).parent.exists()
        assert f"killing the runner of a session whose record is unreadable session={session.session}" in (
            daemon.log.read_text()
        )
        async with connected(daemon) as client:
            await client.close(await client.open(device_ids=[0]))


async def test_a_stopped_runner_or_spawner_holds_up_nobody() -> None:  # D2 R9
    with ForegroundDaemon() as daemon:
        async with connected(daemon) as client:
            stopped, other = await client.open(device_ids=[0]), await client.open(device_ids=[1])
            (spawner,) = children(daemon.pid)
            daemon.kill()
        for pid in (stopped.pid, spawner):
            os.kill(pid, signal.SIGSTOP)
        daemon.start_again()
        async with connected(daemon) as client:
            await resume(client, stopped)
            await resume(client, other)
            await client.lane(other, "command")
            for pid in (stopped.pid, spawner):
                os.kill(pid, signal.SIGCONT)
            await client.lane(stopped, "command")
            await client.close(other)
            await client.close(stopped)


async def test_what_a_session_prints_without_a_daemon_is_in_the_log_and_told_later(tmp_path: Path) -> None:  # D2
    go_on = tmp_path / "go-on"
    os.mkfifo(go_on)

    def say(orch: Any, args: Any, config: Any) -> None:
        go_on.read_text()
        print("\n".join(f"line {number}" for number in range(300)))  # at once: only so many packets are kept

    with ForegroundDaemon() as daemon:
        async with connected(daemon) as client:
            session = await client.open(device_ids=[0], output=True)
            lane = await client.lane(session, "command")
            content = content_of(say)
            await lane.request(Register(digest=content.digest), content.encode())
            pending = await lane.begin(Task(digest=content.digest, args=b""))
            daemon.kill()
            await trio.to_thread.run_sync(go_on.write_text, "")
            await pending.wait()
            await until(lambda: f"[{session.session}] line 299" in daemon.log.read_text())
            daemon.start_again()
            async with connected(daemon) as again:
                await resume(again, session)
                await until(lambda: "line 299" in str(again.told))
                assert "line 0" in str(again.told)
                await again.close(session)


async def test_a_session_of_another_release_says_which(tmp_path: Path) -> None:  # D2
    with ForegroundDaemon() as daemon:
        session = await opened(daemon)
        record = json.loads(record_of(daemon, session).read_text())
        newer = record | {"version": "9.9.9", "colour": "red", "manifest": record["manifest"] | {"priority": 1}}
        record_of(daemon, session).write_text(json.dumps(newer))
        daemon.start_again()
        assert (await ended(daemon, "session.adopted"))["version"] == "9.9.9"
        table = await asked(daemon, "session", "list")
        assert re.search(rf"VERSION\n{session.session} .* 9\.9\.9$", table, re.MULTILINE), table
        assert "of simpler 9.9.9" in await asked(daemon, "session", "show", session.session)
        async with connected(daemon) as client:
            await resume(client, session)
            await client.lane(session, "command")
            await client.close(session)


async def asked(daemon: ForegroundDaemon, *words: str) -> str:
    """What simplerctl prints."""
    command = [sys.executable, "-m", "simplerctl", "--socket", str(daemon.admin_socket), *words]
    done = await trio.run_process(command, capture_stdout=True)
    return done.stdout.decode()


async def test_another_process_in_the_place_of_a_runner_is_not_talked_to() -> None:  # D2
    import socket

    with ForegroundDaemon() as daemon:
        session = await opened(daemon)
        path = record_of(daemon, session).with_name("runner.sock")
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as impostor:
            impostor.bind(str(path))
            impostor.listen()
            daemon.start_again()
            cause = (await ended(daemon, "session.failed"))["cause"]
        assert f"process {os.getpid()} of uid {os.getuid()} listens in the place of its runner {session.pid}" in cause
        await until_gone({session.pid})
