"""What a real daemon tells a Prometheus server: the right numbers, as documented, and the same on both ways."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

import simpler
from simplerctl.client import AdminClient
from simplerd.foreground import ForegroundDaemon
from tls_site import free_port

PAGE = Path(__file__).parents[2] / "docs/metrics.md"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (?:`(\w+)` )?\| (.*) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[ForegroundDaemon]:
    config = tmp_path_factory.mktemp("metrics") / "simplerd.toml"
    config.write_text(f'[metrics]\nlisten = "127.0.0.1:{port}"\n')
    with ForegroundDaemon("--config", str(config)) as running:
        yield running


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def values(text: str) -> dict[tuple[str, ...], float]:
    """By name and the values of its labels."""
    families: list[Metric] = list(text_string_to_metric_families(text))
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def parent_of(daemon: ForegroundDaemon) -> simpler.Worker:
    """A program with one session that wants device 0."""
    worker = simpler.Worker(level=4)
    worker.add_remote_worker(simpler.RemoteWorkerSpec(daemon.endpoint, device_ids=[0]))
    return worker


@pytest.mark.slow
def test_sessions_devices_refusals_and_calls_are_counted(daemon: ForegroundDaemon, port: int) -> None:
    with parent_of(daemon):
        during = values(scrape(port))
        with pytest.raises(simpler.DeviceBusy), parent_of(daemon):
            pass
    with AdminClient(daemon.admin_socket, 20) as admin:
        after = values(admin.call("metrics.get")["text"])
    assert (during["simplerd_sessions", "ready"], during["simplerd_devices", "leased"]) == (1, 1)
    assert (during["simplerd_sessions_opened_total",], during["simplerd_sessions_max",]) == (1, 256)
    assert (after["simplerd_sessions", "ready"], after["simplerd_devices", "leased"]) == (0, 0)
    assert after["simplerd_sessions_ended_total", "CLOSED"] == 1
    assert after["simplerd_sessions_ended_total", "DEVICE_IN_USE"] == 1
    assert after["simplerd_refusals_total", "DEVICE_IN_USE"] == 1
    assert after["simplerd_events_total", "session.opened"] == 2
    assert after["simplerd_admin_calls_total", "metrics.get"] == 1
    assert after["simplerd_loop_pass_seconds_count",] > during["simplerd_loop_pass_seconds_count",] > 0
    assert after["process_resident_memory_bytes",] > 1 << 20


@pytest.mark.slow
def test_the_page_lists_what_is_told(daemon: ForegroundDaemon, port: int) -> None:
    text = scrape(port)
    told = dict(re.findall(r"^# HELP (\w+) (.*)$", text, re.MULTILINE))
    kinds = dict(re.findall(r"^# TYPE (\w+) (.*)$", text, re.MULTILINE))
    labels = {name: label for name, label in re.findall(r"^(\w+)\{(\w+)=", text, re.MULTILINE) if label != "le"}
    page = {name: (kind, label, what) for name, kind, label, what in ROW.findall(PAGE.read_text())}
    assert {name: (kind, what) for name, (kind, _, what) in page.items()} == {
        name: (kinds[name], what) for name, what in told.items()
    }
    assert {name: page[name][1] for name in labels} == labels
    assert not any(label in ("session", "client", "uid", "device") for _, label, _ in page.values())
