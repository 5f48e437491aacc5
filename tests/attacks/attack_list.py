"""Writes the list of attacks into docs/security.md, from the table: ``python tests/attacks/attack_list.py``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from attacks.table import TABLE

PAGE = Path(__file__).parents[2] / "docs/security.md"
CHAPTER = "## What was tried\n"
INTRODUCTION = f"""{CHAPTER}
Each line is a test against a real daemon, in `tests/attacks`, from which this list is generated. It is checked that

* it is refused with a reason, or hung up on;
* the daemon's log says so, in fewer than 100 lines;
* the daemon takes at most 32 MiB more memory for it, and a runner, the attacker's own too, four times the largest
  frame;
* the session of an honest client goes on;
* an operator who asks `daemon.status` meanwhile, each time on a new connection, has the answer within 100 ms, not
  counting time in which the machine let neither the daemon nor him run.
"""


def page() -> str:
    """The whole page, with the list as it is now."""
    before = PAGE.read_text().partition(CHAPTER)[0]
    modules = {row.attempt.__module__: importlib.import_module(row.attempt.__module__) for row in TABLE}
    parts = [before, INTRODUCTION]
    for name, module in sorted(modules.items()):
        title = (module.__doc__ or "").split("\n")[0].rstrip(".")
        parts.append(f"\n### {title}\n\n")
        parts += [f"* {row.what}\n" for row in TABLE if row.attempt.__module__ == name]
    return "".join(parts)


if __name__ == "__main__":
    import attacks.test_attacks  # noqa: F401  # fills the table

    PAGE.write_text(page())
