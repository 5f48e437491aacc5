"""What of the daemon's environment reaches a session, in the process's memory too."""

import os
import subprocess
import sys

from simplerd.runner.environment import session_environment

DAEMON = {
    "PATH": "/usr/bin",
    "LC_ALL": "C.UTF-8",
    "NOTIFY_SOCKET": "/run/notify",
    "LISTEN_FDS": "1",
    "WATCHDOG_USEC": "1",
    "AWS_SECRET_ACCESS_KEY": "hunter2",
}


def test_only_what_is_on_the_allow_list_is_kept() -> None:  # X3
    assert session_environment(DAEMON, {}) == {"PATH": "/usr/bin", "LC_ALL": "C.UTF-8"}


def test_the_manifest_lies_over_it_and_none_unsets() -> None:  # X3
    assert session_environment(DAEMON, {"PATH": None, "MODE": "fast"}) == {"LC_ALL": "C.UTF-8", "MODE": "fast"}


def test_a_secret_is_gone_from_the_memory_of_the_process() -> None:  # X3
    program = (
        "import os, pathlib\n"
        "from simplerd.runner.environment import install\n"
        "install({'MODE': 'fast'})\n"
        "assert b'hunter2' not in pathlib.Path('/proc/self/environ').read_bytes()\n"
        "assert dict(os.environ) == {'MODE': 'fast'}\n"
        "os.system('/usr/bin/env')\n"
    )
    env = {**os.environ, "SECRET": "hunter2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=30, check=True
    )
    assert "MODE=fast" in done.stdout.splitlines()
    assert "hunter2" not in done.stdout
