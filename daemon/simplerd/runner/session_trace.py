"""What a session did, for its client's trace: tasks of the inner workers, runs of orchestration functions."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from simpler.region import Region
from simpler.region_records import Op, TaskState, TraceEvent, pack_trace
from simpler.trace import all_events
from simpler.wire.command_messages import TraceProcess, TraceReply
from simplerd.runner.control_protocol import Launch
from simplerd.runner.dispatcher import Dispatcher


class SessionTrace:
    """The session's lanes: one per inner worker (`names`, by id), and one behind them for its orchestration thread."""

    def __init__(self, launch: Launch, region: Region, dispatcher: Dispatcher, names: Mapping[int, str]) -> None:
        self._region = region
        self._dispatcher = dispatcher
        self._name = f"{launch.host} session {launch.session}"
        self._workers = names
        self._orchestration = max(self._workers, default=-1) + 1

    def since(self, since_ns: int) -> tuple[TraceReply, bytes]:
        """What ended after `since_ns` of this host's CLOCK_MONOTONIC, and who is who."""
        events = [event for event in all_events(self._region) if event.ended_ns > since_ns]
        events += [event for event in self._runs() if event.ended_ns > since_ns]
        processes = [
            TraceProcess(worker=worker, name=f"{self._name} {name}", pid=self._region.worker_info(worker).pid)
            for worker, name in self._workers.items()
        ]
        processes.append(TraceProcess(worker=self._orchestration, name=f"{self._name} orchestration", pid=os.getpid()))
        return TraceReply(clock_ns=time.monotonic_ns(), processes=processes), pack_trace(events)

    def _runs(self) -> list[TraceEvent]:
        return [
            TraceEvent(
                task=run.number,
                run=run.number,
                worker=self._orchestration,
                state=TaskState.SUCCEEDED if run.succeeded else TaskState.FAILED,
                op=Op.CALL,
                submitted_ns=run.started_ns,
                ready_ns=run.started_ns,
                started_ns=run.started_ns,
                ended_ns=run.ended_ns,
                digest=run.digest,
            )
            for run in self._dispatcher.runs
        ]
