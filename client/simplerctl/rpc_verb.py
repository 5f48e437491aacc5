"""`simplerctl rpc`: any method of the admin interface, with no verb in between."""

import json

import click

from simplerctl.output import example, show_json
from simplerctl.target import Target


@click.command(epilog=example("simplerctl rpc rpc.discover", """simplerctl rpc session.list '{"all": true}'"""))
@click.argument("method")
@click.argument("params", default="{}", metavar="[JSON]")
@click.pass_obj
def rpc(target: Target, method: str, params: str) -> None:
    """Call a method of the admin interface; prints its result as JSON."""
    try:
        decoded = json.loads(params)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="JSON") from error
    show_json(target.call(method, decoded))
