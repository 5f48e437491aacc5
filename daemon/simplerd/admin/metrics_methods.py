"""The methods that measure."""

from typing import Any

from msgspec import Struct

from simplerd.admin.method import Caller, Method, Nothing, Role
from simplerd.metrics import CONTENT_TYPE


class MetricsText(Struct, frozen=True):
    """All metrics, as a Prometheus server reads them."""

    content_type: str
    text: str


async def metrics_get(caller: Caller, params: Nothing) -> MetricsText:
    return MetricsText(CONTENT_TYPE, await caller.daemon.metrics.text())


METHODS: tuple[Method[Any], ...] = (
    Method("metrics.get", Role.READ, metrics_get, Nothing, MetricsText, "The daemon's metrics, in Prometheus' format."),
)
