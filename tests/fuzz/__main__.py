"""Fuzzes by hand: ``python -m tests.fuzz --inputs 10_000_000 [--seed S] [--target NAME]``.

Ends with the first input that a target does not take as it should, printed so that it can be run again.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

from .campaign import Finding, fuzz, shares
from .targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="how many in all (default: %(default)s)")
    parser.add_argument("--seed", default="1", help="another one gives other inputs (default: %(default)s)")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    options = parser.parse_args()
    for name, count in shares(options.inputs, [options.target] if options.target else list(TARGETS)).items():
        began = time.monotonic()
        try:
            fuzz(name, options.seed, count)
        except Finding as finding:
            print(finding, file=sys.stderr)
            return 1
        took_s = time.monotonic() - began
        print(f"{name:14} {count:>11,} inputs  {count / took_s:>9,.0f}/s", flush=True)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"no finding; this process had at most {largest / 1024:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
