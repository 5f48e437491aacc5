"""Calls on the SUB workers of a local Worker."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

from simpler.args import TaskArgs
from simpler.callables import CallableHandle
from simpler.executor.call_record import CallRecord, decode_outcome, encode_call
from simpler.executor.call_runner import CallRunner, RunnerConfig
from simpler.executor.future import CallFuture
from simpler.executor.pickling import NotPicklable
from simpler.orchestrator import Orchestrator
from simpler.region import TaskState
from simpler.run import RunHandle
from simpler.worker import Worker


class SessionBackend:
    """Runs each call as a task on a SUB worker."""

    def __init__(self, max_workers: int) -> None:
        self.max_workers = max_workers
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._handle: CallableHandle

    def execute(self, call: CallRecord, future: CallFuture) -> None:
        """Begins the call."""
        try:
            record = b"".join(encode_call(call))
        except NotPicklable as error:
            future.set_exception(error)
            return
        worker = self._started()
        future.set_running_or_notify_cancel()

        def graph(orch: Orchestrator, _args: object, _config: object) -> Any:
            return orch.submit_sub(self._handle, TaskArgs().add_scalar(record))

        run = worker.submit(graph)
        run.add_done_callback(partial(_settle, future))

    def _started(self) -> Worker:
        with self._lock:
            if self._worker is None:
                worker = Worker(3, num_sub_workers=self.max_workers, name="executor")
                self._handle = worker.register(CallRunner(RunnerConfig()))
                worker.init()
                self._worker = worker
            return self._worker

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """Closes the Worker."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


def _settle(future: CallFuture, run: RunHandle) -> None:
    try:
        task = run.result()
        info = run.state.graph.task(task.id)
        assert info is not None
        if info.state is not TaskState.SUCCEEDED:
            task.result()
        assert info.record is not None
        value, error, future.metrics, future.output = decode_outcome(info.record)
    except BaseException as failure:
        error = failure
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
