"""The daemons that are attacked, which must outlast it: one whose TCP port is in clear, so that everybody gets at what
lies behind it, and one whose port speaks TLS. Each has an honest client with a session, and an operator who watches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attacks.scene import Fortress
from simplerd.foreground import ForegroundDaemon
from tls_site import TlsSite, free_port

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


@pytest.fixture(scope="module")
def fortress() -> Iterator[Fortress]:
    with attacked(tls=False) as one:
        yield one


@pytest.fixture(scope="module")
def tls_fortress() -> Iterator[Fortress]:
    with attacked(tls=True) as one:
        yield one


@contextmanager
def attacked(*, tls: bool) -> Iterator[Fortress]:
    with tempfile.TemporaryDirectory(prefix="simplerd-") as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o711)  # attackers are other users
        (folder / "allowed").mkdir()
        site = TlsSite(folder / "authority")
        config = site.config(folder)
        config.write_text(CONFIG.format(folder=folder, port=port) + (config.read_text() if tls else ""))
        with ForegroundDaemon("--config", str(config)) as daemon:
            (folder / "session.sock").chmod(0o666)
            daemon.admin_socket.chmod(0o666)
            for above in (daemon.runtime_dir, daemon.folder):
                above.chmod(0o711)
            one = Fortress(daemon, folder, port, site)
            yield one
            one.close()
            assert len(list(Path(f"/proc/{daemon.pid}/task").iterdir())) == 1, "the daemon has started a thread"
            assert daemon.stop() == 0
