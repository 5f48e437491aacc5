"""What one call's options ask for: folder, environment, module path, limit of memory, and where its output goes.

They end with ``finish``, before the outcome is written, since what was printed goes along with it; with the context at
the latest, for a call that a signal has taken away from there.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

from simpler.executor.calls.captured_output import Capture, CapturedOutput, discarded
from simpler.executor.calls.options import CallOptions
from simpler.executor.in_worker.keeper import limit_memory, unlimit_memory


class Surroundings:
    """Those of one call. ``folder``: where captured output goes."""

    def __init__(self, options: CallOptions, folder: str | None) -> None:
        self._options, self._folder = options, folder
        self._capture: Capture | None = None
        self._over = contextlib.ExitStack()

    def __enter__(self) -> Surroundings:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def begin(self) -> None:
        """Before the call is loaded. Raises OSError for a folder that is not there."""
        if self._options.output == "capture":
            self._capture = self._over.enter_context(Capture(self._folder))
        elif self._options.output == "discard":
            self._over.enter_context(discarded())
        self.apply()

    def apply(self) -> None:
        """What the Keeper takes away after a call, and the next item of a chunk needs again."""
        options = self._options
        sys.path[:0] = map(str, options.python_path)
        for name, value in options.env_updates.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if "TZ" in options.env_updates:
            time.tzset()
        if options.cwd is not None:
            try:
                os.chdir(options.cwd)
            except OSError as error:
                error.add_note("it is the call's option cwd, in the worker process")
                raise

    def limit_memory(self) -> None:
        """Once the call is loaded: its arguments do not count."""
        if self._options.memory_bytes is not None:
            limit_memory(self._options.memory_bytes)

    def finish(self) -> CapturedOutput | None:
        """After the call; what it printed, if that is wanted."""
        unlimit_memory()
        self._over.close()
        return None if self._capture is None else self._capture.output
