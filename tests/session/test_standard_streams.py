"""Programs that are started without some of the standard streams, as services and cron jobs may be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simpler.spawn import Spawner

pytestmark = pytest.mark.slow

PROGRAM = """
import os
import sys
from pathlib import Path
from simpler import Worker

def speak(args):
    print("to output")
    print("to error", file=sys.stderr, flush=True)
    os.write(2, b"to error, too")
    return "spoke"

with Worker(3, num_sub_workers=2) as worker:
    numbers = [fd for fd in (0, 1, 2) if "region" in os.path.realpath(f"/proc/self/fd/{fd}")]
    handle = worker.register(speak)
    said = [task.result() for task in worker.run(lambda orch, args, config: [orch.submit_sub(handle)] * 3)]
    worker.region.check()
Path(sys.argv[1]).write_text(f"{numbers} {said}")
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_program_without_standard_streams_runs_its_tasks(closed: str, tmp_path: Path) -> None:  # W1
    report = tmp_path / "report"
    command = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", PROGRAM, str(report)]
    assert subprocess.run(command, timeout=60, stderr=subprocess.DEVNULL, check=False).returncode == 0
    assert report.read_text() == "[] ['spoke', 'spoke', 'spoke']"


def test_ctrl_c_in_a_terminal_never_reaches_a_spawner_not_even_while_it_imports() -> None:
    spawner = Spawner.exec(preload=[], name="test-spawn")
    session = os.getsid(spawner.pid)
    spawner.close()
    assert session == spawner.pid
