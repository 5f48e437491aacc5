"""`simplerctl device`: look at devices, and take them out of use."""

from typing import Any

import click

from simpler.plain_text import escape
from simplerctl.completion import device_numbers
from simplerctl.output import ago, clock, example, prints, show_facts, show_table
from simplerctl.target import Target

_device_argument = click.argument("number", metavar="DEVICE", type=click.IntRange(min=0), shell_complete=device_numbers)


@click.group()
def device() -> None:
    """Look at devices, and take them out of use."""


def _show_devices(devices: list[dict[str, Any]]) -> None:
    rows = [
        [
            each["device"],
            each["platform"],
            each["state"],
            each["session"] or "-",
            ago(each["since"]) if each["since"] else "-",
            each["reason"] or "-",
        ]
        for each in devices
    ]
    columns = ["DEVICE", "PLATFORM", "STATE", "SESSION", "SINCE", "REASON"]
    show_table(columns, rows, empty="This host has no devices.")


def _show_device(one: dict[str, Any]) -> None:
    if one["problem"]:
        click.echo(f"Warning: {escape(one['problem'])}", err=True)
    notes = [f"{clock(each['time'])}  {each['what']} by {each['by']}: {each['reason']}" for each in one["history"]]
    facts = {
        "device": one["device"],
        "platform": one["platform"],
        "state": one["state"],
        "session": one["session"] or "-",
        "since": clock(one["since"]) if one["since"] else "-",
        "reason": f"{one['reason']} ({one['by']})" if one["reason"] else "-",
        "history": "\n".join(note.removesuffix(": ") for note in notes) or "-",
    }
    show_facts(facts)


@device.command("list", epilog=example("simplerctl device list"))
@prints("device.list", _show_devices)
@click.pass_obj
def device_list(target: Target) -> Any:
    """The host's devices and who leases them."""
    return target.call("device.list")


@device.command("show", epilog=example("simplerctl device show 0"))
@_device_argument
@prints("device.get", _show_device)
@click.pass_obj
def device_show(target: Target, number: int) -> Any:
    """One device, and what happened to it."""
    return target.call("device.get", {"device": number})


@device.command("drain", epilog=example('simplerctl device drain 0 --reason "loose cable"'))
@_device_argument
@click.option("--reason", default="maintenance", show_default=True, help="For those who are refused, and the log.")
@prints("device.drain", _show_device)
@click.pass_obj
def device_drain(target: Target, number: int, reason: str) -> Any:
    """Give a device to no further session; the one that has it keeps it until it ends. Stays so over restarts."""
    return target.call("device.drain", {"device": number, "reason": reason})


@device.command("undrain", epilog=example("simplerctl device undrain 0"))
@_device_argument
@prints("device.undrain", _show_device)
@click.pass_obj
def device_undrain(target: Target, number: int) -> Any:
    """Give a device that is drained or has failed to sessions again."""
    return target.call("device.undrain", {"device": number})
