"""One daemon for all attacks, which must outlast them, with an honest client's session and an operator who watches."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks.scene import Fortress
from simplerd.foreground import ForegroundDaemon

CONFIG = """
[daemon]
import_paths = ["{folder}/allowed"]
[listen]
session = ["unix:{folder}/session.sock", "127.0.0.1:{port}"]
[limits]
connections_per_client = 16
sessions_per_client = 3
first_frame_timeout_s = 1.0
frame_timeout_s = 0.5
send_timeout_s = 0.5
"""


@pytest.fixture(scope="session")
def fortress() -> Iterator[Fortress]:
    with tempfile.TemporaryDirectory(prefix="simplerd-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # attackers are other users
        (folder / "allowed").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        config = folder / "simplerd.toml"
        config.write_text(CONFIG.format(folder=folder, port=port))
        with ForegroundDaemon("--config", str(config)) as daemon:
            (folder / "session.sock").chmod(0o666)
            daemon.admin_socket.chmod(0o666)
            for above in (daemon.runtime_dir, daemon.folder):
                above.chmod(0o711)
            attacked = Fortress(daemon, folder, port)
            yield attacked
            attacked.close()
            assert daemon.stop() == 0
