"""How results are told: a table for people, a record for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measurement import Result, Samples

ROW = "{:<64} {:>17} {:>10} {:>19} {:>9}  {}"
HEAD = ROW.format("", "target", "median", "p10 to p90", "p99", "")


def machine() -> dict[str, Any]:
    """What the figures hang on."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def rows(result: Result) -> list[str]:
    """A result and what it is compared with, as lines of the table."""
    first = _row(result.what, _target(result), result.samples, _verdict(result))
    others = [
        _row(f"    {name}", "", samples, f"Simpler is {result.times_better(name):.1f} times better")
        for name, samples in result.others.items()
    ]
    return [first, *others]


def _target(result: Result) -> str:
    if result.target is None:
        return result.unit
    return f"{'≥' if result.higher_is_better else '≤'} {number(result.target)} {result.unit}"


def _verdict(result: Result) -> str:
    if result.target is None:
        return ""
    return "reached" if result.reached else "MISSED"


def _row(what: str, target: str, samples: Samples, remark: str) -> str:
    spread = f"{number(samples.percentile(10))} to {number(samples.percentile(90))}"
    return ROW.format(what, target, number(samples.median), spread, number(samples.percentile(99)), remark)


def number(value: float) -> str:
    """Three digits that matter, and thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def record(results: Sequence[Result]) -> dict[str, Any]:
    """Everything that was measured, every single value included."""
    return {
        "machine": machine(),
        "results": [{**asdict(result), "reached": result.reached} for result in results],
    }
