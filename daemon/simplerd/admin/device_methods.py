"""The methods about devices."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from simplerd.admin.method import Caller, Method, Nothing, Role, Text
from simplerd.devices import DeviceInfo, DeviceReport


class DeviceName(Struct, frozen=True, forbid_unknown_fields=True):
    """One device."""

    device: Annotated[int, Meta(ge=0, description="its number, from device.list")]


class DeviceDrain(Struct, frozen=True, forbid_unknown_fields=True):
    """One device, and why no session is to get it."""

    device: Annotated[int, Meta(ge=0, description="its number, from device.list")]
    reason: Annotated[Text, Meta(description="for those who are refused, and the log")] = "maintenance"


async def device_list(caller: Caller, params: Nothing) -> list[DeviceInfo]:
    return caller.daemon.devices.list()


async def device_get(caller: Caller, params: DeviceName) -> DeviceReport:
    return caller.daemon.devices.get(params.device)


async def device_drain(caller: Caller, params: DeviceDrain) -> DeviceReport:
    daemon, by = caller.daemon, f"uid {caller.peer.uid}"
    report = daemon.devices.drain(params.device, params.reason, by)
    daemon.events.publish(f"device.{report.state}", device=params.device, reason=params.reason, by=by)
    return report


async def device_undrain(caller: Caller, params: DeviceName) -> DeviceReport:
    daemon, by = caller.daemon, f"uid {caller.peer.uid}"
    report = daemon.devices.undrain(params.device, by)
    daemon.events.publish("device.undrained", device=params.device, by=by)
    return report


METHODS: tuple[Method[Any], ...] = (
    Method("device.list", Role.READ, device_list, Nothing, list[DeviceInfo], "The host's devices and who leases them."),
    Method("device.get", Role.READ, device_get, DeviceName, DeviceReport, "One device, and what happened to it."),
    Method(
        "device.drain",
        Role.OPERATE,
        device_drain,
        DeviceDrain,
        DeviceReport,
        "Give a device to no further session; kept over restarts.",
    ),
    Method(
        "device.undrain",
        Role.OPERATE,
        device_undrain,
        DeviceName,
        DeviceReport,
        "Give a device that is drained or has failed to sessions again.",
    ),
)
