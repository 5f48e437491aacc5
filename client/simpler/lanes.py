"""The lanes of a trace: what the processes of a running Worker did, and those of the Workers below it.

A child on this host is asked by a task of op CONTROL whose payload is the time since when, 8 bytes little-endian, in
nanoseconds of CLOCK_MONOTONIC; it answers with its own lanes. A session is asked over its command lane.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from simpler.chrome_trace import ProcessTrace
from simpler.errors import SimplerError
from simpler.local_workers import worker_names
from simpler.region import Op
from simpler.region_records import NO_CALLABLE, TraceEvent
from simpler.result_record import encode_result
from simpler.run import RunHandle, TaskRef
from simpler.trace import all_events, task_spans
from simpler.tree import Tree

_log = logging.getLogger("simpler.trace")
_TIME_BYTES = 8


def own_lanes(tree: Tree, belongs: Callable[[TraceEvent], bool]) -> list[ProcessTrace]:
    """A lane for each local worker of the tree, with those of its tasks that belong there."""
    label = f"L{tree.options.level}" if tree.options.name else f"L{tree.options.level} host"  # else names have it
    spans = task_spans(filter(belongs, all_events(tree.region)), tree.registry.names())
    return [
        ProcessTrace(tree.region.worker_info(worker).pid, f"{label} {name}", spans.get(worker, []))
        for worker, name in worker_names(tree.options, tree.targets).items()
    ]


def lanes_below(tree: Tree, since_ns: int) -> list[ProcessTrace]:
    """The lanes of the Workers below since then. They answer in turn, behind the tasks that they were given before.

    One that is lost, or dies meanwhile, has none.
    """
    lanes: list[ProcessTrace] = []
    for worker, answer in _ask_children(tree, since_ns):
        try:
            lanes += answer.result()
        except SimplerError as error:
            _log.warning("no trace of worker %d: %s", worker, error)
    return lanes + tree.remote_lanes(since_ns)


def answer_trace(since: bytes, lanes_since: Callable[[int], Sequence[ProcessTrace]]) -> Sequence[bytes | memoryview]:
    """A child's answer to ``lanes_below``."""
    return encode_result(lanes_since(int.from_bytes(since, "little")))


def _ask_children(tree: Tree, since_ns: int) -> list[tuple[int, TaskRef]]:
    asked = [worker for worker in tree.targets.dist if not tree.region.worker_info(worker).abandoned]
    if not asked:
        return []
    run, since = RunHandle(tree.begin_run()), since_ns.to_bytes(_TIME_BYTES, "little")
    submit, answers = run.state.graph.submit_with, list[tuple[int, TaskRef]]()
    try:
        for worker in asked:
            task = tree.with_room(partial(submit, worker, NO_CALLABLE, Op.CONTROL, payload=since))
            answers.append((worker, TaskRef(run.state, task)))
    except BaseException as error:
        run.orchestration_failed(error)
        raise
    run.orchestrated(None)
    return answers
