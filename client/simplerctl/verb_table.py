"""Where each verb of simplerctl is. Its module is imported when the verb is looked up, so that `status` does not wait
for what `doctor` and `bugreport` need. So that module, and what it imports, must make all the verbs of a group.
"""

from collections.abc import Iterator, MutableMapping
from pkgutil import resolve_name

import click

HOMES = {
    "status": "status_verbs:status",
    "version": "status_verbs:version",
    "is-ready": "wait_verbs:is_ready",
    "wait": "wait_verbs:wait",
    "shutdown": "daemon_verbs:shutdown",
    "log": "daemon_verbs:log",
    "session": "session_verbs:session",
    "device": "device_verbs:device",
    "buffer": "inside_verbs:buffer",
    "callable": "inside_verbs:callable_group",
    "events": "event_verbs:events",
    "drain": "drain_verbs:drain",
    "undrain": "drain_verbs:undrain",
    "is-drained": "drain_verbs:is_drained",
    "config": "config_verbs:config",
    "reload": "config_verbs:reload",
    "metrics": "metrics_verb:metrics",
    "top": "top_verb:top",
    "doctor": "doctor_verb:doctor",
    "bugreport": "bugreport_verb:bugreport",
    "rpc": "rpc_verb:rpc",
    "service": "service_verbs:service",
    "tls": "tls_verbs:tls",
    "dial-stdio": "dial_verb:dial_stdio",
}


class VerbTable(MutableMapping[str, click.Command]):
    """The verbs by name, as click wants the commands of a group; each is imported when it is looked up."""

    def __init__(self) -> None:
        self._verbs: dict[str, str | click.Command] = dict(HOMES)

    def __getitem__(self, name: str) -> click.Command:
        verb = self._verbs[name]
        if isinstance(verb, str):
            verb = self._verbs[name] = resolve_name(f"simplerctl.{verb}")
        return verb

    def __setitem__(self, name: str, verb: click.Command) -> None:
        self._verbs[name] = verb

    def __delitem__(self, name: str) -> None:
        del self._verbs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._verbs)

    def __len__(self) -> int:
        return len(self._verbs)
