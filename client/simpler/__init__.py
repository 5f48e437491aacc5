"""Simpler: run task graphs on hosts full of accelerators.

Names are loaded on first use, so that the daemon, which must never load pickle or NumPy,
can import the wire format alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simpler.args import TaskArgs
    from simpler.call_config import CallConfig
    from simpler.callables import CallableHandle, ChipCallable, Direction, RemoteCallable
    from simpler.chrome_trace import Trace
    from simpler.device_buffers import DeviceBuffer, DeviceTensorRef
    from simpler.errors import (
        AccessDenied,
        ArgumentError,
        AuthError,
        CapacityError,
        ConnectError,
        DeviceBusy,
        DeviceError,
        LevelError,
        ProtocolError,
        RegistrationError,
        SessionLost,
        SimplerError,
        StaleHandle,
        StartupError,
        StateError,
        TaskError,
        TaskTimeout,
        UpstreamFailed,
        VersionMismatch,
        WorkerDied,
    )
    from simpler.executor import SimplerExecutor
    from simpler.orchestrator import Orchestrator
    from simpler.remote.buffers import RemoteBufferExport, RemoteBufferHandle, RemoteTensorRef
    from simpler.remote.spec import RemoteWorkerSpec
    from simpler.remote.tls_config import TlsConfig
    from simpler.run import RunHandle, TaskRef
    from simpler.tensor import DataType, Tensor, TensorArgType
    from simpler.wire.control_messages import SessionLimits
    from simpler.worker import Worker, WorkerType
    from simpler.worker_stats import WorkerStats

_HOMES = {
    "simpler.args": ("TaskArgs",),
    "simpler.call_config": ("CallConfig",),
    "simpler.callables": ("CallableHandle", "ChipCallable", "Direction", "RemoteCallable"),
    "simpler.errors": (
        "AccessDenied",
        "ArgumentError",
        "AuthError",
        "CapacityError",
        "ConnectError",
        "DeviceBusy",
        "DeviceError",
        "LevelError",
        "ProtocolError",
        "RegistrationError",
        "SessionLost",
        "SimplerError",
        "StaleHandle",
        "StartupError",
        "StateError",
        "TaskError",
        "TaskTimeout",
        "UpstreamFailed",
        "VersionMismatch",
        "WorkerDied",
    ),
    "simpler.device_buffers": ("DeviceBuffer", "DeviceTensorRef"),
    "simpler.executor": ("SimplerExecutor",),
    "simpler.orchestrator": ("Orchestrator",),
    "simpler.remote.buffers": ("RemoteBufferExport", "RemoteBufferHandle", "RemoteTensorRef"),
    "simpler.remote.spec": ("RemoteWorkerSpec",),
    "simpler.remote.tls_config": ("TlsConfig",),
    "simpler.run": ("RunHandle", "TaskRef"),
    "simpler.tensor": ("DataType", "Tensor", "TensorArgType"),
    "simpler.wire.control_messages": ("SessionLimits",),
    "simpler.chrome_trace": ("Trace",),
    "simpler.worker": ("Worker", "WorkerType"),
    "simpler.worker_stats": ("WorkerStats",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "AccessDenied",
    "ArgumentError",
    "AuthError",
    "CallConfig",
    "CallableHandle",
    "CapacityError",
    "ChipCallable",
    "ConnectError",
    "DataType",
    "DeviceBuffer",
    "DeviceBusy",
    "DeviceError",
    "DeviceTensorRef",
    "Direction",
    "LevelError",
    "Orchestrator",
    "ProtocolError",
    "RegistrationError",
    "RemoteBufferExport",
    "RemoteBufferHandle",
    "RemoteCallable",
    "RemoteTensorRef",
    "RemoteWorkerSpec",
    "RunHandle",
    "SessionLimits",
    "SessionLost",
    "SimplerError",
    "SimplerExecutor",
    "StaleHandle",
    "StartupError",
    "StateError",
    "TaskArgs",
    "TaskError",
    "TaskRef",
    "TaskTimeout",
    "Tensor",
    "TensorArgType",
    "TlsConfig",
    "Trace",
    "UpstreamFailed",
    "VersionMismatch",
    "Worker",
    "WorkerDied",
    "WorkerStats",
    "WorkerType",
]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'simpler' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
