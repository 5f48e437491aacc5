"""What a program asks of a daemon: where it is, and what the session there is made of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from simpler import limits
from simpler.errors import ArgumentError, SimplerError
from simpler.remote.tls_config import TlsConfig
from simpler.wire.control_messages import Manifest, SessionLimits
from simpler.wire.endpoint import Endpoint, parse_endpoint

MIN_HEALTH_TIMEOUT_S, MAX_HEALTH_TIMEOUT_S = 0.1, 86400


@dataclass(frozen=True)
class RemoteWorkerSpec:
    """A Worker of level 3 on another host, or in another process of this one.

    ``endpoint``: "host:port" (IPv4, IPv6 in brackets, or a name) or "unix:/path". ``device_ids``: the devices to lease.
    ``env``: laid over the session's environment; None as a value unsets; not shown, since it may hold secrets.
    ``import_paths``: absolute folders on that host with the modules of RemoteCallable targets.
    ``heap_bytes``: of the session's shared heap; virtual until used.
    ``output``: whether what its processes print comes to this program's stderr.
    ``health_timeout_s``: how long nothing may be heard of that host before the session is lost; a long task is no
    silence.
    ``limits``: what the session may use at most, where that is less than the host allows.
    ``tls``: the certificates to use over TCP. Another host needs it, from here or from the folder that SIMPLER_TLS
    names; ``"insecure"`` goes without: then whoever is between may run code in this program and in the session.

    Raises ArgumentError for what cannot be right, SimplerError with code UNSUPPORTED for what this version cannot do.
    """

    endpoint: str
    device_ids: Sequence[int] = field(default=(), kw_only=True)
    num_sub_workers: int = field(default=0, kw_only=True)
    platform: str = field(default="sim", kw_only=True)
    runtime: str = field(default="graph", kw_only=True)
    transport: str = field(default="tcp", kw_only=True)
    tls: TlsConfig | Literal["insecure"] | None = field(default=None, kw_only=True, repr=False)
    env: Mapping[str, str | None] | None = field(default=None, kw_only=True, repr=False)
    import_paths: Sequence[str] = field(default=(), kw_only=True)
    heap_bytes: int = field(default=limits.HEAP_BYTES, kw_only=True)
    output: bool = field(default=True, kw_only=True)
    health_timeout_s: float = field(default=limits.HEALTH_TIMEOUT_S, kw_only=True)
    limits: SessionLimits = field(default=SessionLimits(), kw_only=True)

    def __post_init__(self) -> None:
        if self.transport != "tcp":
            raise SimplerError(
                f"transport {self.transport!r} is not supported; this version speaks 'tcp', which also serves 'unix:' "
                "endpoints",
                code="UNSUPPORTED",
            )
        self._freeze_tls()
        self._freeze_devices()
        self._freeze_paths()
        self._check_kinds()
        self._check_sizes()
        self._check_limits()

    @property
    def tls_config(self) -> TlsConfig | None:
        """The certificates to use; None for a connection in clear."""
        return self.tls if isinstance(self.tls, TlsConfig) else None

    @property
    def address(self) -> Endpoint:
        """``endpoint``, parsed."""
        return parse_endpoint(self.endpoint)

    def manifest(self, *, name: str, startup_timeout_s: float, imports: Sequence[str]) -> Manifest:
        """What the daemon is sent. ``imports``: RemoteCallable targets to be checked before the session is READY."""
        return Manifest(
            platform=self.platform,
            runtime=self.runtime,
            device_ids=list(self.device_ids),
            num_sub_workers=self.num_sub_workers,
            heap_bytes=self.heap_bytes,
            startup_timeout_s=startup_timeout_s,
            env=dict(self.env or {}),
            import_paths=list(self.import_paths),
            imports=list(imports),
            name=name,
            output=self.output,
            limits=self.limits,
        )

    def _freeze_tls(self) -> None:
        endpoint = self.address
        if not (self.tls is None or self.tls == "insecure" or isinstance(self.tls, TlsConfig)):
            raise ArgumentError(f"tls {self.tls!r} is not a TlsConfig, nor 'insecure'")
        if endpoint.is_unix and self.tls is not None:
            raise ArgumentError(f"tls is for TCP; the kernel tells who is at the other end of {endpoint}")
        if self.tls is not None or endpoint.is_local:
            return
        if not (folder := os.environ.get("SIMPLER_TLS")):
            raise ArgumentError(
                f"{endpoint} is another host: give tls=TlsConfig.from_folder(...), or name that folder in SIMPLER_TLS "
                "(simplerctl tls issue client makes one); tls='insecure' goes without"
            )
        object.__setattr__(self, "tls", TlsConfig.from_folder(folder))

    def _check_kinds(self) -> None:
        for name in ("platform", "runtime"):
            if not isinstance(getattr(self, name), str):
                raise ArgumentError(f"{name} {getattr(self, name)!r} is not a text")
        if not isinstance(self.output, bool):
            raise ArgumentError(f"output {self.output!r} is neither True nor False")
        if not isinstance(self.env, Mapping | None):
            raise ArgumentError(f"env is a mapping of names to texts or None, not a {type(self.env).__name__}")
        for name, value in (self.env or {}).items():
            if not isinstance(name, str) or not name or "=" in name or not isinstance(value, str | None):
                raise ArgumentError(f"env: {name!r}: {value!r} is not a variable's name with a text or None")

    def _check_sizes(self) -> None:
        if not _is_count(self.num_sub_workers) or self.num_sub_workers > limits.SUB_WORKERS_PER_SESSION:
            raise ArgumentError(
                f"num_sub_workers {self.num_sub_workers!r} is not a number from 0 to {limits.SUB_WORKERS_PER_SESSION}"
            )
        least, largest = limits.SMALLEST_HEAP_BYTES, limits.SESSION_HEAP_BYTES
        if not _is_count(self.heap_bytes) or not least <= self.heap_bytes <= largest:
            raise ArgumentError(f"heap_bytes {self.heap_bytes!r} is not from {least} to {largest}")
        silence_s = self.health_timeout_s
        is_number = isinstance(silence_s, int | float) and not isinstance(silence_s, bool)
        if not is_number or not MIN_HEALTH_TIMEOUT_S <= silence_s <= MAX_HEALTH_TIMEOUT_S:
            raise ArgumentError(
                f"health_timeout_s {silence_s!r} is not from {MIN_HEALTH_TIMEOUT_S} to {MAX_HEALTH_TIMEOUT_S} seconds"
            )

    def _check_limits(self) -> None:
        if not isinstance(self.limits, SessionLimits):
            raise ArgumentError(f"limits {self.limits!r} are no SessionLimits")
        try:
            msgspec.convert(msgspec.structs.asdict(self.limits), SessionLimits)
        except msgspec.ValidationError as error:
            raise ArgumentError(f"{self.limits!r}: {error}") from None

    def _freeze_devices(self) -> None:
        if not isinstance(self.device_ids, Iterable):
            raise ArgumentError(f"device_ids is a list of device ids; write [{self.device_ids!r}]")
        devices = tuple(self.device_ids)
        if not all(_is_count(device) for device in devices):
            raise ArgumentError(f"device_ids {devices!r}: a device id is a whole number, 0 or more")
        if len(set(devices)) != len(devices):
            raise ArgumentError(f"device_ids {devices!r} names a device twice")
        object.__setattr__(self, "device_ids", devices)

    def _freeze_paths(self) -> None:
        if isinstance(self.import_paths, str) or not isinstance(self.import_paths, Iterable):
            raise ArgumentError(f"import_paths is a list of folders; write [{self.import_paths!r}]")
        paths = tuple(str(path) for path in self.import_paths)
        for path in paths:
            if not PurePosixPath(path).is_absolute():
                raise ArgumentError(f"import path {path!r} is not absolute; it names a folder on the daemon's host")
        object.__setattr__(self, "import_paths", paths)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
