"""Times on the command line: spans, such as 90s, 10m, 2h and 1d, and moments, which are as long ago or have a date."""

import math
import re
import time
from datetime import datetime
from typing import Any

import click

LONGEST_S = 31_536_000.0
"""A year: clocks of the system do not take any number."""
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Seconds(click.FloatRange):
    """A number of seconds up to a year; `nan`, which is neither above nor below any bound, is none."""

    def __init__(self, *, min: float = 0, min_open: bool = False, max: float = LONGEST_S) -> None:
        super().__init__(min=min, min_open=min_open, max=max)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails for what is none."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


def span_s(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """A span in seconds, for an option's callback. Raises BadParameter."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", value)
    if not found:
        raise click.BadParameter(f"{value!r} is no time; expected one such as 90s, 10m, 2h or 1d")
    seconds = float(found[1]) * _UNITS_S[found[2]]
    if seconds > LONGEST_S:
        raise click.BadParameter(f"{value[:20]!r} is too long; a year is the most")
    return seconds


def moment(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """The Unix time that long ago, or at that local date and time (ISO 8601). Raises BadParameter."""
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError:
        pass
    try:
        return time.time() - (span_s(context, option, value) or 0)
    except click.BadParameter:
        raise click.BadParameter(
            f"{value!r} is no time; expected how long ago, such as 10m, or when, such as '2026-01-31 12:00'"
        ) from None
