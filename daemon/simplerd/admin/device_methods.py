"""The methods about devices."""

from typing import Any

from simplerd.admin.method import Caller, Method, Nothing, Role
from simplerd.devices import DeviceInfo


async def device_list(caller: Caller, params: Nothing) -> list[DeviceInfo]:
    return caller.daemon.devices.list()


METHODS: tuple[Method[Any], ...] = (
    Method("device.list", Role.READ, device_list, Nothing, list[DeviceInfo], "The host's devices and who leases them."),
)
