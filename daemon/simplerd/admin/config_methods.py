"""The methods about the configuration."""

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from simpler import limits
from simplerd import reload
from simplerd.admin.jsonrpc import Code, RpcError
from simplerd.admin.method import Caller, Method, Nothing, Role
from simplerd.reload import CheckReport, ReloadReport
from simplerd.settings import Change, SettingInfo, shown
from simplerd.toml_file import ConfigError, TomlFile


class ConfigText(Struct, frozen=True, forbid_unknown_fields=True):
    """What to check."""

    text: (
        Annotated[str, Meta(max_length=limits.ADMIN_LINE_BYTES, description="null: the file that a reload would read")]
        | None
    ) = None
    name: Annotated[str, Meta(max_length=4096, description="what problems in the text call its file")] = "text"


class ConfigInForce(Struct, frozen=True):
    """What the daemon works by."""

    config: Annotated[str, Meta(description='the file, or "embedded defaults"')]
    settings: list[SettingInfo]
    waiting: Annotated[list[Change], Meta(description="what the last reload found that needs a restart")]


async def config_show(caller: Caller, params: Nothing) -> ConfigInForce:
    daemon = caller.daemon
    return ConfigInForce(daemon.config.source, shown(daemon.config), daemon.waiting_settings)


async def config_check(caller: Caller, params: ConfigText) -> CheckReport:
    config = caller.daemon.config
    try:
        file = None if params.text is None else TomlFile.parse(Path(params.name), params.text.encode())
        fresh, _ = reload.checked(config.surroundings, file)
    except ConfigError as error:
        return CheckReport(params.name if params.text is not None else config.source, list(error.problems))
    return CheckReport(fresh.source, [])


async def daemon_reload(caller: Caller, params: Nothing) -> ReloadReport:
    try:
        return caller.daemon.reload()
    except ConfigError as error:
        raise RpcError(Code.FAILED, error.message, error.code, problems=error.problems) from error


METHODS: tuple[Method[Any], ...] = (
    Method("config.show", Role.READ, config_show, Nothing, ConfigInForce, "Every setting, and where it comes from."),
    Method("config.check", Role.READ, config_check, ConfigText, CheckReport, "What is wrong with a configuration."),
    Method(
        "daemon.reload",
        Role.OPERATE,
        daemon_reload,
        Nothing,
        ReloadReport,
        "Read the configuration again; a bad one changes nothing.",
    ),
)
