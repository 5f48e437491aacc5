"""A bug report: one compressed archive of what helps to find out what went wrong, bounded, and without secrets.

Rules
  1. Everything goes through one Redaction before it is written. Nothing is gathered that is a secret by nature: no
     environment, no key, no arguments of processes, no output of programs but the last lines of those that died.
  2. A part has at most PART_BYTES and all have REPORT_BYTES: of what is longer the end stays, which is the newest.
  3. It is for its owner only, pushes no file aside, and appears whole or not at all.
"""

from __future__ import annotations

import io
import json
import os
import pwd
import socket
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from simplerctl.bugreport_parts import PARTS, Part
from simplerctl.errors import AdminError
from simplerctl.examination import TROUBLE, Patient
from simplerctl.redaction import Redaction, is_secret_name

PART_BYTES = 2 << 20
REPORT_BYTES = 16 << 20
FIRST_PERSON = 1000
NOBODY = 65_534


class ReportPart(Struct, frozen=True):
    """A file of the report. `redacted`: how often something was taken out; `left_out`: characters at its beginning that
    were too many; `missing`: why it could not be had."""

    name: str
    about: str
    bytes: int
    redacted: int
    left_out: int
    missing: str | None


class BugReport(Struct, frozen=True):
    """Where the report is, null when none was written, and what is in it."""

    file: str | None
    bytes: int
    parts: list[ReportPart]


class Gathered(NamedTuple):
    """A part that was gathered; it has no content when it is missing."""

    described: ReportPart
    content: bytes


def gather(
    patient: Patient,
    redaction: Redaction,
    parts: Sequence[Part] = PARTS,
    *,
    part_bytes: int = PART_BYTES,
    report_bytes: int = REPORT_BYTES,
) -> list[Gathered]:
    """All parts, as they may be in the report."""
    gathered: list[Gathered] = []
    for part in parts:
        room = report_bytes - sum(len(each.content) for each in gathered)
        gathered.append(_gather(patient, part, redaction, min(room, part_bytes)))
    return gathered


def _gather(patient: Patient, part: Part, redaction: Redaction, most_bytes: int) -> Gathered:
    before, missing, text, left_out = redaction.hidden, None, "", 0
    try:
        found = part.gather(patient)
        if isinstance(found, str):  # cut first: to redact takes its time
            kept = _end(found, most_bytes)
            left_out, text = len(found) - len(kept), redaction.text(kept)
        else:
            text = _json(part, redaction.value(found))
    except TROUBLE as error:
        missing = redaction.text(patient.why_not(error))
    end = _end(text, most_bytes)
    left_out += len(text) - len(end)
    content = end.encode()
    hidden = redaction.hidden - before
    return Gathered(ReportPart(part.name, part.about, len(content), hidden, left_out, missing), content)


def _end(text: str, most_bytes: int) -> str:
    """Its last lines, in at most so many bytes."""
    content = text.encode(errors="replace")
    if len(content) <= most_bytes:
        return text
    return content[len(content) - most_bytes :].partition(b"\n")[2].decode()


def _json(part: Part, value: object) -> str:
    if part.name.endswith(".jsonl") and isinstance(value, list):
        return "".join(json.dumps(each) + "\n" for each in value)
    return json.dumps(value, indent=2) + "\n"


def write(path: Path, gathered: Sequence[Gathered], version: str) -> int:
    """The archive at `path`; returns how many bytes it has. Raises AdminError when it cannot be written."""
    folder = path.name.removesuffix(".tar.gz")
    files = [("README.txt", readme([each.described for each in gathered], version).encode())]
    files += [(each.described.name, each.content) for each in gathered if each.described.missing is None]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files:
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
            tar.addfile(member, io.BytesIO(content))
    _write_new(path, archive.getvalue())
    return len(archive.getvalue())


def _write_new(path: Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        except OSError:
            path.unlink()
            raise
    except OSError as error:
        raise AdminError(f"the report cannot be written to {path}: {error.strerror}; name another with -o") from error


def readme(parts: Sequence[ReportPart], version: str) -> str:
    """What the reader of the report should know."""
    lines = [
        f"A report of simplerctl {version}, made on {time.strftime('%Y-%m-%d at %H:%M:%S %z')}.",
        "",
        "Taken out of every file: private keys, tokens, passwords, long random words, and the values of variables.",
        "That is done by their shapes and names, so look through it before you pass it on.",
        "",
    ]
    for part in parts:
        notes = [f"{part.bytes:,} bytes", *([f"{part.redacted} redacted"] if part.redacted else [])]
        notes += [f"the first {part.left_out:,} characters are left out"] if part.left_out else []
        state = f"not included: {part.missing}" if part.missing else ", ".join(notes)
        lines.append(f"{part.name}: {part.about} ({state})")
    return "\n".join(lines) + "\n"


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """What the variables of this process say that must not be told."""
    return [value for name, value in environ.items() if is_secret_name(name) and not value.startswith("/")]


def names_of_people() -> dict[str, str]:
    """What stands for the names of this host and its users, by name."""
    people = sorted({each.pw_name for each in pwd.getpwall() if FIRST_PERSON <= each.pw_uid < NOBODY})
    host = socket.gethostname()
    return {name: f"user-{number}" for number, name in enumerate(people, 1)} | {
        host: "host",
        host.split(".")[0]: "host",
    }
