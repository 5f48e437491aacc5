"""What goes wrong for simplerctl: a sentence on stderr, and the exit code that says which kind it was."""

import click

from simpler.plain_text import escape
from simplerctl.exit_code import ExitCode


class AdminError(click.ClickException):
    """A call that did not succeed; what is said on stderr may come from elsewhere, so that it is escaped."""

    exit_code = ExitCode.FAILED

    def format_message(self) -> str:
        return "\n".join(map(escape, self.message.splitlines()))


class NoAnswer(AdminError):
    """It did not come in time."""


class NoDaemon(AdminError):
    """Nobody serves the socket, or whoever did has gone."""

    exit_code = ExitCode.NO_DAEMON


class NotPermitted(AdminError):
    """The socket, or what was asked there, is not for this user."""

    exit_code = ExitCode.NOT_PERMITTED
