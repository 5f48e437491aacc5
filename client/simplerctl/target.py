"""The daemon that the command line means, as the verbs get it."""

from pathlib import Path
from typing import Any, NamedTuple

from simplerctl.client import AdminClient


class Target(NamedTuple):
    """Where the daemon is, and how long to wait for each of its answers."""

    socket: Path
    timeout_s: float

    def connect(self) -> AdminClient:
        return AdminClient(self.socket, self.timeout_s)

    def call(self, method: str, params: Any = None) -> Any:
        """One call on a connection of its own."""
        with self.connect() as client:
            return client.call(method, params)
