"""Every setting has a key, an origin, and a word about when a change of it takes effect."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from simplerd.config import SECTIONS, Config, load
from simplerd.settings import DEFAULT, SETTINGS, Value, apply, changes, shown

NO_SETTINGS = {"source", "origins", "surroundings"}


def configured(folder: Path, text: str) -> Config:
    path = folder / "simplerd.toml"
    path.write_text(text)
    return load(path, runtime_dir=Path("/run/mine"), environ={})


def tls(folder: Path) -> str:
    for name in ("certificate", "key", "ca"):
        (folder / name).touch(mode=0o600)
    return "[tls]\n" + "".join(f'{name} = "{folder}/{name}"\n' for name in ("certificate", "key", "ca"))


def reloaded(before: Config, after: Config) -> dict[str, str]:
    """Has the changes applied; gives each key with why it needs a restart."""
    found = list(changes(before, after))
    apply(found, after, before)
    return {change.key: change.restart for change in found}


def test_every_key_of_a_file_and_every_field_is_a_setting() -> None:  # D8
    keys = {f"{section}.{key}" for section, shape in SECTIONS.items() for key in shape.__struct_fields__}
    assert {setting.key for setting in SETTINGS} == keys
    named = {setting.field.partition(".")[0] for setting in SETTINGS}
    assert named == {field.name for field in fields(Config)} - NO_SETTINGS


def test_each_value_says_where_it_comes_from(tmp_path: Path) -> None:  # D8
    config = configured(tmp_path, "[log]\nlevel = 'debug'\n\n[limits]\nopen_timeout_s = 5\n")
    found: dict[str, tuple[Value, str]] = {info.key: (info.value, info.origin) for info in shown(config)}
    assert found["log.level"] == ("debug", f"{tmp_path}/simplerd.toml:2")
    assert found["limits.open_timeout_s"] == (5.0, f"{tmp_path}/simplerd.toml:5")
    assert found["daemon.runtime_dir"] == ("/run/mine", "command line (--runtime-dir)")
    assert found["devices.ids"] == ([0, 1], DEFAULT)
    assert found["tls.certificate"] == (None, DEFAULT)


def test_what_can_change_is_applied_and_what_cannot_is_named(tmp_path: Path) -> None:  # D8
    config = configured(tmp_path, "[limits]\nmax_sessions = 2\n")
    text = '[listen]\nsession = ["127.0.0.1:1"]\n[limits]\nmax_sessions = 3\nopen_timeout_s = 9\n'
    assert reloaded(config, configured(tmp_path, text)) == {
        "listen.session": "sockets are made when simplerd starts",
        "limits.max_sessions": "",
        "limits.open_timeout_s": "",
    }
    assert (config.max_sessions, config.open_timeout_s) == (3, 9.0)
    assert config.session_sockets == ("unix:/run/mine/session.sock",)
    assert config.origins["limits.max_sessions"] == f"{tmp_path}/simplerd.toml:4"
    assert "listen.session" not in config.origins
    assert reloaded(config, configured(tmp_path, text)) == {"listen.session": "sockets are made when simplerd starts"}


def test_tls_changes_its_files_at_run_time_but_is_not_turned_on_or_off(tmp_path: Path) -> None:  # D8
    config = configured(tmp_path, "")
    on = tls(tmp_path)
    assert set(reloaded(config, configured(tmp_path, on)).values()) == {"TLS is turned on and off when simplerd starts"}
    assert config.tls is None
    config = configured(tmp_path, on)
    assert set(reloaded(config, configured(tmp_path, ""))) == {"tls.certificate", "tls.key", "tls.ca"}
    assert config.tls is not None
    pin = f'clients = ["sha256:{"a" * 64}"]'
    assert reloaded(config, configured(tmp_path, on + pin)) == {"tls.clients": ""}
    assert config.tls.clients == (f"sha256:{'a' * 64}",)
