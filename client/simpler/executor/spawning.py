"""The spawner of an executor's workers: a fresh interpreter that is ready soon, with a clean environment.

Somebody waits for the first result, so it imports what every call needs, and leaves the rest (NumPy, cloudpickle) to
the calls that use it. The kernel gives it the environment that workers are to have, and none other: what is only taken
out of `os.environ` still stands in /proc/PID/environ, of the spawner and of all workers.
"""

from __future__ import annotations

from collections.abc import Mapping

from simpler.spawn import Spawner

_PRELOAD = ("simpler.pool", "simpler.sub_worker", "simpler.executor.call_runner")


def start_spawner(name: str, environment: Mapping[str, str]) -> Spawner:
    """Starts it, and returns at once; for a Worker's ``spawner``. Raises StartupError where that is not possible."""
    return Spawner.exec(preload=_PRELOAD, name=f"{name}-spawn", env=environment)
