"""The daemon that the command line means, as the verbs get it."""

from pathlib import Path
from typing import Any, NamedTuple

from simplerctl.client import AdminClient, find_socket
from simplerctl.links import SshLink


class Target(NamedTuple):
    """Where the daemon is, and how long to wait for each of its answers."""

    host: str | None
    """None: this one."""
    named_socket: Path | None
    """None: where one is when nobody says."""
    timeout_s: float

    @property
    def socket(self) -> Path:
        """The admin socket, on this host."""
        return self.named_socket or find_socket()

    def connect(self) -> AdminClient:
        """A connection. Raises AdminError."""
        if self.host is None:
            return AdminClient(self.socket, self.timeout_s)
        return AdminClient(SshLink(self.host, self.named_socket, self.timeout_s), self.timeout_s)

    def call(self, method: str, params: Any = None) -> Any:
        """One call on a connection of its own."""
        with self.connect() as client:
            return client.call(method, params)
