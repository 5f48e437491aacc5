"""Sessions from OPEN to their end, whoever ends them, and what is left: nothing."""

from __future__ import annotations

import json
import os
import resource
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon.conftest import Client, alive, children, client_of, descendants, event, until_gone
from simpler.callables import content_of
from simpler.errors import ArgumentError, DeviceBusy, RegistrationError, SessionLost, StaleHandle, StartupError
from simpler.result_record import decode_result
from simpler.wire.command_messages import Register, Task
from simpler.wire.control_messages import OpenReply, Resume
from simplerd.foreground import ForegroundDaemon

ONE_CHIP_TWO_SUBS = {"device_ids": [0], "num_sub_workers": 2}


def entries(pid: int, folder: str) -> int:
    return len(list(Path(f"/proc/{pid}/{folder}").iterdir()))


def lowest_free_descriptor(pid: int) -> int:
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return min(set(range(len(used) + 1)) - used)


def read(pid: int, file: str) -> bytes:
    return Path(f"/proc/{pid}/{file}").read_bytes()


async def test_a_session_is_a_tree_of_processes_and_closing_leaves_none(daemon: ForegroundDaemon) -> None:  # R1 R5
    async with client_of(daemon.endpoint) as client:
        session = await client.open(**ONE_CHIP_TWO_SUBS)
        assert (session.devices, session.chips, session.subs) == ([0], [0], [1, 2])
        assert session.pid in descendants(daemon.pid)
        tree = descendants(session.pid)
        assert len(tree) == 4  # its spawner, one chip worker, two sub-workers
        assert (daemon.runtime_dir / session.session / "record.json").exists()
        await client.close(session)
        await until_gone(tree | {session.pid})
        assert not (daemon.runtime_dir / session.session).exists()


async def test_the_daemon_has_one_thread_and_no_numpy(daemon: ForegroundDaemon) -> None:  # L5
    async with client_of(daemon.endpoint) as client:
        session = await client.open(**ONE_CHIP_TWO_SUBS)
        assert entries(daemon.pid, "task") == 1
        assert b"numpy" not in read(daemon.pid, "maps")
        assert b"_pickle" not in read(daemon.pid, "maps")
        assert b"numpy" in read(session.pid, "maps")
        await client.close(session)


async def test_a_device_in_use_says_who_has_it_and_is_free_after_close(daemon: ForegroundDaemon) -> None:  # D4
    async with client_of(daemon.endpoint) as client:
        first = await client.open(device_ids=[0])
        with pytest.raises(DeviceBusy) as caught:
            await client.open(device_ids=[0, 1])
        assert f"device 0 is in use by session {first.session} (uid {os.getuid()}, pid {os.getpid()})" in str(
            caught.value
        )
        second = await client.open(device_ids=[1])
        await client.close(first)
        third = await client.open(device_ids=[0])
        for session in (second, third):
            await client.close(session)


async def test_a_manifest_with_nonsense_is_refused_before_anything_is_started(daemon: ForegroundDaemon) -> None:  # R1
    async with client_of(daemon.endpoint) as client:
        before = descendants(daemon.pid)
        with pytest.raises(ArgumentError, match=r"platform: 'quantum' .*; device_ids: 99 not on this host") as caught:
            await client.open(platform="quantum", device_ids=[99])
        assert caught.value.context["field"] == "platform"
        assert descendants(daemon.pid) == before


async def test_an_import_that_fails_keeps_the_session_from_ready(
    daemon: ForegroundDaemon, tmp_path: Path
) -> None:  # C4
    (tmp_path / "broken_job.py").write_text("raise RuntimeError('no licence for this host')\n")
    async with client_of(daemon.endpoint) as client:
        before = descendants(daemon.pid)
        with pytest.raises(RegistrationError) as caught:
            await client.open(import_paths=[str(tmp_path)], imports=["broken_job:step"], **ONE_CHIP_TWO_SUBS)
        assert caught.value.code == "CALLABLE_IMPORT_FAILED"
        assert "no licence for this host" in str(caught.value)
        assert descendants(daemon.pid) == before
        await client.close(await client.open(**ONE_CHIP_TWO_SUBS))  # its device is free


