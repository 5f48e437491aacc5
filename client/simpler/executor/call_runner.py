"""The worker's side: what a SUB worker runs for each call."""

from __future__ import annotations

import os
import resource
import socket
import time

from simpler.args import ReceivedArgs
from simpler.executor.call_record import CallRecord, Parts, decode_call, encode_outcome
from simpler.executor.metrics import CallMetrics


def run_call(args: ReceivedArgs) -> bytes:
    """Runs the call in scalar 0, and gives its outcome's record."""
    record = args.scalar(0)
    assert isinstance(record, bytes)
    return b"".join(_run(decode_call(record)))


def _run(call: CallRecord) -> Parts:
    started, begun, used = time.time(), time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    value: object = None
    error: BaseException | None = None
    try:
        if call.is_chunk:
            value = values = []
            for item in call.args:
                values.append(call.fn(*item))
        else:
            value = call.fn(*call.args, **call.kwargs)
    except BaseException as raised:
        error = raised
    now = resource.getrusage(resource.RUSAGE_SELF)
    metrics = CallMetrics(
        started,
        time.time(),
        time.perf_counter() - begun,
        now.ru_utime - used.ru_utime,
        now.ru_stime - used.ru_stime,
        now.ru_maxrss << 10,
        os.getpid(),
        os.environ.get("SIMPLER_WORKER_ID", ""),
        socket.gethostname(),
    )
    return encode_outcome(value, error, metrics)
