"""CPython's own tests of process pools hold of SimplerExecutor, but for those that are listed with why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import ChainMap
from itertools import chain

import pytest

from executor import cpython_suite

PARTS = 6
"""Processes that run them side by side: most of these tests sleep."""
WAIT_S = 300.0


def _run_all() -> list[cpython_suite.Outcome]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "executor.cpython_suite"]
    begun = [
        subprocess.Popen([*command, str(part), str(PARTS)], env=environ, stdout=subprocess.PIPE, text=True)
        for part in range(PARTS)
    ]
    try:
        printed = [process.communicate(timeout=WAIT_S)[0] for process in begun]
    finally:
        for process in begun:
            process.kill()
            process.wait()
    return [cpython_suite.Outcome(**json.loads(lines.splitlines()[-1])) for lines in printed]


# X1
@pytest.mark.slow
def test_cpythons_own_tests_of_process_pools_pass() -> None:
    outcomes = _run_all()
    if not outcomes[0].all:
        pytest.skip("this interpreter has no module test.test_concurrent_futures; see tests/executor/setup.sh")
    failed = dict(ChainMap(*(outcome.failed for outcome in outcomes)))
    assert not failed, "\n".join(f"{name}\n{text}" for name, text in failed.items())
    assert list(chain(*(outcome.stale for outcome in outcomes))) == [], "listed as not applicable, and passed"
    passed, skipped = (list(chain(*(getattr(each, kind) for each in outcomes))) for kind in ("passed", "skipped"))
    assert sorted([*passed, *skipped, *cpython_suite.NOT_APPLICABLE]) == sorted(outcomes[0].all)
    print(
        f"{len(passed)} of CPython's tests passed, {len(cpython_suite.NOT_APPLICABLE)} do not apply, and skipped "
        f"themselves: {skipped}"
    )