@pytest.mark.parametrize(
    ("signum", "words"),
    [(int(signal.SIGKILL), "SIGKILL; out of memory: no"), (signal.SIGRTMIN + 6, "SIGRTMIN+6")],
)
async def test_a_killed_runner_is_explained_and_its_tree_is_gone(
    daemon: ForegroundDaemon, signum: int, words: str
) -> None:  # D7 R4
    async with client_of(daemon.endpoint) as client:
        session = await client.open(**ONE_CHIP_TWO_SUBS)
        tree = descendants(session.pid)
        os.kill(session.pid, signum)
        push = await client.ended.receive()
        assert push.session == session.session
        assert push.cause == f"its runner (pid {session.pid}) was killed by {words}"
        assert (push.code, push.signal, push.exit_code) == ("SESSION_LOST", signum, None)
        await until_gone(tree)
        await client.close(await client.open(**ONE_CHIP_TWO_SUBS))  # its device is free


@pytest.mark.parametrize(
    ("deed", "cause", "stderr"),
    [
        ("os._exit(3)", "exited with code 3", "the last words"),
        ("ctypes.string_at(0)", "was killed by SIGSEGV", "Segmentation fault"),
    ],
)
async def test_a_runner_that_user_code_ends_is_explained_with_its_stderr(
    daemon: ForegroundDaemon, deed: str, cause: str, stderr: str
) -> None:  # D7 R4
    def ends(orch: Any, args: Any, config: Any) -> None:
        import ctypes
        import os
        import sys

        print("the last words", file=sys.stderr)
        exec(deed, {"os": os, "ctypes": ctypes})

    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        lane = await client.lane(session, "command")
        content = content_of(ends)
        await lane.request(Register(digest=content.digest), content.encode())
        with pytest.raises(SessionLost):
            await lane.request(Task(digest=content.digest, args=b""))
        push = await client.ended.receive()
        assert push.cause == f"its runner (pid {session.pid}) {cause}"
        assert any(stderr in line for line in push.stderr)


async def open_one_that_hangs(client: Client, folder: Path, **fields: Any) -> None:
    module = "import sys, time\nprint('looking for a licence', file=sys.stderr)\ntime.sleep(3600)\n"
    (folder / "hangs.py").write_text(module)
    await client.open(import_paths=[str(folder)], imports=["hangs:f"], **fields)


@pytest.mark.slow
async def test_a_session_that_does_not_get_ready_is_given_up_in_time(
    daemon: ForegroundDaemon, tmp_path: Path
) -> None:  # R1 W2
    async with client_of(daemon.endpoint) as client:
        why = r"its runner \(pid \d+\) has not answered within 0\.2 s[\s\S]*looking for a licence"
        with pytest.raises(StartupError, match=why):
            await open_one_that_hangs(client, tmp_path, startup_timeout_s=0.2)
        assert descendants(daemon.pid) == children(daemon.pid)  # the spawner alone


async def test_a_client_that_leaves_while_its_session_starts_leaves_nothing(
    daemon: ForegroundDaemon, tmp_path: Path
) -> None:  # R9
    async with client_of(daemon.endpoint) as client, trio.open_nursery() as nursery:
        nursery.start_soon(open_one_that_hangs, client, tmp_path)
        await event(daemon.admin_socket, "session.opened")
        nursery.cancel_scope.cancel()
        await client.link.aclose()
    ended = await event(daemon.admin_socket, "session.ended")
    assert ended["fields"]["cause"] == "its client left before it was ready"
    assert descendants(daemon.pid) == children(daemon.pid)  # the spawner alone


@pytest.mark.slow
async def test_what_user_code_left_running_ends_with_the_session(daemon: ForegroundDaemon) -> None:  # R5
    def leaves(orch: Any, args: Any, config: Any) -> int:
        import subprocess

        return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid

    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        lane = await client.lane(session, "command")
        content = content_of(leaves)
        await lane.request(Register(digest=content.digest), content.encode())
        reply, _ = await lane.request(Task(digest=content.digest, args=b""))
        assert reply.result is not None
        pid = decode_result(reply.result)
        assert isinstance(pid, int)
        assert alive({pid})
        await client.close(session)
        await until_gone({pid})


