"""Whether a manifest can be carried out on this host, before anything is started for it.

All problems are reported at once, each with its field, what it says and what was expected. Nothing is touched here but
the names of folders that a client from elsewhere wants to import from: they are followed to where they really lie.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath

import msgspec

from simpler import limits
from simpler.errors import ArgumentError, SimplerError
from simpler.import_target import check_import_target
from simpler.wire.control_messages import Manifest
from simpler.worker_options import RUNTIMES

NAME_CHARACTERS = 64
MAX_SPIN_US = 1_000_000
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SERVICE_VARIABLES = ("NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_")
"""Whoever has these takes itself for the service, sd_notify(3), sd_listen_fds(3)."""

Problem = tuple[str, str]


def check_manifest(
    manifest: Manifest, *, platform: str, devices: Collection[int], import_roots: Sequence[str] | None
) -> Manifest:
    """The manifest to carry out: its import_paths without symbolic links where `import_roots` bounds them.

    `import_roots`: where import_paths may lie; None where the client may name any, because it is a user of this host.
    Raises ArgumentError with every problem; `context["field"]` is the first one's.
    """
    problems = [
        *_size(manifest),
        *_platform(manifest, platform),
        *_workers(manifest, devices),
        *_environment(manifest),
        *_imports(manifest, import_roots),
        *_name(manifest),
    ]
    if problems:
        text = "; ".join(f"{field}: {why}" for field, why in problems)
        raise ArgumentError(f"the session's manifest cannot be carried out here: {text}", field=problems[0][0])
    if import_roots is None:
        return manifest
    return msgspec.structs.replace(manifest, import_paths=[os.path.realpath(path) for path in manifest.import_paths])


def _size(manifest: Manifest) -> Iterator[Problem]:
    parts = {field: len(msgspec.msgpack.encode(value)) for field, value in msgspec.structs.asdict(manifest).items()}
    if sum(parts.values()) > limits.MANIFEST_BYTES:
        largest = max(parts, key=parts.__getitem__)
        yield largest, f"{parts[largest]} bytes; at most {limits.MANIFEST_BYTES} in the whole manifest"


def _platform(manifest: Manifest, platform: str) -> Iterator[Problem]:
    if manifest.platform != platform:
        yield "platform", f"{manifest.platform!r} is not what this host has, which is {platform!r}"
    if manifest.runtime not in RUNTIMES:
        yield "runtime", f"{manifest.runtime!r} is not known here; expected {' or '.join(map(repr, RUNTIMES))}"


def _workers(manifest: Manifest, devices: Collection[int]) -> Iterator[Problem]:
    twice = [device for device, count in Counter(manifest.device_ids).items() if count > 1]
    if twice:
        yield "device_ids", f"{_listed(twice)} named more than once; expected each device once"
    unknown = sorted(set(manifest.device_ids) - set(devices))
    if unknown:
        yield "device_ids", f"{_listed(unknown)} not on this host, which has {_listed(sorted(devices)) or 'no devices'}"
    if manifest.num_sub_workers > limits.SUB_WORKERS_PER_SESSION:
        yield "num_sub_workers", f"{manifest.num_sub_workers}; at most {limits.SUB_WORKERS_PER_SESSION} in one session"
    if manifest.spin_us > MAX_SPIN_US:
        yield "spin_us", f"{manifest.spin_us} microseconds; at most {MAX_SPIN_US}"


def _environment(manifest: Manifest) -> Iterator[Problem]:
    for name, value in manifest.env.items():
        if not _VARIABLE.fullmatch(name):
            yield "env", f"{name!r} is not a variable's name; expected letters, digits and underscores"
        elif name.startswith(_SERVICE_VARIABLES):
            yield "env", f"{name} is the service manager's and cannot be set"
        elif value is not None and "\0" in value:
            yield "env", f"the value of {name} has a zero byte"


def _imports(manifest: Manifest, import_roots: Sequence[str] | None) -> Iterator[Problem]:
    for path in manifest.import_paths:
        if not path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
            yield "import_paths", f"{path!r} is not an absolute path without '..'"
        elif import_roots is not None and not _lies_under(path, import_roots):
            allowed = ", ".join(import_roots) or "none are set"
            yield "import_paths", f"{path!r} is not under daemon.import_paths of this host's configuration ({allowed})"
    for target in manifest.imports:
        try:
            check_import_target(target)
        except SimplerError as error:
            yield "imports", error.message


def _name(manifest: Manifest) -> Iterator[Problem]:
    if len(manifest.name) > NAME_CHARACTERS or not (manifest.name.isprintable()):
        yield "name", f"{manifest.name[:NAME_CHARACTERS]!r}…: expected at most {NAME_CHARACTERS} printable characters"


def _lies_under(path: str, roots: Sequence[str]) -> bool:
    """Whether `path` does as it is written, and still does once every symbolic link in it is followed."""
    real = PurePosixPath(os.path.realpath(path))
    return any(
        PurePosixPath(path).is_relative_to(root) and real.is_relative_to(os.path.realpath(root)) for root in roots
    )


def _listed(devices: Sequence[int]) -> str:
    return ", ".join(map(str, devices))
