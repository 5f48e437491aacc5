"""How far a ``map`` is, on standard error: a bar on a terminal, lines elsewhere.

Rules
  1. Nothing is drawn by a thread of its own: whoever has news shows them, and not too often.
  2. What was shown last stays there whole, whatever ends the map.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Protocol

from simpler import limits


class _Shown(Protocol):
    def show(self, n_done: int, n_failed: int, *, is_last: bool) -> None: ...


class Progress:
    """``name``: of what is mapped. Any thread may call these."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()
        self._n_done = self._n_failed = 0
        self._shown: _Shown | None = None

    def begin(self, total: int | None) -> None:
        """``total``: None when it is not known."""
        if sys.stderr is not None:  # as it is in a program without a terminal that has closed it
            self._shown = _Bar(self._name, total) if sys.stderr.isatty() else _Lines(self._name, total)

    def advance(self, n_done: int, n_failed: int) -> None:
        """So many more are over."""
        with self._lock:
            self._n_done += n_done
            self._n_failed += n_failed
            self._show(is_last=False)

    def end(self) -> None:
        """Shows the last news. May be called again."""
        with self._lock:
            self._show(is_last=True)
            self._shown = None

    def _show(self, *, is_last: bool) -> None:
        if self._shown is not None:
            try:
                self._shown.show(self._n_done, self._n_failed, is_last=is_last)
            except (OSError, ValueError):  # nobody reads it any more, or it was closed; the map is not the worse for it
                self._shown = None


class _Bar:
    def __init__(self, name: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}", style="red"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        # What the program prints on the same terminal goes above the bar; what goes elsewhere is left alone.
        above = sys.stdout.isatty()
        self._bar = Bar(*columns, console=Console(stderr=True), auto_refresh=False, redirect_stdout=above)
        self._task = self._bar.add_task(name, total=total, failed="")
        self._next_at = 0.0
        self._bar.start()

    def show(self, n_done: int, n_failed: int, *, is_last: bool) -> None:
        now = time.monotonic()
        if is_last or now >= self._next_at:
            self._next_at = now + limits.PROGRESS_REFRESH_S
            failed = f"{n_failed} failed" if n_failed else ""
            self._bar.update(self._task, completed=n_done + n_failed, failed=failed, refresh=True)
        if is_last:
            self._bar.stop()


class _Lines:
    def __init__(self, name: str, total: int | None) -> None:
        self._name, self._total = name, total
        self._begun = time.monotonic()
        self._next_at = self._begun + limits.PROGRESS_LINE_S

    def show(self, n_done: int, n_failed: int, *, is_last: bool) -> None:
        now = time.monotonic()
        if not is_last and now < self._next_at:
            return
        self._next_at = now + limits.PROGRESS_LINE_S
        of_total = "" if self._total is None else f" of {self._total}"
        failed = f", {n_failed} failed" if n_failed else ""
        print(f"{self._name}: {n_done + n_failed}{of_total}{failed}, {now - self._begun:.1f} s", file=sys.stderr)