async def test_who_closes_a_session_is_told_by_the_reply_alone(daemon: ForegroundDaemon) -> None:  # R4
    async with client_of(daemon.endpoint) as client:
        first, second = await client.open(), await client.open()
        await client.close(first)
        os.kill(second.pid, signal.SIGKILL)
        assert (await client.ended.receive()).session == second.session


async def test_only_the_connection_that_opened_a_session_closes_it(daemon: ForegroundDaemon) -> None:  # H1
    async with client_of(daemon.endpoint) as client, client_of(daemon.endpoint) as other:
        session = await client.open()
        with pytest.raises(StaleHandle, match="was not opened on this connection"):
            await other.close(session)
        await client.close(session)
        with pytest.raises(StaleHandle, match="or was closed before"):
            await client.close(session)


@pytest.mark.slow
async def test_the_session_of_a_lost_client_ends_after_the_grace(tmp_path: Path) -> None:  # R9
    config = tmp_path / "simplerd.toml"
    config.write_text("[limits]\nlost_client_grace_s = 0.3\n")
    with ForegroundDaemon("--config", str(config)) as daemon:
        async with client_of(daemon.endpoint) as client:
            session = await client.open(device_ids=[0])
        tree = descendants(session.pid) | {session.pid}
        cause = (await event(daemon.admin_socket, "session.ended"))["fields"]["cause"]
        assert cause == f"its client is gone: the client (uid {os.getuid()}, pid {os.getpid()}) hung up"
        await until_gone(tree)
        async with client_of(daemon.endpoint) as client:
            await client.close(await client.open(device_ids=[0]))


@pytest.mark.slow
async def test_many_sessions_leave_no_process_descriptor_or_file(daemon: ForegroundDaemon) -> None:  # R5
    async with client_of(daemon.endpoint) as client:
        await client.close(await client.open(**ONE_CHIP_TWO_SUBS))
        before = descendants(daemon.pid), entries(daemon.pid, "fd"), set(daemon.runtime_dir.iterdir())
        (spawner,) = children(daemon.pid)
        spawner_before = entries(spawner, "fd")
        for _ in range(10):
            await client.close(await client.open(**ONE_CHIP_TWO_SUBS))
        assert (descendants(daemon.pid), entries(daemon.pid, "fd"), set(daemon.runtime_dir.iterdir())) == before
        for _ in range(2000):  # it is told last that a session is over
            if entries(spawner, "fd") <= spawner_before:
                return
            await trio.sleep(0.01)
        raise AssertionError("the spawner keeps descriptors of sessions that are over")


async def test_stopping_tells_clients_closes_sessions_and_exits_0(daemon: ForegroundDaemon) -> None:  # D1
    async with client_of(daemon.endpoint) as client:
        session = await client.open(**ONE_CHIP_TWO_SUBS)
        tree = descendants(daemon.pid)
        code = await trio.to_thread.run_sync(daemon.stop)
        assert code == 0
        push = await client.ended.receive()
        assert (push.session, push.cause) == (session.session, "simplerd is stopping (SIGTERM)")
        await until_gone(tree)


async def test_secrets_of_the_daemon_reach_no_session() -> None:  # X3
    with ForegroundDaemon(env={"API_TOKEN": "hunter2"}) as running:
        async with client_of(running.endpoint) as client:
            session = await client.open(env={"MODE": "fast"}, **ONE_CHIP_TWO_SUBS)
            for pid in descendants(running.pid) | {running.pid}:
                assert b"hunter2" not in read(pid, "environ")
            await client.close(session)


