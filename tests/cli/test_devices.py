"""Devices out of use: drained by an operator, or failed for real and found to work again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest

from daemon.conftest import client_of, event
from simpler import ChipCallable, Orchestrator, RemoteWorkerSpec, TaskArgs, Worker
from simpler.errors import DeviceError, SimplerError, WorkerDied
from simplerctl.__main__ import cli
from simplerctl.client import AdminClient
from simplerd.foreground import ForegroundDaemon

TIMEOUT_S = 30.0
ABORT = ChipCallable.from_c_source(
    """
    #include "simpler_kernel.h"
    #include <stdlib.h>
    int crash(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
    {
        (void)t, (void)n_tensors, (void)s, (void)n_scalars;
        abort();
    }
    """,
    "crash",
    [],
)
CRASH = ChipCallable.from_elf(ABORT.elf, ABORT.symbol, ABORT.signature, platform="lossy")


@pytest.fixture
def gone(tmp_path: Path) -> Path:
    """While this file is there, the devices of the driver "lossy" are gone."""
    return tmp_path / "gone"


@pytest.fixture
def start(lossy_driver: Path, gone: Path, tmp_path: Path) -> Callable[..., ForegroundDaemon]:
    """A daemon with two devices of that driver; it is told what else [devices] says."""

    def start(devices: str = "probe_interval_s = 0") -> ForegroundDaemon:
        config = tmp_path / "simplerd.toml"
        config.write_text(f'[devices]\nplatform = "lossy"\n{devices}\n')
        env = {"LD_LIBRARY_PATH": str(lossy_driver), "SLR_TEST_DEVICE_GONE": str(gone)}
        return ForegroundDaemon("--config", str(config), "--state-dir", str(tmp_path / "state"), env=env)

    return start


@pytest.fixture
def lossy(start: Callable[..., ForegroundDaemon]) -> Iterator[ForegroundDaemon]:
    with start() as running:
        yield running


def ctl(daemon: ForegroundDaemon, *words: str) -> str:
    done = click.testing.CliRunner().invoke(cli, ["--socket", str(daemon.admin_socket), *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def device(daemon: ForegroundDaemon, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ctl(daemon, "device", "show", str(number), "--format", "json"))
    return found


def lose(gone: Path) -> None:
    gone.touch()


def find_again(gone: Path) -> None:
    gone.unlink()


def session(daemon: ForegroundDaemon, gone: Path, *devices: int) -> Worker:
    """A Worker with one session there, once it is entered."""
    top = Worker(level=4)
    env = {"SLR_TEST_DEVICE_GONE": str(gone)}
    top.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, device_ids=devices, platform="lossy", env=env))
    return top


@pytest.mark.slow
async def test_a_leased_device_that_is_drained_is_given_to_nobody_else(lossy: ForegroundDaemon) -> None:  # D4
    async with client_of(lossy.endpoint) as client:
        first = await client.open(platform="lossy", device_ids=[0])
        with AdminClient(lossy.admin_socket, TIMEOUT_S) as admin:
            assert admin.call("device.drain", {"device": 0, "reason": "loose cable"})["state"] == "draining"
            await client.close(first)
            assert admin.call("device.get", {"device": 0})["state"] == "drained"
            with pytest.raises(SimplerError, match=rf"drained by uid {os.getuid()} since .*: loose cable") as caught:
                await client.open(platform="lossy", device_ids=[0])
            assert caught.value.code == "DEVICE_DRAINED"
            assert admin.call("device.undrain", {"device": 0})["state"] == "free"
        await client.close(await client.open(platform="lossy", device_ids=[0]))


@pytest.mark.slow
def test_a_device_that_cannot_be_opened_has_failed_over_restarts(
    start: Callable[..., ForegroundDaemon], gone: Path
) -> None:  # D4
    gone.touch()
    with start() as daemon:
        with pytest.raises(DeviceError, match="fallen off the bus"), session(daemon, gone, 0):
            pass
        assert device(daemon, 1)["state"] == "free"
    with start() as daemon:
        one = device(daemon)
        assert (one["state"], [each["what"] for each in one["history"]]) == ("failed", ["failed"])
        assert "fallen off the bus" in one["reason"]
        with pytest.raises(DeviceError, match=r"device 0 has failed in session s-.* since"), session(daemon, gone, 0):
            pass
        assert "fallen off the bus" in ctl(daemon, "device", "list")
        gone.unlink()
        ctl(daemon, "device", "undrain", "0")
        with session(daemon, gone, 0):
            pass


@pytest.mark.slow
def test_a_device_has_failed_whose_chip_worker_was_given_up(lossy: ForegroundDaemon, gone: Path) -> None:  # D4
    with session(lossy, gone, 0) as top:

        def on_chip(orch: Orchestrator, args: Any, config: object) -> None:
            orch.submit_next_level(args.scalar(0), worker=0)

        crash, task = top.register(CRASH), top.register(on_chip)

        def crashes(orch: Orchestrator, args: object, config: object) -> None:
            orch.submit_next_level(task, TaskArgs().add_scalar(crash.hashid), worker=0)

        lose(gone)
        with pytest.raises(WorkerDied, match="SIGABRT"):
            top.run(crashes)
        with pytest.raises(WorkerDied, match="given up"):  # no replacement could open it
            top.run(crashes)
        [id] = [each["session"] for each in json.loads(ctl(lossy, "device", "list", "--format", "json"))[:1]]
    one = device(lossy)
    assert (one["state"], one["by"]) == ("failed", id)
    assert re.fullmatch(
        rf"its chip worker died \d+ times and was given up; simplerctl session logs {id}", one["reason"]
    )


@pytest.mark.slow
async def test_a_failed_device_is_tried_until_it_works(start: Callable[..., ForegroundDaemon], gone: Path) -> None:
    lose(gone)  # D4
    with start("probe_interval_s = 0.05") as daemon:
        async with client_of(daemon.endpoint) as client:
            with pytest.raises(SimplerError, match="fallen off the bus"):
                await client.open(platform="lossy", device_ids=[0], env={"SLR_TEST_DEVICE_GONE": str(gone)})
            told = await event(daemon.admin_socket, "device.probe_failed")
            assert "fallen off the bus" in told["fields"]["reason"]
            find_again(gone)
            await event(daemon.admin_socket, "device.recovered")
            await client.close(await client.open(platform="lossy", device_ids=[0]))
        assert [each["what"] for each in device(daemon)["history"]][-1] == "recovered"
