"""Tasks that do nothing, in a session over loopback TCP, beside what TCP itself takes: see tcp_roundtrip.c.

Program and session have a processor each in both. The bare program runs before and after, since a machine may become
faster or slower.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

from benchmarks.bare import bare
from benchmarks.measurement import Result, Samples
from benchmarks.processors import apart, process_tree
from simpler import CallableHandle, Orchestrator, RemoteWorkerSpec, TaskArgs, Worker
from simplerd.foreground import ForegroundDaemon

WARM_UP_RUNS = 300
ROUND_TRIPS = 3000
MESSAGE_BYTES = 96
"""About what a task without arguments takes on the wire."""
QUEUED, REPEATS = 20_000, 7
MICROSECONDS = 1e6

Graph = Callable[[Orchestrator, object, object], object]


def free_endpoint() -> str:
    """Where a daemon may listen on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def nothing(orch: Orchestrator, args: object, config: object) -> None:
    """An orchestration function."""


def measure() -> Iterator[Result]:
    """The rows, as they come."""
    endpoint = free_endpoint()
    with ForegroundDaemon("--listen", endpoint) as daemon, _worker(endpoint) as worker:
        handle = worker.register(nothing)
        with apart(process_tree(daemon.pid)):
            yield from _one_at_a_time(worker, handle)
            yield from _queued(worker, handle)


def _worker(endpoint: str) -> Worker:
    worker = Worker(4, name="bench")
    worker.add_remote_worker(RemoteWorkerSpec(endpoint))
    return worker


def _one_at_a_time(worker: Worker, handle: CallableHandle) -> Iterator[Result]:
    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
        orch.submit_next_level(handle, worker=0)

    for _ in range(WARM_UP_RUNS):
        worker.run(graph)
    before = bare("tcp_roundtrip", ROUND_TRIPS, MESSAGE_BYTES)
    took = Samples.of_calls(lambda: worker.run(graph), ROUND_TRIPS, scale=MICROSECONDS)
    alone = Samples([*before.values, *bare("tcp_roundtrip", ROUND_TRIPS, MESSAGE_BYTES).values])
    yield Result("bare TCP round trip between two processes", "µs", None, alone)
    yield Result("submit, run and result of one no-op task in a session", "µs", None, took)
    yield Result("    the same", "of the bare one", 2.5, took.over(alone.median))


def _queued(worker: Worker, handle: CallableHandle) -> Iterator[Result]:
    def plain(orch: Orchestrator, _args: object, _config: object) -> None:
        for _ in range(QUEUED):
            orch.submit_next_level(handle, worker=0)

    def with_arguments(orch: Orchestrator, _args: object, _config: object) -> None:
        for number in range(QUEUED):
            orch.submit_next_level(handle, TaskArgs().add_scalar(number), worker=0)

    yield _rate(f"{QUEUED:,} no-op tasks for a session in one run", 30_000, worker, plain)
    yield _rate("    with one scalar each", None, worker, with_arguments)


def _rate(what: str, target: float | None, worker: Worker, graph: Graph) -> Result:
    seconds = Samples.of_calls(lambda: worker.run(graph), REPEATS)
    rates = Samples([QUEUED / each for each in seconds.values])
    return Result(what, "tasks/s", target, rates, higher_is_better=True)
