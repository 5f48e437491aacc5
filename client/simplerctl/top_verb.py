"""`simplerctl top`: what the daemon's sessions do, again and again.

On a terminal it has the alternate screen, which is given back however it ends. Elsewhere each frame is printed behind
the one before, and nothing is cut.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from simpler import limits
from simplerctl.moments import Seconds
from simplerctl.output import example, prints_each
from simplerctl.target import Target
from simplerctl.top_frame import Meter, TopFrame
from simplerctl.top_view import drawn

if TYPE_CHECKING:
    from rich.live import Live

LINES_AROUND = 6
"""The heading of a frame and of its table, and the line that says what is left out."""
UNLIMITED_COLUMNS = 10_000


def _show(frame: TopFrame) -> None:
    context = click.get_current_context()
    if context.params["once"] or not _has_screen():
        return _print(frame)
    live: Live | None = context.meta.get(__name__)
    if live is None:
        live = context.meta[__name__] = _screen(context)
    return live.update(drawn(frame, rows=max(1, live.console.height - LINES_AROUND)), refresh=True)


def _has_screen() -> bool:
    """Whether output goes to a terminal on which can be drawn; TERM says what it is, term(7)."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def _screen(context: click.Context) -> Live:
    """The alternate screen; given back when the verb ends, be it by Ctrl-C, SIGTERM or an error."""
    from rich.live import Live

    live = Live(screen=True, auto_refresh=False)
    context.call_on_close(live.stop)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    live.start()
    return live


def _print(frame: TopFrame) -> None:
    from rich.console import Console

    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED_COLUMNS
    console = Console(width=columns)
    with console.capture() as captured:
        console.print(drawn(frame, rows=len(frame.sessions)))
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


@click.command(epilog=example("simplerctl top", "simplerctl top --once --format json"))
@click.option("--once", is_flag=True, help="Measure for one interval, print that, and end.")
@click.option(
    "--interval",
    "interval_s",
    type=Seconds(min=limits.LOOK_INTERVAL_S, max=3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How long from one frame to the next.",
)
@prints_each(TopFrame, _show)
@click.pass_obj
def top(target: Target, once: bool, interval_s: float) -> Iterator[TopFrame]:
    """Show what the sessions do, until interrupted."""
    with target.connect() as client:
        meter = Meter(client)
        first = meter.frame()
        if not once:
            yield first
        while True:
            time.sleep(interval_s)
            yield meter.frame()
            if once:
                return
