"""What surrounds a call in a session is as on this host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from executor import disorder, situations
from executor.conftest import MakeExecutor
from simpler import RemoteWorkerSpec
from simpler.executor import CapturedOutput
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow
WAIT_S = 60
MIB = 1 << 20


@pytest.fixture(scope="module")
def session() -> Iterator[RemoteWorkerSpec]:
    """A session with one worker, that knows the modules of the tests."""
    with ForegroundDaemon() as daemon:
        yield RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1, import_paths=[str(Path(__file__).parents[1])])


# X4, X6
def test_a_process_is_put_back_and_has_a_name(
    make_session_executor: MakeExecutor, session: RemoteWorkerSpec, tmp_path: Path
) -> None:
    notes = str(tmp_path / "notes")
    executor = make_session_executor(
        endpoints=[session], initializer=situations.settle_in, initargs=(str(tmp_path), notes)
    )
    before = executor.submit(disorder.state).result(WAIT_S)
    assert before["cwd"] == tmp_path
    for leave in (disorder.change_folder, disorder.change_environment, disorder.handle_signals, disorder.replace_path):
        executor.submit(leave).result(WAIT_S)
    assert executor.submit(disorder.state).result(WAIT_S) == before
    future = executor.submit(situations.variables, "SIMPLER_WORKER_ID", "SIMPLER_NODE_ID")
    worker_id, node_id = future.result(WAIT_S)
    assert future.metrics is not None
    assert (future.metrics.worker_id, future.metrics.node_id) == (worker_id, node_id)


# X3
def test_calls_have_the_options_that_they_ask_for(
    make_session_executor: MakeExecutor, session: RemoteWorkerSpec, tmp_path: Path
) -> None:
    executor = make_session_executor(endpoints=[session])
    (tmp_path / "only_there.py").write_text("HERE = 1")
    there = executor.options(cwd=tmp_path, env_updates={"SITUATION": "far"}, python_path=[tmp_path], output="capture")
    assert there.submit(situations.folder).result(WAIT_S) == tmp_path
    assert there.submit(situations.variables, "SITUATION").result(WAIT_S) == ["far"]
    assert there.submit(situations.attribute, "only_there", "HERE").result(WAIT_S) == 1
    said = there.submit(print, "heard")
    said.result(WAIT_S)
    assert said.output == CapturedOutput("heard\n", "")
    with pytest.raises(MemoryError):
        executor.options(memory_bytes=64 * MIB).submit(situations.take_memory, 256 * MIB).result(WAIT_S)
