"""`simplerctl tls`: the certificates that hosts and programs need to speak TLS with each other."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import NamedTuple

import click

from simpler.errors import SimplerError
from simplerctl.client import AdminError
from simplerctl.output import format_option, show_json

DAYS = 365

_dir_option = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("simpler-tls"),
    show_default=True,
    help="Where the authority and what it issued are kept.",
)
_days_option = click.option(
    "--days", type=click.IntRange(1, 3650), default=DAYS, show_default=True, help="How long the certificate is good."
)


def _example(line: str) -> str:
    return f"\b\nExample:\n  {line}"


@click.group()
def tls() -> None:
    """Make the certificates for TLS between hosts. No daemon is asked."""


@tls.command(epilog=_example("simplerctl tls init --dir ~/simpler-tls"))
@_dir_option
@format_option
def init(folder: Path, style: str) -> None:
    """Make a certificate authority."""
    from simplerctl.authority import Authority  # cryptography takes its time, and no other verb needs it

    try:
        Authority.make(folder)
    except SimplerError as error:
        raise AdminError(error.message) from error
    if style == "json":
        return show_json({"folder": str(folder)})
    return click.echo(f"The authority is in {folder}. Keep {folder}/ca.key to yourself: it lets in whoever has it.")


@tls.group()
def issue() -> None:
    """Issue a certificate."""


@issue.command("host", epilog=_example("simplerctl tls issue host node1 --address 10.0.0.2 --address node1.example"))
@click.argument("name")
@click.option(
    "--address", "addresses", multiple=True, help="Another name or IP address of the host's. May be repeated."
)
@_days_option
@_dir_option
@format_option
def issue_host(name: str, addresses: tuple[str, ...], days: int, folder: Path, style: str) -> None:
    """For the simplerd of a host that programs reach as NAME, or at an address."""
    issued = _issue(folder, "host", name, addresses, days)
    if style == "json":
        return show_json(issued._asdict())
    return click.echo(
        f"""\
For the host {name}: {issued.folder}
Copy it to /etc/simplerd/tls there, for simplerd's user alone:
  scp -r {issued.folder} root@{name}:/etc/simplerd/tls && ssh root@{name} chown -R simplerd: /etc/simplerd/tls
and say in its /etc/simplerd/simplerd.toml:
  [listen]
  session = ["unix:/run/simplerd/session.sock", "{_where((*addresses, name))}:7390"]
  [tls]
  certificate = "/etc/simplerd/tls/certificate.pem"
  key = "/etc/simplerd/tls/key.pem"
  ca = "/etc/simplerd/tls/ca.pem"
Fingerprint (a program may pin it): {issued.fingerprint}
Where systemd holds the sockets it has to know the address too, `systemctl edit simplerd.socket`:
  [Socket]
  ListenStream={_where((*addresses, name))}:7390"""
    )


@issue.command("client", epilog=_example("simplerctl tls issue client alice"))
@click.argument("name")
@_days_option
@_dir_option
@format_option
def issue_client(name: str, days: int, folder: Path, style: str) -> None:
    """For the programs of NAME, who may then run code on every host of this authority."""
    issued = _issue(folder, "client", name, (), days)
    if style == "json":
        return show_json(issued._asdict())
    return click.echo(
        f"""\
For the programs of {name}: {issued.folder}
Copy it to where they run, for their user alone, and say there either
  export SIMPLER_TLS={issued.folder}
or, in the program,
  RemoteWorkerSpec("HOST:7390", tls=TlsConfig.from_folder("{issued.folder}"))
Fingerprint (tls.clients of a daemon may name it): {issued.fingerprint}"""
    )


class Issued(NamedTuple):
    """What `issue` has made."""

    kind: str
    name: str
    folder: str
    fingerprint: str


def _issue(folder: Path, kind: str, name: str, addresses: tuple[str, ...], days: int) -> Issued:
    from simplerctl.authority import Authority, fingerprint_of

    try:
        made = Authority(folder).issue(kind, name, addresses, days=days)
    except SimplerError as error:
        raise AdminError(error.message) from error
    return Issued(kind, name, str(made.resolve()), fingerprint_of(made))


def _where(names: tuple[str, ...]) -> str:
    """Where to listen: at the first of the host's addresses, since simplerd resolves no names."""
    for name in names:
        try:
            ip = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            continue
        return f"[{ip}]" if ip.version == 6 else str(ip)
    return "ADDRESS"
