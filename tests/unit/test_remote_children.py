"""The remote children of a Worker below another: described to the process that makes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from simpler import TlsConfig
from simpler.remote.spec import RemoteWorkerSpec
from simpler.remote_children import RemoteChildren
from simpler.wire.control_messages import SessionLimits
from tls_site import TlsSite


def _sent(described: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(described), type=dict[int, dict[str, Any]])


def test_a_spec_is_in_another_process_what_it_was(tmp_path: Path) -> None:  # L2 D5
    tls = TlsSite(tmp_path).client
    everything = RemoteWorkerSpec(
        "10.0.0.2:7390",
        device_ids=[1, 2],
        num_sub_workers=3,
        tls=tls,
        env={"A": None, "B": "b"},
        import_paths=["/opt/jobs"],
        heap_bytes=1 << 20,
        output=False,
        health_timeout_s=3.5,
        limits=SessionLimits(memory_bytes=1 << 30, processes=50, cpu_weight=10, time_s=60.5),
    )
    here, there = RemoteChildren(), RemoteChildren()
    here.add(4, everything)
    here.add(5, RemoteWorkerSpec("10.0.0.2:7390", tls="insecure"))
    here.add(6, RemoteWorkerSpec("unix:/run/simplerd/session.sock"))
    for worker, described in _sent(here.described()).items():
        there.add_described(worker, described)
    paths = TlsConfig(str(tls.ca), str(tls.certificate), str(tls.key))
    assert there.specs == here.specs | {4: replace(everything, tls=paths)}
