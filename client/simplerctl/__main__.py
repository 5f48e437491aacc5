"""The simplerctl command: global options, and the verbs `run` and `completion`; verb_table.py has the others.

Exit codes: 0 done; 1 the operation failed; 2 usage; 3 the answer is "no"; 4 no daemon; 5 not permitted.
"""

import os
import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from simplerctl.errors import AdminError
from simplerctl.moments import Seconds
from simplerctl.output import example
from simplerctl.target import Target
from simplerctl.verb_table import VerbTable

EPILOG = """\b
Examples:
  simplerctl status
  simplerctl session list --format json
  simplerctl --host alice@node1 device list
  simplerctl --socket /tmp/my-simplerd/admin.sock events --follow
"""


def _host(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is not None and (not value or value.startswith("-")):  # which ssh would take for an option
        raise click.BadParameter(f"{value!r} is not the name of a host")
    return value


@click.group(commands=VerbTable(), epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--host",
    metavar="[USER@]HOST",
    callback=_host,
    help="Ask the daemon of another host, through ssh; simplerctl must be on the PATH there. [default: this host]",
)
@click.option(
    "--socket",
    type=click.Path(readable=False, path_type=Path),  # the connection tells better what is wrong with it
    metavar="PATH",
    help="The daemon's admin socket. [default: $SIMPLERD_ADMIN_SOCKET, else your own daemon's, else the system's]",
)
@click.option(
    "--timeout",
    type=Seconds(min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for an answer.",
)
@click.version_option(package_name="simpler", prog_name="simplerctl")
@click.pass_context
def cli(context: click.Context, host: str | None, socket: Path | None, timeout: float) -> None:
    """Look at a simplerd daemon and tell it what to do."""
    context.obj = Target(host, socket, timeout)
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        context.color = False


@cli.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=example("simplerctl run examples/digits.py --epochs 5"),
)
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(target: Target, script: Path, args: tuple[str, ...]) -> None:
    """Run a Python program that finds this daemon in SIMPLERD_ENDPOINT; ends as the program ends."""
    if target.host is not None:
        raise click.UsageError("a program runs where it is started: `run` finds the daemon of this host, not of --host")
    endpoints = target.call("daemon.status")["endpoints"]
    environ = {**os.environ, "SIMPLERD_ENDPOINT": endpoints[0], "SIMPLERD_ADMIN_SOCKET": str(target.socket)}
    try:
        os.execve(sys.executable, [sys.executable, str(script), *args], environ)
    except OSError as error:
        raise AdminError(f"cannot run {sys.executable}: {error.strerror}") from error


@cli.command(epilog=example('eval "$(simplerctl completion bash)"'))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes your shell complete simplerctl's words."""
    kind = get_completion_class(shell)
    assert kind is not None, "click knows all shells that are offered"
    click.echo(kind(cli, {}, "simplerctl", "_SIMPLERCTL_COMPLETE").source())


def main() -> None:
    """Entry point."""
    _hold_standard_streams()
    try:
        cli(prog_name="simplerctl")
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered would fail again at exit
        what = error.filename or "the output cannot be written"
        sys.exit(f"simplerctl: {what}: {error.strerror}")


def _hold_standard_streams() -> None:
    """Opens those that were closed: the daemon's socket would get the number of one, and what is read or written there
    would be meant for it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


if __name__ == "__main__":
    main()
