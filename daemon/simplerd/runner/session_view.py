"""A session as it is at this moment, for the daemon's questions: its tasks, counters, trace, buffers and callables."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from simpler import limits
from simpler.descriptors import format_hashid
from simpler.inner_callables import KnownCallable
from simpler.region import Op, Region, TaskState
from simpler.region_records import LiveTask as RegionTask
from simpler.region_records import TraceEvent
from simpler.tensor import Access
from simpler.worker_stats import worker_stats
from simplerd.runner.answers import (
    BufferInfo,
    Buffers,
    CallableInfo,
    Callables,
    LiveTask,
    Orchestration,
    Stats,
    Tasks,
    TraceFrom,
    TraceLane,
    TracePage,
    TraceSpan,
    WorkerCounters,
)
from simplerd.runner.buffers import SessionBuffers
from simplerd.runner.dispatcher import DispatchedRun

_ACCESS = {Access.NONE: "none", Access.READ: "read", Access.WRITE: "write", Access.BOTH: "readwrite"}
Called = Callable[[bytes], tuple[str, str]]
"""The hashid and the name of the callable of a digest."""


class Dispatched(Protocol):
    """What is known of the session's callables and the runs of its orchestration functions; see Dispatcher."""

    runs: deque[DispatchedRun]
    running: tuple[bytes, int] | None

    def known(self) -> list[KnownCallable]:
        """The session's callables; any thread may ask."""


class SessionView:
    """Of one session; used in the event loop. ``names``: of its workers, by id."""

    def __init__(
        self, region: Region, names: Mapping[int, str], dispatcher: Dispatched, buffers: SessionBuffers
    ) -> None:
        self._region, self._names = region, names
        self._dispatcher, self._buffers = dispatcher, buffers

    def stats(self) -> Stats:
        counts = worker_stats(self._region, self._names)
        workers = [
            WorkerCounters(
                worker=worker,
                name=name,
                kind=info.kind.name.lower(),
                state=info.state.name.lower(),
                pid=info.pid,
                queued=info.queued,
                tasks=info.tasks,
                failures=info.failures,
                deaths=info.deaths,
                abandoned=info.abandoned,
            )
            for (worker, name), info in zip(self._names.items(), counts.workers, strict=True)
        ]
        return Stats(
            tasks=counts.tasks,
            failures=counts.failures,
            poisoned=counts.poisoned,
            cancelled=counts.cancelled,
            live=counts.live,
            runs_live=counts.runs_live,
            shared_queue=counts.shared_queue,
            heap_bytes=counts.heap_bytes,
            heap_used=counts.heap_used,
            heap_peak=counts.heap_peak,
            restarts=counts.restarts,
            workers=workers,
        )

    def tasks(self) -> Tasks:
        """What runs, and the first of what waits."""
        called, running = self._called(), self._dispatcher.running
        placed = self._region.live_tasks((TaskState.RUNNING, TaskState.GATHERING), limits.MAX_WORKERS)
        waiting = self._region.live_tasks((TaskState.READY, TaskState.PENDING), limits.TASKS_TOLD - len(placed))
        waiting.sort(key=lambda task: task.submitted_ns)
        return Tasks(
            orchestration=Orchestration(*called(running[0]), _unix(running[1])) if running else None,
            live=self._region.stats().live,
            tasks=[self._live_task(task, called) for task in [*placed, *waiting]],
        )

    def _live_task(self, task: RegionTask, called: Called) -> LiveTask:
        hashid, name = ("", "control") if task.op is Op.CONTROL else called(task.digest)
        return LiveTask(
            task=task.id,
            run=task.run,
            state=task.state.name.lower(),
            worker=self._names.get(task.worker),
            callable=hashid,
            name=name if task.op in (Op.CALL, Op.CONTROL) else f"{task.op.name.lower()} {name}",
            since=_unix(task.started_ns or task.submitted_ns),
            timeout_s=task.timeout_ns / 1e9 if task.timeout_ns else None,
        )

    def trace(self, begin: TraceFrom) -> TracePage:
        """What has ended behind ``begin``, as much as a page holds."""
        called, room = self._called(), limits.TRACE_PAGE_EVENTS
        events, tasks = self._region.trace(begin.tasks, room)
        all_runs = list(self._dispatcher.runs)
        runs = [run for run in all_runs if run.number > begin.runs][:room]
        orchestration = max(self._names, default=-1) + 1
        lanes = [TraceLane(each, name, self._region.worker_info(each).pid) for each, name in self._names.items()]
        return TracePage(
            lanes=[*lanes, TraceLane(orchestration, "orchestration", os.getpid())],
            spans=[
                *(_task_span(event, called) for event in events),
                *(_run_span(run, orchestration, called) for run in runs),
            ],
            next=TraceFrom(tasks, runs[-1].number if runs else begin.runs),
            ended=TraceFrom(self._region.stats().tasks, all_runs[-1].number if all_runs else 0),
            is_last=len(events) < room and len(runs) < room,
        )

    def buffers(self) -> Buffers:
        """The memory that its client has, the largest buffers first."""
        known = sorted(self._buffers.known(), key=lambda each: -each.nbytes)
        return Buffers(
            count=len(known),
            nbytes=sum(each.nbytes for each in known),
            buffers=[
                BufferInfo(each.buffer, each.nbytes, each.kind, _ACCESS[each.access])
                for each in known[: limits.BUFFERS_TOLD]
            ],
        )

    def callables(self) -> Callables:
        """What it can run."""
        return Callables(
            [
                CallableInfo(
                    callable=format_hashid(each.digest),
                    name=_cut(each.name),
                    kind=each.kind.name.lower(),
                    references=each.references,
                    prepared=each.prepared,
                )
                for each in self._dispatcher.known()[: limits.CALLABLES]
            ]
        )

    def _called(self) -> Called:
        names = {each.digest: _cut(each.name) for each in self._dispatcher.known()}

        def called(digest: bytes) -> tuple[str, str]:
            hashid = format_hashid(digest)
            return hashid, names.get(digest, hashid)

        return called


def _task_span(event: TraceEvent, called: Called) -> TraceSpan:
    hashid, name = ("", "control") if event.op is Op.CONTROL else called(event.digest)
    return TraceSpan(
        worker=event.worker,
        task=event.task,
        run=event.run,
        op=event.op.name.lower(),
        outcome=event.state.name.lower(),
        callable=hashid,
        name=name,
        submitted_ns=event.submitted_ns,
        ready_ns=event.ready_ns,
        started_ns=event.started_ns,
        ended_ns=event.ended_ns,
    )


def _run_span(run: DispatchedRun, worker: int, called: Called) -> TraceSpan:
    hashid, name = called(run.digest)
    outcome = TaskState.SUCCEEDED if run.succeeded else TaskState.FAILED
    return TraceSpan(
        worker=worker,
        task=run.number,
        run=run.number,
        op="run",
        outcome=outcome.name.lower(),
        callable=hashid,
        name=name,
        submitted_ns=run.started_ns,
        ready_ns=run.started_ns,
        started_ns=run.started_ns,
        ended_ns=run.ended_ns,
    )


def _unix(monotonic_ns: int) -> float:
    """What CLOCK_MONOTONIC says, as Unix time in seconds."""
    return time.time() - (time.monotonic_ns() - monotonic_ns) / 1e9


def _cut(name: str) -> str:
    """User code chooses its names: they may be long, and hold what is no text."""
    return name[: limits.ANSWER_NAME_CHARACTERS].encode(errors="replace").decode()