@pytest.mark.slow
async def test_a_session_that_was_starting_when_its_daemon_was_killed_ends_too(tmp_path: Path) -> None:  # R1 W3
    config = tmp_path / "simplerd.toml"
    config.write_text("[limits]\nadoption_timeout_s = 0.1\n")
    with ForegroundDaemon("--config", str(config)) as running:
        async with client_of(running.endpoint) as client, trio.open_nursery() as nursery:

            async def lost() -> None:
                with pytest.raises(SessionLost):
                    await open_one_that_hangs(client, tmp_path, startup_timeout_s=0.2)

            nursery.start_soon(lost)
            await event(running.admin_socket, "session.opened")
            while len(tree := descendants(running.pid)) < 4:  # spawner, runner, its spawner, sub-worker
                await trio.lowlevel.checkpoint()
            running.stop(signal.SIGKILL)
        await until_gone(tree, timeout_s=10)


def test_two_daemons_do_not_share_a_runtime_folder(daemon: ForegroundDaemon) -> None:  # D1
    with pytest.raises(StartupError, match=rf"another simplerd \(pid {daemon.pid}\) serves"):
        ForegroundDaemon("--runtime-dir", str(daemon.runtime_dir))


async def stuck_session(client: Client, folder: Path) -> OpenReply:
    """A session in whose runner an orchestration function runs that never returns."""
    begun = folder / "begun"
    os.mkfifo(begun)

    def stuck(orch: Any, args: Any, config: Any) -> None:
        import time

        begun.write_text("yes")
        time.sleep(3600)

    session = await client.open(device_ids=[0])
    lane = await client.lane(session, "command")
    content = content_of(stuck)
    await lane.request(Register(digest=content.digest), content.encode())
    await lane.begin(Task(digest=content.digest, args=b""))
    assert await trio.to_thread.run_sync(begun.read_text) == "yes"
    return session


@pytest.mark.slow
async def test_a_session_that_does_not_close_is_killed_in_time(tmp_path: Path) -> None:  # W3
    config = tmp_path / "simplerd.toml"
    config.write_text("[limits]\nclose_timeout_s = 0.5\n")
    with ForegroundDaemon("--config", str(config)) as running:
        async with client_of(running.endpoint) as client:
            session = await stuck_session(client, tmp_path)
            tree = descendants(session.pid) | {session.pid}
            await client.close(session)
            await until_gone(tree)
            ended = await event(running.admin_socket, "session.ended")
            assert ended["fields"]["cause"].endswith("done; its runner did not end within 0.5 s and was killed")


async def admin_close(admin_socket: Path, session: str) -> None:
    wish = {"jsonrpc": "2.0", "id": 1, "method": "session.close", "params": {"session": session, "reason": "repair"}}
    async with await trio.open_unix_socket(str(admin_socket)) as stream:
        await stream.send_all(json.dumps(wish).encode() + b"\n")
        await stream.receive_some()


@pytest.mark.slow
async def test_a_client_hears_at_once_that_an_operator_closes_its_session(
    daemon: ForegroundDaemon, tmp_path: Path
) -> None:  # D7 R4
    async with client_of(daemon.endpoint) as client, trio.open_nursery() as nursery:
        session = await stuck_session(client, tmp_path)
        nursery.start_soon(admin_close, daemon.admin_socket, session.session)
        push = await client.ended.receive()
        assert (push.session, push.cause) == (session.session, f"repair (uid {os.getuid()})")
        assert alive({session.pid})
        os.kill(session.pid, signal.SIGKILL)


@pytest.mark.slow
async def test_a_client_whose_session_is_opening_hears_that_the_daemon_stops(
    daemon: ForegroundDaemon, tmp_path: Path
) -> None:  # R6
    async with client_of(daemon.endpoint) as client, trio.open_nursery() as nursery:

        async def refused() -> None:
            with pytest.raises(SessionLost, match=r"simplerd is stopping \(SIGTERM\)"):
                await open_one_that_hangs(client, tmp_path)

        nursery.start_soon(refused)
        await event(daemon.admin_socket, "session.opened")
        assert await trio.to_thread.run_sync(daemon.stop) == 0
        cause = await client.link.wait_closed()
        assert str(cause) == "simplerd gave the connection up: simplerd is stopping (SIGTERM)"


