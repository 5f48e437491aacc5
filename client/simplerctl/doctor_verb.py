"""`simplerctl doctor`: what is wrong with this host and its daemon, and what to do about it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from simpler.plain_text import escape
from simplerctl import daemon_checks, host_checks, install_checks, service_checks
from simplerctl.examination import Finding, Patient, examine
from simplerctl.exit_code import ExitCode
from simplerctl.output import Answer, example, prints
from simplerctl.target import Target

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "bright_black"}


def _show_findings(findings: list[Finding]) -> None:
    width = max(len(each.check) for each in findings)
    for each in findings:
        status = click.style(f"{each.status:4}", fg=_COLOURS[each.status])
        click.echo(f"{status}  {each.check:{width}}  {escape(each.found)}")
        if each.fix:
            click.echo(f"{'':6}{'':{width}}  → {escape(each.fix)}")
    counts = Counter[str](each.status for each in findings)
    click.echo(", ".join(f"{counts[status]} {status}" for status in _COLOURS if counts[status]))


@click.command(epilog=example("simplerctl doctor", "sudo simplerctl doctor --format json"))
@prints(list[Finding], _show_findings)
@click.pass_obj
def doctor(target: Target) -> Any:
    """Examine this host, what is installed, the service and the daemon; say how to mend what is wrong.

    Nothing is changed. It works without a daemon, too. It ends with 1 when something fails.
    """
    if target.host is not None:
        raise click.UsageError(f"doctor examines the host that it runs on: ssh {target.host} simplerctl doctor")
    tables = (host_checks, install_checks, service_checks, daemon_checks)
    with Patient(target) as patient:
        findings = examine(patient, [check for table in tables for check in table.CHECKS])
    failed = any(each.status == "fail" for each in findings)
    return Answer(findings, ExitCode.FAILED if failed else ExitCode.DONE)
