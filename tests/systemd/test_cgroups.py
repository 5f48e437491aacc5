"""The control groups of the daemon and of its sessions, as systemd delegates them.

Limits are not tested here: this host's cgroup v2 may have no controllers.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from systemd.scene import SERVICE, groups
from systemd_box import INSIDE, PYTHON, PYTHON_PATH, SDBOX, Box

pytestmark = pytest.mark.slow
SESSIONS = int(os.environ.get("SIMPLER_TEST_SESSIONS", "6"))


def test_what_escaped_from_a_session_ends_with_it(service: Box) -> None:  # W3 R5
    service.systemctl("start", SERVICE)
    words = [SDBOX, "exec", service.name, "env", f"PYTHONPATH={PYTHON_PATH}", PYTHON]
    command = [str(word) for word in (*words, INSIDE / "tests/systemd/escaping_program.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        escaped = client.stdout.readline().strip()
        assert service.run("cat", f"/proc/{escaped}/comm").stdout == "sleep\n"
        _, errors = client.communicate("go on\n", timeout=30)
        assert client.returncode == 0, errors
    assert service.run("test", "-e", f"/proc/{escaped}", check=False).returncode == 1
    assert set(groups(service)) == {"daemon"}
    log = [entry["MESSAGE"] for entry in service.journal("-u", SERVICE)]
    assert any("killed what outlived its session" in message and escaped in message for message in log)


def test_many_sessions_leave_no_group(service: Box) -> None:  # R5
    service.systemctl("start", SERVICE)
    service.python(INSIDE / "tests/systemd/many_sessions_program.py", SESSIONS, timeout_s=600)
    ended = service.simplerctl("status", "--format", "json").stdout
    assert json.loads(ended)["sessions_opened"] == SESSIONS
    assert set(groups(service)) == {"daemon"}
