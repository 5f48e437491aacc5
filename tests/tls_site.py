"""A site with TLS for tests: an authority as `simplerctl tls` makes it, its certificates, daemons that use them."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from simpler import TlsConfig
from simplerctl.authority import Authority
from simplerd.foreground import ForegroundDaemon

HOST = "127.0.0.1"


class TlsSite:
    """One authority in ``folder``, a host that is reached at HOST and localhost, and the client alice."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.make(folder)
        self.host = self.authority.issue("host", "node1", [HOST, "localhost"], days=1)
        self.client = TlsConfig.from_folder(self.authority.issue("client", "alice", days=1))

    def issued(self, kind: str, name: str, *addresses: str, days: int = 1) -> Path:
        """Another certificate; with 0 days one that has expired."""
        return self.authority.issue(kind, name, addresses, days=days)

    def config(self, folder: Path, *, clients: tuple[str, ...] = (), host: Path | None = None) -> Path:
        """A daemon's configuration in ``folder``, with copies of the host's files beside it."""
        files = folder / "tls"
        shutil.copytree(host or self.host, files)
        path = folder / "simplerd.toml"
        path.write_text(
            f'[tls]\ncertificate = "{files}/certificate.pem"\nkey = "{files}/key.pem"\nca = "{files}/ca.pem"\n'
            f"clients = {list(clients)}\n"
        )
        return path


def free_port() -> int:
    """A TCP port of HOST that nobody listens at."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        port: int = one.getsockname()[1]
        return port


class TcpDaemon(ForegroundDaemon):
    """One that serves sessions at HOST, with the configuration ``path`` and further options."""

    def __init__(self, path: Path | None = None, *options: str) -> None:
        self.port = free_port()
        config = ["--config", str(path)] if path else []
        super().__init__("--listen", self.tcp, *config, *options, env={"PYTHONPATH": str(Path(__file__).parent)})

    @property
    def tcp(self) -> str:
        """Where it serves TCP clients."""
        return f"{HOST}:{self.port}"
