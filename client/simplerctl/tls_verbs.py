"""`simplerctl tls`: the certificates that hosts and programs need to speak TLS with each other."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import click
from msgspec import Struct

from simpler.errors import SimplerError
from simplerctl.errors import AdminError
from simplerctl.output import example, prints

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


@click.group()
def tls() -> None:
    """Make the certificates for TLS between hosts. No daemon is asked."""


class Made(Struct, frozen=True):
    """What `init` has made."""

    folder: str


class Issued(Struct, frozen=True):
    """What `issue` has made; `addresses` are a host's."""

    kind: str
    name: str
    folder: str
    fingerprint: str
    addresses: tuple[str, ...]


def _show_made(made: Made) -> None:
    click.echo(f"The authority is in {made.folder}. Keep {made.folder}/ca.key to yourself: it lets in whoever has it.")


@tls.command(epilog=example("simplerctl tls init --dir ~/simpler-tls"))
@_dir_option
@prints(Made, _show_made)
def init(folder: Path) -> Made:
    """Make a certificate authority."""
    from simplerctl.authority import Authority  # cryptography takes its time, and no other verb needs it

    try:
        Authority.make(folder)
    except SimplerError as error:
        raise AdminError(error.message) from error
    return Made(str(folder))


@tls.group()
def issue() -> None:
    """Issue a certificate."""


def _show_host(issued: Issued) -> None:
    listen_at = _where((*issued.addresses, issued.name))
    home = "/etc/simplerd/tls"
    click.echo(
        f"""\
For the host {issued.name}: {issued.folder}
Copy it to /etc/simplerd/tls there, for simplerd's user alone:
  scp -r {issued.folder} root@{issued.name}:{home} && ssh root@{issued.name} chown -R simplerd: {home}
and say in its /etc/simplerd/simplerd.toml:
  [listen]
  session = ["unix:/run/simplerd/session.sock", "{listen_at}:7390"]
  [tls]
  certificate = "/etc/simplerd/tls/certificate.pem"
  key = "/etc/simplerd/tls/key.pem"
  ca = "/etc/simplerd/tls/ca.pem"
Fingerprint (a program may pin it): {issued.fingerprint}
Where systemd holds the sockets it has to know the address too: `systemctl edit simplerd-tcp.socket`, and enable it.
  [Socket]
  ListenStream=
  ListenStream={listen_at}:7390"""
    )


@issue.command("host", epilog=example("simplerctl tls issue host node1 --address 10.0.0.2 --address node1.example"))
@click.argument("name")
@click.option(
    "--address", "addresses", multiple=True, help="Another name or IP address of the host's. May be repeated."
)
@_days_option
@_dir_option
@prints(Issued, _show_host)
def issue_host(name: str, addresses: tuple[str, ...], days: int, folder: Path) -> Issued:
    """For the simplerd of a host that programs reach as NAME, or at an address."""
    return _issue(folder, "host", name, addresses, days)


def _show_client(issued: Issued) -> None:
    click.echo(
        f"""\
For the programs of {issued.name}: {issued.folder}
Copy it to where they run, for their user alone, and say there either
  export SIMPLER_TLS={issued.folder}
or, in the program,
  RemoteWorkerSpec("HOST:7390", tls=TlsConfig.from_folder("{issued.folder}"))
Fingerprint (tls.clients of a daemon may name it): {issued.fingerprint}"""
    )


@issue.command("client", epilog=example("simplerctl tls issue client alice"))
@click.argument("name")
@_days_option
@_dir_option
@prints(Issued, _show_client)
def issue_client(name: str, days: int, folder: Path) -> Issued:
    """For the programs of NAME, who may then run code on every host of this authority."""
    return _issue(folder, "client", name, (), days)


def _issue(folder: Path, kind: str, name: str, addresses: tuple[str, ...], days: int) -> Issued:
    from simplerctl.authority import Authority, fingerprint_of

    try:
        made = Authority(folder).issue(kind, name, addresses, days=days)
    except SimplerError as error:
        raise AdminError(error.message) from error
    return Issued(kind, name, str(made.resolve()), fingerprint_of(made), addresses)


def _where(names: tuple[str, ...]) -> str:
    """Where to listen: at the first of the host's addresses, since simplerd resolves no names."""
    for name in names:
        try:
            ip = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            continue
        return f"[{ip}]" if ip.version == 6 else str(ip)
    return "ADDRESS"
