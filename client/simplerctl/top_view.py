"""How a frame of `simplerctl top` looks: two lines about the daemon, and as many sessions as there is room for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from simpler.plain_text import escape
from simplerctl.output import duration
from simplerctl.top_frame import TopFrame, TopSession

if TYPE_CHECKING:
    from rich.console import Group

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_COLUMNS = ("SESSION", "STATE", "TASKS/S", "LIVE", "QUEUED", "FAILED", "HEAP", "DEVICES", "NAME")
_TEXTS = ("SESSION", "STATE", "DEVICES", "NAME")
_SHRINK = ("DEVICES", "NAME")
"""These give room to the others, which are never cut on a terminal of 80 columns."""


def drawn(frame: TopFrame, rows: int) -> Group:
    """The frame, with the first `rows` sessions."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for heading in _COLUMNS:
        justify: Literal["left", "right"] = "left" if heading in _TEXTS else "right"
        table.add_column(heading, no_wrap=heading not in _SHRINK, overflow="ellipsis", justify=justify)
    for session in frame.sessions[:rows]:
        style = "" if session.answered or session.state != "ready" else "red"
        table.add_row(*(Text(escape(cell), style=style, no_wrap=True, overflow="ellipsis") for cell in _cells(session)))
    parts = [Text(escape(line), no_wrap=True, overflow="ellipsis") for line in _heading(frame)]
    left_out = len(frame.sessions) - rows
    more = [Text(f"… and {left_out} more")] if left_out > 0 else []
    return Group(*parts, Text(), *([table] if frame.sessions else [Text("No sessions.")]), *more)


def _heading(frame: TopFrame) -> list[str]:
    devices = ", ".join(f"{count} {state}" for state, count in frame.devices.items()) or "none"
    at = time.strftime("%H:%M:%S", time.localtime(frame.time))
    return [
        f"{at}  simplerd {frame.version} on {frame.host}, {frame.state} for {duration(frame.uptime_s)}",
        f"sessions {len(frame.sessions)} of {frame.max_sessions}   workers {frame.workers}   devices {devices}",
        f"tasks/s {_rate(frame.tasks_per_s)}   heap {_size(frame.heap_used)} of {_size(frame.heap_bytes)}",
    ]


def _cells(session: TopSession) -> list[str]:
    return [
        session.session,
        session.state if session.answered or session.state != "ready" else "silent",
        _rate(session.tasks_per_s),
        _known(session.live),
        _known(session.queued),
        _known(session.failures),
        "-" if session.heap_used is None else _size(session.heap_used),
        ",".join(map(str, session.devices)) or "-",
        session.name or "-",
    ]


def _known(count: int | None) -> str:
    return "-" if count is None else str(count)


def _rate(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.1f}"


def _size(bytes_: float) -> str:
    for unit in _UNITS:
        if bytes_ < 1024 or unit == _UNITS[-1]:
            break
        bytes_ /= 1024
    return f"{bytes_:.0f} {unit}" if bytes_ >= 10 or unit == "B" else f"{bytes_:.1f} {unit}"
