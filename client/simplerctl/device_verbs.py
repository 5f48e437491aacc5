"""`simplerctl device`: look at devices."""

from typing import Any

import click

from simplerctl.output import ago, example, prints, show_table
from simplerctl.target import Target


@click.group()
def device() -> None:
    """Look at devices."""


def _show_devices(devices: list[dict[str, Any]]) -> None:
    rows = [
        [
            each["device"],
            each["platform"],
            each["state"],
            each["session"] or "-",
            ago(each["since"]) if each["since"] else "-",
        ]
        for each in devices
    ]
    show_table(["DEVICE", "PLATFORM", "STATE", "SESSION", "SINCE"], rows, empty="This host has no devices.")


@device.command("list", epilog=example("simplerctl device list"))
@prints("device.list", _show_devices)
@click.pass_obj
def device_list(target: Target) -> Any:
    """The host's devices and who leases them."""
    return target.call("device.list")
