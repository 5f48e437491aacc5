"""Measures Simpler against its targets and against other process pools: ``python -m benchmarks``, or ``make bench``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import local_tasks, report, sessions


def main() -> int:
    """Prints the table as it is measured. 0 also when a target is missed, which is marked: machines differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every measured value")
    options = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in report.machine().items()))
    print(report.HEAD, flush=True)
    results = []
    for group in (local_tasks, sessions):
        for result in group.measure():
            results.append(result)
            print("\n".join(report.rows(result)), flush=True)
    targets = [result for result in results if result.target is not None]
    missed = [result.what for result in targets if not result.reached]
    print(f"{len(targets) - len(missed)} of {len(targets)} targets reached", *missed, sep="; MISSED: ")
    if options.json:
        options.json.write_text(json.dumps(report.record(results), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
