"""simplerctl against a real daemon: what it prints, for people and for programs, and what it exits with."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from simplerctl.__main__ import cli
from simplerd.foreground import ForegroundDaemon

from .conftest import SIMPLERCTL, Finished

Run = Callable[..., Finished]


def json_of(done: Finished) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def verbs(group: click.Group = cli, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every verb, as its words."""
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found += verbs(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


def test_status_tells_people_what_the_daemon_is(simplerctl: Run, served: ForegroundDaemon) -> None:
    done = simplerctl("status")
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines())
    assert facts["state"] == "serving"
    assert f"process {served.pid} of uid {os.getuid()}" in facts["daemon"]
    assert facts["configuration"] == "embedded defaults"
    assert facts["serves at"] == served.endpoint
    assert facts["devices"] == "0 of 2 leased"


def test_status_tells_programs_the_same(simplerctl: Run, served: ForegroundDaemon) -> None:
    status = json_of(simplerctl("status", "--format", "json"))
    assert (status["pid"], status["endpoints"], status["sessions"]) == (served.pid, [served.endpoint], 0)


def test_version_names_all_that_runs(simplerctl: Run) -> None:
    versions = json_of(simplerctl("version", "--format", "json"))
    assert set(versions) == {"simplerctl", "simplerd", "python", "kernel", "sessions", "skew", "problem"}
    assert (versions["simplerctl"], versions["skew"]) == (versions["simplerd"], False)
    assert versions["kernel"] == os.uname().release


def test_devices_are_a_table(simplerctl: Run) -> None:
    assert simplerctl("device", "list").stdout.splitlines() == [
        "DEVICE  PLATFORM  STATE  SESSION  SINCE  REASON",
        "0       sim       free   -        -      -",
        "1       sim       free   -        -      -",
    ]
    assert [each["device"] for each in json_of(simplerctl("device", "list", "--format", "json"))] == [0, 1]


def test_no_sessions_are_told_in_words_and_to_programs_as_none(simplerctl: Run) -> None:
    assert simplerctl("session", "list").stdout == "No sessions.\n"
    assert json_of(simplerctl("session", "list", "--format", "json")) == []


