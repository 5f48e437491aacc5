"""Whether a manifest can be carried out on this host, before anything is started for it.

All problems of what is not too large are reported at once, each with its field, what it says and what was expected.
Nothing is touched here but folders that a client from elsewhere wants to import from, and of those only such as are
allowed by their names: they are followed to where they really lie.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from simpler import limits
from simpler.errors import ArgumentError, SimplerError
from simpler.import_target import check_import_target
from simpler.wire.control_messages import Manifest
from simpler.worker_options import RUNTIMES

NAME_CHARACTERS = 64
MAX_SPIN_US = 1_000_000
RUNNER_THREADS = 2
"""The trio loop, and the command lane with the orchestration functions."""
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
    problems = [*_size(manifest)] or [  # what is too large would take too long to look at
        *_platform(manifest, platform),
        *_workers(manifest, devices),
        *_environment(manifest),
        *_imports(manifest),
        *_name(manifest),
    ]
    if import_roots is not None and not problems:
        paths, problems = _followed(manifest.import_paths, import_roots)
        manifest = msgspec.structs.replace(manifest, import_paths=paths)
    if problems:
        text = "; ".join(f"{field}: {why}" for field, why in problems)
        raise ArgumentError(f"the session's manifest cannot be carried out here: {text}", field=problems[0][0])
    return manifest


def _size(manifest: Manifest) -> Iterator[Problem]:
    parts = {field: len(msgspec.msgpack.encode(value)) for field, value in msgspec.structs.asdict(manifest).items()}
    if sum(parts.values()) > limits.MANIFEST_BYTES:
        largest = max(parts, key=parts.__getitem__)
        yield largest, f"{parts[largest]} bytes; at most {limits.MANIFEST_BYTES} in the whole manifest"
    elif parts["import_paths"] > limits.IMPORT_PATHS_BYTES:
        yield "import_paths", f"{parts['import_paths']} bytes; at most {limits.IMPORT_PATHS_BYTES} in all of them"


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
    if 0 < manifest.limits.processes < (least := least_processes(manifest)):
        yield "limits", f"{manifest.limits.processes} processes and threads are too few; it starts with {least}"
    if manifest.spin_us > MAX_SPIN_US:
        yield "spin_us", f"{manifest.spin_us} microseconds; at most {MAX_SPIN_US}"


def least_processes(manifest: Manifest) -> int:
    """The processes and threads of a session that does nothing: the runner with two threads, its spawner, workers."""
    return RUNNER_THREADS + 1 + len(manifest.device_ids) + manifest.num_sub_workers


def _environment(manifest: Manifest) -> Iterator[Problem]:
    for name, value in manifest.env.items():
        if not _VARIABLE.fullmatch(name):
            yield "env", f"{name!r} is not a variable's name; expected letters, digits and underscores"
        elif name.startswith(_SERVICE_VARIABLES):
            yield "env", f"{name} is the service manager's and cannot be set"
        elif value is not None and "\0" in value:
            yield "env", f"the value of {name} has a zero byte"


def _imports(manifest: Manifest) -> Iterator[Problem]:
    for path in manifest.import_paths:
        if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
            yield "import_paths", f"{path!r} is not an absolute path without '..'"
    for target in manifest.imports:
        try:
            check_import_target(target)
        except SimplerError as error:
            yield "imports", error.message


def _name(manifest: Manifest) -> Iterator[Problem]:
    if len(manifest.name) > NAME_CHARACTERS or not (manifest.name.isprintable()):
        yield "name", f"{manifest.name[:NAME_CHARACTERS]!r}…: expected at most {NAME_CHARACTERS} printable characters"


def _followed(paths: Sequence[str], roots: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """Where `paths` lie once every symbolic link is followed, and what is wrong with those not under `roots`."""
    allowed = ", ".join(roots) or "none are set"
    real, problems = [], []
    for path in paths:
        try:
            lies_at = _under(path, roots)
        except OSError as error:
            problems.append(("import_paths", f"{path!r}: {error.strerror}"))
            continue
        if lies_at is None:
            why = f"{path!r} is not under daemon.import_paths of this host's configuration ({allowed})"
            problems.append(("import_paths", why))
        else:
            real.append(lies_at)
    return real, problems


def _under(path: str, roots: Sequence[str]) -> str | None:
    """Where `path` lies, if it does so under one of `roots` both as it is written and in truth. Raises OSError.

    What does not as it is written is not touched.
    """
    above = [root for root in roots if PurePosixPath(path).is_relative_to(root)]
    if not above:
        return None
    real = _real(path)
    return str(real) if any(real.is_relative_to(os.path.realpath(root)) for root in above) else None


def _real(path: str) -> Path:
    """Followed by the kernel, which bounds lengths and links: path_resolution(7)."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return Path(f"/proc/self/fd/{fd}").readlink()
    finally:
        os.close(fd)


def _listed(devices: Sequence[int]) -> str:
    return ", ".join(map(str, devices))
