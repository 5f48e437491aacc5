"""Measures Simpler against its targets and against others: ``python -m benchmarks``, or ``make bench``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import (
    executor_calls,
    executors,
    growth,
    killed,
    local_tasks,
    remote_copies,
    remote_tasks,
    report,
    sessions,
    waking,
)

GROUPS = {
    "tasks": local_tasks,
    "executor": executor_calls,
    "waking": waking,
    "killed": killed,
    "sessions": sessions,
    "remote": remote_tasks,
    "copies": remote_copies,
    "growth": growth,
}


def main() -> int:
    """Prints the table as it is measured. 0 also when a target is missed, which is marked: machines differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every measured value")
    parser.add_argument(
        "--only", metavar="GROUPS", default=",".join(GROUPS), help="of these, by default all: %(default)s"
    )
    extras = ",".join(executors.EXTRAS)
    parser.add_argument("--with", dest="extras", metavar="SYSTEMS", help=f"also compare with these of {extras}")
    options = parser.parse_args()
    groups = options.only.split(",")
    if unknown := set(groups) - GROUPS.keys():
        parser.error(f"--only {options.only}: {', '.join(sorted(unknown))} is none of {', '.join(GROUPS)}")
    try:
        executors.add_extras(options.extras.split(",") if options.extras else [])
    except ValueError as error:
        parser.error(f"--with {options.extras}: {error}")
    print(", ".join(f"{name} {value}" for name, value in report.machine().items()))
    print(report.HEAD, flush=True)
    results = []
    for group in groups:
        for result in GROUPS[group].measure():
            results.append(result)
            print("\n".join(report.rows(result)), flush=True)
    targets = [result for result in results if result.target is not None]
    missed = [result.what.strip() for result in targets if not result.reached]
    print(f"{len(targets) - len(missed)} of {len(targets)} targets reached", *missed, sep="; MISSED: ")
    if options.json:
        options.json.write_text(json.dumps(report.record(results), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