@pytest.mark.slow
async def test_a_spawner_that_hangs_does_not_hold_up_the_stop() -> None:  # R1 D1
    with ForegroundDaemon() as running:
        async with client_of(running.endpoint) as client, trio.open_nursery() as nursery:

            async def refused() -> None:
                with pytest.raises(SessionLost, match=r"simplerd is stopping \(SIGTERM\)"):
                    await client.open()

            (spawner,) = children(running.pid)
            os.kill(spawner, signal.SIGSTOP)
            nursery.start_soon(refused)
            await event(running.admin_socket, "session.opened")
            assert await trio.to_thread.run_sync(partial(running.stop, timeout_s=8)) == 0
        await until_gone({spawner})


async def test_a_second_signal_does_not_wait_for_what_is_closing(
    daemon: ForegroundDaemon, tmp_path: Path
) -> None:  # D1
    async with client_of(daemon.endpoint) as client:
        await stuck_session(client, tmp_path)
        tree = descendants(daemon.pid)
        os.kill(daemon.pid, signal.SIGTERM)
        await event(daemon.admin_socket, "session.closing")
        os.kill(daemon.pid, signal.SIGINT)
        with trio.fail_after(5):
            assert await trio.to_thread.run_sync(daemon.process.wait) == 0
        await until_gone(tree)


async def test_a_daemon_whose_spawner_was_killed_ends_and_the_next_one_has_the_session() -> None:  # D2
    with ForegroundDaemon() as running:
        async with client_of(running.endpoint, protocol=2) as client:
            session = await client.open(**ONE_CHIP_TWO_SUBS)
            (spawner,) = children(running.pid)
            tree = descendants(running.pid) - {spawner}
            os.kill(spawner, signal.SIGKILL)
            assert await trio.to_thread.run_sync(running.process.wait) == 1
        assert f"the spawner of the runners (pid {spawner}) has ended" in running.log.read_text()
        assert alive(tree) == tree
        running.start_again()
        async with client_of(running.endpoint, protocol=2) as client:
            await client.link.request(Resume(session=session.session, token=session.resume))
            await client.lane(session, "command")
            await client.close(session)
        await until_gone(tree)


async def test_a_runner_that_talks_nonsense_ends_its_session_and_nothing_else(
    daemon: ForegroundDaemon, tmp_path: Path
) -> None:
    (tmp_path / "talks.py").write_text(
        "import os, socket\n"
        "for name in os.listdir('/proc/self/fd'):\n"
        "    try:\n"
        "        said = socket.socket(fileno=os.dup(int(name)))\n"
        "        if said.type == socket.SOCK_SEQPACKET:\n"
        "            socket.send_fds(said, [b'nonsense'], [0, 1, 2])\n"
        "    except OSError:\n"
        "        pass\n"
    )
    async with client_of(daemon.endpoint) as client:
        before = entries(daemon.pid, "fd")
        with pytest.raises(StartupError, match="not a report of a runner"):
            await client.open(import_paths=[str(tmp_path)], imports=["talks:f"])
        assert entries(daemon.pid, "fd") == before
        await client.close(await client.open())


async def test_a_daemon_without_a_descriptor_for_a_runner_refuses_it_and_goes_on() -> None:  # R9
    with ForegroundDaemon() as running:
        async with client_of(running.endpoint) as client, trio.open_nursery() as nursery:
            (spawner,) = children(running.pid)
            before = entries(running.pid, "fd")

            async def refused() -> None:
                with pytest.raises(StartupError, match=r"no descriptor left to watch it with \(ulimit -n\)"):
                    await client.open()

            os.kill(spawner, signal.SIGSTOP)
            nursery.start_soon(refused)
            await event(running.admin_socket, "session.opened")
            while entries(running.pid, "fd") != before + 2:  # its ends of the two sockets to the runner
                await trio.lowlevel.checkpoint()
            limits = resource.prlimit(running.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (lowest_free_descriptor(running.pid), limits[1]))
            os.kill(spawner, signal.SIGCONT)
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, limits)
        async with client_of(running.endpoint) as client:
            await client.close(await client.open())
            assert descendants(running.pid) == children(running.pid)  # the spawner alone