@pytest.mark.parametrize("verb", ["show", "close"])
def test_a_session_that_is_not_there_is_an_error(simplerctl: Run, verb: str) -> None:
    done = simplerctl("session", verb, "s-1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: there is no session 's-1' at this daemon\n"


def test_events_are_listed_up_to_now(simplerctl: Run, served: ForegroundDaemon) -> None:
    done = simplerctl("events", "--type", "daemon")
    assert done.returncode == 0
    assert re.match(r"     1  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  daemon\.ready +endpoints=unix:", done.stdout)
    assert simplerctl("events", "--type", "daemo").stdout == ""


def test_events_for_programs_are_one_object_a_line(simplerctl: Run) -> None:
    simplerctl("session", "close", "s-1")
    lines = simplerctl("events", "--type", "admin.call", "--format", "json").stdout.splitlines()
    event = json.loads(lines[-1])
    assert event["fields"]["method"] == "session.close"
    after = simplerctl("events", "--after", str(event["seq"]), "--type", "admin.call")
    assert (after.returncode, after.stdout) == (0, "")


def test_a_call_that_changes_something_is_logged_with_the_callers_uid(
    simplerctl: Run, served: ForegroundDaemon
) -> None:
    simplerctl("session", "close", "s-logged")  # D9
    (line,) = [line for line in served.log.read_text().splitlines() if "admin.call" in line and "s-logged" in line]
    assert "admin.call method=session.close" in line
    assert f" uid={os.getuid()} pid=" in line


def test_events_are_followed_until_interrupted(simplerctl: Run, served: ForegroundDaemon) -> None:
    words: list[str | Path] = [SIMPLERCTL, "--socket", served.admin_socket, "events", "--follow", "--type", "admin"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        # What happens before the subscription is made is not followed, so that it must happen again.
        deadline = time.monotonic() + 30
        while not select.select([following.stdout], [], [], 0.05)[0]:
            assert time.monotonic() < deadline
            simplerctl("session", "close", "s-followed")
        assert '"session":"s-followed"' in following.stdout.readline().replace("\\", "")
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 130
        assert following.stderr.read() == ""


def test_events_are_listed_since_a_moment(simplerctl: Run) -> None:
    assert "daemon.ready" in simplerctl("events", "--since", "1d", "--type", "daemon").stdout
    assert simplerctl("events", "--since", "0s").stdout == ""
    assert "daemon.ready" in simplerctl("events", "--since", "2026-01-31 12:00").stdout
    done = simplerctl("events", "--since", "yesterday")
    assert (done.returncode, "'yesterday' is no time; expected how long ago, such as 10m" in done.stderr) == (2, True)


def test_an_event_of_the_future_cannot_be_followed(simplerctl: Run) -> None:
    done = simplerctl("events", "--after", "1000000")
    assert done.returncode == 1
    assert "there is no event 1000000 yet" in done.stderr


def test_any_method_can_be_called(simplerctl: Run) -> None:
    discovered = json_of(simplerctl("rpc", "rpc.discover"))
    assert "session.close" in [method["name"] for method in discovered["methods"]]
    assert json_of(simplerctl("rpc", "session.list", '{"all": false}')) == []


def test_what_the_daemon_refuses_is_told_in_its_words(simplerctl: Run) -> None:
    done = simplerctl("rpc", "sesion.list")
    assert (done.returncode, done.stderr) == (
        1,
        "Error: there is no method 'sesion.list'; did you mean session.list?\n",
    )


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("status", "--frmat"),
        ("rpc", "daemon.status", "{"),
        ("run", "/no/such/script"),
        ("--timeout", "0", "status"),
    ],
)
def test_wrong_usage_exits_with_2(simplerctl: Run, words: tuple[str, ...]) -> None:
    done = simplerctl(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr


def test_a_script_is_run_with_the_daemon_in_its_environment(
    simplerctl: Run, served: ForegroundDaemon, tmp_path: Path
) -> None:
    script = tmp_path / "job.py"
    script.write_text("import os, sys\nprint(os.environ['SIMPLERD_ENDPOINT'], sys.argv[1:])\nsys.exit(7)\n")
    done = simplerctl("run", str(script), "--epochs", "5", "--help")
    assert (done.returncode, done.stdout) == (7, f"{served.endpoint} ['--epochs', '5', '--help']\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_its_completion(simplerctl: Run, shell: str) -> None:
    done = simplerctl("completion", shell)
    assert done.returncode == 0
    assert "_SIMPLERCTL_COMPLETE" in done.stdout


def test_bash_completes_verbs(simplerctl: Run) -> None:
    words = {"_SIMPLERCTL_COMPLETE": "bash_complete", "COMP_WORDS": "simplerctl session c", "COMP_CWORD": "2"}
    assert simplerctl(**words).stdout == "plain,close\n"


def test_nothing_is_offered_for_a_name_without_a_daemon(simplerctl: Run, tmp_path: Path) -> None:
    words = {"_SIMPLERCTL_COMPLETE": "bash_complete", "COMP_WORDS": "simplerctl session show s", "COMP_CWORD": "3"}
    done = simplerctl(**words, SIMPLERD_ADMIN_SOCKET=str(tmp_path / "admin.sock"))
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize("words", verbs(), ids=" ".join)
def test_every_verb_has_help_with_an_example(words: tuple[str, ...]) -> None:
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert command.help
    assert command.epilog
    assert f"simplerctl {' '.join(words)}" in command.epilog
    formats = [option for option in command.params if option.name == "style"]
    assert len(formats) == (0 if words[0] in ("run", "rpc", "completion", "dial-stdio") else 1)


def test_a_reader_that_leaves_early_is_no_error(simplerctl: Run, served: ForegroundDaemon) -> None:
    for _ in range(3):
        simplerctl("session", "close", "s-1")
    pipe = f"{SIMPLERCTL} --socket {served.admin_socket} rpc rpc.discover | head -c 1"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("{", "")


def test_output_that_cannot_be_written_is_said_in_a_line(served: ForegroundDaemon) -> None:
    words: list[str | Path] = [SIMPLERCTL, "--socket", served.admin_socket, "status"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "simplerctl: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e10", "-1"])
@pytest.mark.parametrize("verb", [("--timeout", "{}", "status"), ("wait", "--for", "ready", "--timeout", "{}")])
def test_what_is_no_time_to_wait_is_refused(simplerctl: Run, seconds: str, verb: tuple[str, ...]) -> None:
    done = simplerctl(*(word.format(seconds) for word in verb))
    assert (done.returncode, "Invalid value for '--timeout'" in done.stderr) == (2, True)


def test_words_that_are_too_much_are_refused(simplerctl: Run) -> None:
    assert "is too long; a year is the most" in simplerctl("drain", "--deadline", f"{'9' * 400}d").stderr
    done = simplerctl("rpc", "daemon.version", "[" * 9000)
    assert (done.returncode, "Invalid value for JSON: not JSON" in done.stderr) == (2, True)


def test_a_stream_that_is_closed_is_not_taken_for_the_daemon(served: ForegroundDaemon) -> None:
    """Its number would be the socket's, and the command would wait for what it had itself sent to be answered."""
    for closed in ("<&-", ">&-", "<&- >&- 2>&-"):
        command = f"{SIMPLERCTL} --socket {served.admin_socket} dial-stdio </dev/null {closed}"
        assert subprocess.run(["bash", "-c", command], timeout=60, check=False).returncode == 0


def test_a_file_that_may_not_be_seen_is_named(simplerctl: Run) -> None:
    done = simplerctl("service", "install", "--user", "--dry-run", XDG_CONFIG_HOME="/" + "x" * 300)
    assert done.stderr.startswith("simplerctl: /xxx"), done.stderr
    assert done.stderr.endswith(": File name too long\n")


def at_a_terminal(words: list[str | Path], columns: int, **environ: str) -> list[str]:
    """The lines that simplerctl shows at a terminal that wide."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")} | environ
    subprocess.run([SIMPLERCTL, *words], stdout=end, env=env, check=True, timeout=60)
    os.close(end)
    shown = os.read(terminal, 4096).decode().splitlines()
    os.close(terminal)
    return shown


def test_colours_are_for_terminals_that_want_them(served: ForegroundDaemon) -> None:
    words: list[str | Path] = ["--socket", served.admin_socket, "device", "list"]
    heading, *_ = at_a_terminal(words, 80)
    assert heading.startswith("\x1b[1mDEVICE")
    assert at_a_terminal(words, 80, NO_COLOR="1")[0].startswith("DEVICE")


def test_a_table_fits_the_terminal_and_is_whole_elsewhere(served: ForegroundDaemon) -> None:
    words: list[str | Path] = [SIMPLERCTL, "--socket", served.admin_socket, "device", "list"]
    shown = at_a_terminal(words[1:], 34, NO_COLOR="1")
    assert len(shown) == 3
    assert max(map(len, shown)) <= 34
    assert "PLATFOR…" not in subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
