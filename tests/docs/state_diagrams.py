"""Writes docs/states.md from the state tables in the code: ``python tests/docs/state_diagrams.py``."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/states.md"
LIVES = {
    "A Worker": "simpler.worker_life",
    "A pool of workers, in their spawner": "simpler.pool",
    "The backend of an executor": "simpler.executor.executor_life",
    "A callable, with one of its workers": "simpler.registration",
    "A remote session, in the program that opened it": "simpler.remote.session_life",
    "The daemon": "simplerd.daemon_life",
    "A device of a host": "simplerd.device_life",
    "A session, in simplerd": "simplerd.sessions",
    "A remote buffer, in the program that allocated it": "simpler.remote.buffers",
    "The decoder of a connection's frames": "simpler.wire.decoder",
}
"""What lives, and the module that owns its table TRANSITIONS."""

Edge = tuple[str, str, str]
"""From a state, by an event, to a state."""


def page() -> str:
    """The whole page."""
    parts = ["# Lives\n\nGenerated from the tables in the code by `tests/docs/state_diagrams.py`; a test compares.\n"]
    parts += [python_life(title, module) for title, module in LIVES.items()]
    parts.append(diagram("A task, in its slot", "`slri_transitions` in `native/graph.c`", c_table()))
    return "\n".join(parts)


def python_life(title: str, name: str) -> str:
    module = importlib.import_module(name)
    table: dict[tuple[Enum, Enum], Enum] = module.TRANSITIONS
    edges = [(before.name, event.name, after.name) for (before, event), after in table.items()]
    return diagram(title, f"`TRANSITIONS` in `{Path(str(module.__file__)).relative_to(ROOT)}`", edges)


def c_table() -> list[Edge]:
    source = (ROOT / "native/graph.c").read_text()
    rows = re.findall(r"\[SLR_TASK_(\w+)\] = \{(.*?)\},\n", source, re.DOTALL)
    return [(state, *edge) for state, row in rows for edge in re.findall(r"\[SLRI_(\w+)\] = TO\(SLR_TASK_(\w+)\)", row)]


def diagram(title: str, owner: str, edges: list[Edge]) -> str:
    return "\n".join([f"## {title}\n\n{owner}\n\n```mermaid", "stateDiagram-v2", *arrows(edges), "```\n"])


def arrows(edges: list[Edge]) -> Iterator[str]:
    """One arrow for each pair of states, named with all events that lead along it."""
    yield f"    [*] --> {edges[0][0]}"
    events: dict[tuple[str, str], list[str]] = {}
    for before, event, after in edges:
        events.setdefault((before, after), []).append(event)
    for (before, after), names in events.items():
        yield f"    {before} --> {after}: {', '.join(names)}"


if __name__ == "__main__":
    PAGE.write_text(page())
