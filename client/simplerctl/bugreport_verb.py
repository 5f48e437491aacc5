"""`simplerctl bugreport`: one file for whoever is to find out what went wrong."""

from __future__ import annotations

import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from simpler.plain_text import escape
from simplerctl.bugreport import BugReport, gather, names_of_people, secrets_of, write
from simplerctl.errors import AdminError
from simplerctl.examination import Patient
from simplerctl.output import example, prints, show_table
from simplerctl.redaction import Redaction
from simplerctl.target import Target


def _show_report(report: BugReport) -> None:
    rows = [
        [part.name, (part.missing and "-") or f"{part.bytes:,}", part.redacted or "-", part.missing or part.about]
        for part in report.parts
    ]
    show_table(["FILE", "BYTES", "REDACTED", "WHAT IT IS"], rows, empty="Nothing.")
    if report.file is None:
        return click.echo("Nothing was written. Without --dry-run this would be in the report.")
    return click.echo(
        f"{escape(report.file)} has all this ({report.bytes:,} bytes). Look through it before you pass it on: "
        f"tar xzf {escape(report.file)}"
    )


@click.command(epilog=example("simplerctl bugreport --dry-run", "sudo simplerctl bugreport -o /tmp/report.tar.gz"))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Where to write it. [default: here]"
)
@click.option("--anonymous", is_flag=True, help="Replace the names of users and of this host, too.")
@click.option("--dry-run", is_flag=True, help="Only say what would be in it.")
@prints(BugReport, _show_report)
@click.pass_obj
def bugreport(target: Target, output: Path | None, anonymous: bool, dry_run: bool) -> Any:
    """Gather what helps to find out what went wrong in one file, without secrets.

    It has what `doctor` finds, the daemon's state, metrics, events and log, its configuration, units, and the host's
    load and packages. It works without a daemon and without root, with less in it.
    """
    if target.host is not None:
        raise click.UsageError(f"a report is of the host where it is made: ssh {target.host} simplerctl bugreport")
    path = output or Path(f"simplerd-report-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz").absolute()
    if path.exists() and not dry_run:
        raise AdminError(f"{path} exists; name another file with -o")
    redaction = Redaction(secrets_of(os.environ), names_of_people() if anonymous else {})
    with Patient(target) as patient:
        gathered = gather(patient, redaction)
    parts = [each.described for each in gathered]
    if dry_run:
        return BugReport(None, 0, parts)
    return BugReport(str(path), write(path, gathered, version("simpler")), parts)
