"""What a shell offers for arguments that name something: it asks the daemon of this host, and is quick or silent."""

import click
from click.shell_completion import CompletionItem

from simplerctl.errors import AdminError
from simplerctl.target import Target

TIMEOUT_S = 1.0


def session_ids(context: click.Context, argument: click.Parameter, begun: str) -> list[CompletionItem]:
    """The sessions that have not ended."""
    return _offered(context, "session.list", "id", ("state", "name"), begun)


def device_numbers(context: click.Context, argument: click.Parameter, begun: str) -> list[CompletionItem]:
    """The devices of the host."""
    return _offered(context, "device.list", "device", ("state",), begun)


def _offered(context: click.Context, method: str, key: str, said: tuple[str, ...], begun: str) -> list[CompletionItem]:
    options = context.find_root().params
    if options.get("host"):  # ssh might ask for a password in the middle of a word
        return []
    try:
        listed = Target(None, options.get("socket"), TIMEOUT_S).call(method)
    except AdminError:
        return []
    found = {str(each[key]): " ".join(each[name] for name in said if each[name]) for each in listed}
    return [CompletionItem(name, help=words) for name, words in found.items() if name.startswith(begun)]
