"""`simplerctl metrics`: what a Prometheus server would be told."""

from typing import Any

import click

from simpler.plain_text import escape
from simplerctl.output import example, prints
from simplerctl.target import Target


def _show_metrics(metrics: dict[str, str]) -> None:
    for line in metrics["text"].splitlines():
        click.echo(escape(line))


@click.command(epilog=example("simplerctl metrics", "simplerctl metrics >/var/lib/node_exporter/simplerd.prom"))
@prints("metrics.get", _show_metrics)
@click.pass_obj
def metrics(target: Target) -> Any:
    """Print the daemon's metrics in Prometheus' text format."""
    return target.call("metrics.get")
