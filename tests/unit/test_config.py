"""The daemon's configuration: defaults, the file's place, and every problem named with file, line and key."""

from __future__ import annotations

import grp
import os
from dataclasses import replace
from pathlib import Path

import pytest

from simpler import limits
from simplerd import config as configuration
from simplerd.config import SECTIONS, Config, load
from simplerd.config_check import TlsFiles, endpoint_problem
from simplerd.toml_file import ConfigError

GOOD = """\
[daemon]
runtime_dir = "/run/elsewhere"
state_dir = "/srv/state"
import_paths = ["/opt/jobs"]
on_stop = "keep"

[listen]
session = ["unix:/run/elsewhere/s.sock", "127.0.0.1:7390", "[::1]:7390", "localhost:7391"]
admin_socket = "/run/elsewhere/a.sock"
admin_group = "{group}"
read_group = "{group}"

[devices]
ids = [4, 7]
probe_interval_s = 1.5
return_after_probe = false

[limits]
max_sessions = 3
sessions_per_client = 2
connections_per_client = 9
first_frame_timeout_s = 4
frame_timeout_s = 3
send_timeout_s = 6
open_timeout_s = 5
attach_timeout_s = 2.5
close_timeout_s = 1
health_timeout_s = 7
lost_client_grace_s = 8
session_memory_bytes = 1_073_741_824
session_processes = 100
session_cpu_weight = 50
session_time_s = 3600
adoption_timeout_s = 9

[metrics]
listen = "127.0.0.1:9469"

[log]
level = "debug"
"""


@pytest.fixture(autouse=True)
def _no_system_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(configuration, "SYSTEM_CONFIG", tmp_path / "etc" / "simplerd.toml")


def write(folder: Path, text: str) -> Path:
    path = folder / "simplerd.toml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    """The lines of the error that `text` gives, each without the name of the file."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


def test_every_setting_is_taken_from_the_file(tmp_path: Path) -> None:  # D8
    group = grp.getgrgid(os.getgid()).gr_name
    path = write(tmp_path, GOOD.format(group=group))
    assert load(path) == Config(
        source=str(path),
        runtime_dir=Path("/run/elsewhere"),
        state_dir=Path("/srv/state"),
        session_sockets=("unix:/run/elsewhere/s.sock", "127.0.0.1:7390", "[::1]:7390", "localhost:7391"),
        tls=None,
        insecure_tcp=False,
        admin_socket=Path("/run/elsewhere/a.sock"),
        admin_group=group,
        read_group=group,
        platform="sim",
        devices=(4, 7),
        probe_interval_s=1.5,
        return_after_probe=False,
        max_sessions=3,
        sessions_per_client=2,
        connections_per_client=9,
        first_frame_timeout_s=4.0,
        frame_timeout_s=3.0,
        send_timeout_s=6.0,
        open_timeout_s=5.0,
        attach_timeout_s=2.5,
        close_timeout_s=1.0,
        health_timeout_s=7.0,
        lost_client_grace_s=8.0,
        session_memory_bytes=1 << 30,
        session_processes=100,
        session_cpu_weight=50,
        session_time_s=3600.0,
        adoption_timeout_s=9.0,
        on_stop="keep",
        metrics_listen="127.0.0.1:9469",
        import_paths=("/opt/jobs",),
        log_level="debug",
    )


def test_without_a_file_the_embedded_defaults_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    config = load(environ={})
    assert config.source == "embedded defaults"
    assert config.runtime_dir == Path("/run/simplerd")
    assert config.state_dir == Path("/var/lib/simplerd")
    assert config.session_sockets == ("unix:/run/simplerd/session.sock",)  # D3: nothing but Unix sockets by default
    assert config.devices == (0, 1)
    assert config.max_sessions == limits.MAX_SESSIONS


def test_a_user_without_root_gets_the_xdg_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    config = load(environ={"XDG_RUNTIME_DIR": "/run/user/1000", "HOME": "/home/ada"})
    assert config.admin_socket == Path("/run/user/1000/simplerd/admin.sock")
    assert config.state_dir == Path("/home/ada/.local/state/simplerd")
    config = load(environ={"XDG_RUNTIME_DIR": "/run/user/1000", "XDG_STATE_HOME": "/home/ada/state"})
    assert config.state_dir == Path("/home/ada/state/simplerd")
    with pytest.raises(ConfigError, match="neither XDG_STATE_HOME nor HOME is set; set one, or give --state-dir"):
        load(environ={"XDG_RUNTIME_DIR": "/run/user/1000"})


def test_what_a_daemon_of_ones_own_keeps_is_not_kept_with_the_hosts() -> None:  # D6
    assert load(runtime_dir=Path("/tmp/mine"), environ={}).state_dir == Path("/tmp/mine/state")
    given = load(runtime_dir=Path("/tmp/mine"), state_dir=Path("/tmp/kept"), environ={})
    assert given.state_dir == Path("/tmp/kept")


def test_a_user_without_a_runtime_directory_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:  # D8
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="XDG_RUNTIME_DIR is not set; set it, or give --runtime-dir"):
        load(environ={})


def test_a_service_uses_the_directory_that_systemd_made() -> None:  # D9
    environ = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "STATE_DIRECTORY": "/var/lib/a", "HOME": "/home/ada"}
    config = load(environ=environ | {"SYSTEMD_EXEC_PID": str(os.getpid())})
    assert (config.runtime_dir, config.state_dir) == (Path("/run/a"), Path("/var/lib/a"))
    other = load(environ=environ | {"SYSTEMD_EXEC_PID": "1", "XDG_RUNTIME_DIR": "/run/user/1"})
    assert other.state_dir != Path("/var/lib/a")
    assert other.runtime_dir != Path("/run/a")  # meant for the process that started us


def test_the_named_file_wins_over_the_environment_and_that_over_etc(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("option", "variable", "etc")]
    for number, folder in enumerate(paths, 1):
        folder.mkdir()
        write(folder, f"[limits]\nmax_sessions = {number}\n")
    option, variable, _ = (folder / "simplerd.toml" for folder in paths)
    environ = {"SIMPLERD_CONFIG": str(variable)}
    assert load(option, environ=environ).max_sessions == 1
    assert load(environ=environ).max_sessions == 2
    assert load(environ={}).max_sessions == 3


def test_a_file_in_the_working_directory_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "[limits]\nmax_sessions = 3\n")
    monkeypatch.chdir(tmp_path)
    assert load(environ={}).max_sessions == limits.MAX_SESSIONS


def test_a_link_in_etc_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:  # D8
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/simplerd.toml").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(environ={})


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[listen]\nsession = ["127.0.0.1:1"]\n[log]\nlevel = "error"\n')
    config = load(path, runtime_dir=Path("/run/mine"), listen=("127.0.0.1:2",), log_level="debug")
    assert (config.session_sockets, config.log_level) == (("127.0.0.1:2",), "debug")
    assert config.admin_socket == Path("/run/mine/admin.sock")


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:  # D8
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "nowhere.toml")


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:  # D8
    text = """\
[limits]
max_session = 3
open_timeout_s = 0
[devices]
ids = [1, "a"]
platform = "GPU 1"
[log]
level = true
[bogus]
"""
    assert problems(tmp_path, text) == [
        "2: limits.max_session: unknown key; did you mean 'max_sessions'?; "
        "[limits] takes max_sessions, sessions_per_client, connections_per_client, first_frame_timeout_s, "
        "frame_timeout_s, send_timeout_s, open_timeout_s, attach_timeout_s, close_timeout_s, health_timeout_s, "
        "lost_client_grace_s, session_memory_bytes, session_processes, session_cpu_weight, session_time_s, "
        "adoption_timeout_s",
        "3: limits.open_timeout_s: expected `float` > 0.0; it is 0",
        "5: devices.ids: expected `int`, got `str` at item [1]; it is [1, 'a']",
        "6: devices.platform: expected `str` matching regex '^[a-z][a-z0-9_]{0,30}$'; it is 'GPU 1'",
        "8: log.level: expected one of 'debug', 'info', 'warning', 'error'; it is true",
        "9: bogus: unknown section; there are [daemon], [listen], [tls], [devices], [limits], [metrics], [log]",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("limits = 3", "1: limits: expected a table, [limits], found 3"),
        ("[devices]\nids = [1, 1]", "2: devices.ids: each device once; it is [1, 1]"),
        ('[daemon]\nruntime_dir = "x"', "2: daemon.runtime_dir: expected an absolute path; it is 'x'"),
        ('[daemon]\nstate_dir = "x"', "2: daemon.state_dir: expected an absolute path; it is 'x'"),
        ('[daemon]\nimport_paths = ["x"]', "2: daemon.import_paths: expected absolute paths; 'x' is not one"),
        ('[listen]\nadmin_group = "no-such"', "2: listen.admin_group: there is no group 'no-such' on this host"),
        ('[listen]\nread_group = "no-such"', "2: listen.read_group: there is no group 'no-such' on this host"),
        ('[listen]\nadmin_socket = "a"', "2: listen.admin_socket: expected an absolute path; it is 'a'"),
        (
            '[listen]\nsession = ["unix:/a", "unix:/a"]',
            "2: listen.session: each endpoint once; it is ['unix:/a', 'unix:/a']",
        ),
        (
            '[listen]\nsession = ["unix:/a"]\nadmin_socket = "/a"',
            "3: listen.admin_socket: sessions are served there (/a); expected a socket of its own",
        ),
        (
            '[daemon]\nruntime_dir = "/run/x"\n[listen]\nsession = ["unix:/run//x/admin.sock"]',
            "3: listen.admin_socket: sessions are served there (/run/x/admin.sock); expected a socket of its own",
        ),
        ('[daemon]\nruntime_dir = "/a\\u0000"', r"2: daemon.runtime_dir: expected an absolute path; it is '/a\x00'"),
        ('[listen]\nread_group = "\\u0000"', r"2: listen.read_group: there is no group '\x00' on this host"),
        ('[log]\n"\\u001b[2J" = 1', r"1: 'log.\x1b[2J': unknown key; [log] takes level"),
        (
            '[devices]\nplatform = "smi"',
            '2: devices.platform: no device driver "smi": libslr_smi.so: cannot open shared object file: '
            "No such file or directory",
        ),
        ("[listen]\nsession = []", "2: listen.session: expected `array` of length >= 1; it is []"),
        ("a = ", "1: not TOML: Invalid value (column 5)"),
    ],
)
def test_a_problem_is_named_with_line_and_key(tmp_path: Path, text: str, expected: str) -> None:  # D8
    assert problems(tmp_path, text) == [expected]


def test_a_host_without_devices_needs_no_driver(tmp_path: Path) -> None:
    assert load(write(tmp_path, '[devices]\nplatform = "smi"\nids = []')).devices == ()


def test_sockets_that_would_have_too_long_a_name_are_the_folders_problem(tmp_path: Path) -> None:  # D8
    (problem,) = problems(tmp_path, f'[daemon]\nruntime_dir = "/{"x" * 200}"')
    assert problem.startswith("2: daemon.runtime_dir: sockets are made there: endpoint 'unix:/xxx")


@pytest.mark.parametrize("address", ["0.0.0.0:7390", "192.168.1.4:7390", "[::]:7390", "[2001:db8::1]:7390"])
def test_a_listener_that_others_could_reach_is_refused_and_told_why(address: str) -> None:  # D3
    problem = endpoint_problem(address)
    assert problem is not None
    assert "not a loopback address" in problem
    assert "listen at 127.0.0.1" in problem
    assert "listen.insecure_tcp = true and tls.insecure_off = true" in problem
    assert endpoint_problem(address, tls=True) is None
    assert (endpoint_problem(address, insecure=True) is None) == (address not in ("0.0.0.0:7390", "[::]:7390"))


def tls_files(folder: Path, *, key_mode: int = 0o600) -> str:
    """[tls] with files that are there."""
    for name in ("certificate", "key", "ca"):
        (folder / name).touch()
    (folder / "key").chmod(key_mode)
    return "[tls]\n" + "".join(f'{name} = "{folder}/{name}"\n' for name in ("certificate", "key", "ca"))


@pytest.mark.parametrize("address", ["[::ffff:0.0.0.0]:7390", "[::ffff:10.0.0.2]:7390"])
def test_an_ipv4_address_is_written_as_one(address: str) -> None:  # D3
    """In the guise of IPv6 "every address" would look like one of them."""
    for how in ({}, {"tls": True}, {"insecure": True}):
        assert "expected it without the ::ffff:" in str(endpoint_problem(address, **how))


def test_with_tls_or_two_insecure_settings_any_address_may_be_listened_at(tmp_path: Path) -> None:  # D3
    secure = load(write(tmp_path, f'{tls_files(tmp_path)}[listen]\nsession = ["192.168.1.4:7390", "0.0.0.0:7391"]'))
    assert secure.tls == TlsFiles(tmp_path / "certificate", tmp_path / "key", tmp_path / "ca")
    assert not secure.insecure_tcp
    insecure = '[listen]\nsession = ["192.168.1.4:7390"]\ninsecure_tcp = true\n[tls]\ninsecure_off = true\n'
    assert load(write(tmp_path, insecure)).insecure_tcp
    (problem,) = problems(tmp_path, insecure.replace("192.168.1.4", "0.0.0.0"))
    assert problem == "2: listen.session: '0.0.0.0:7390' is every address of this host; name the one meant"
    assert load(write(tmp_path, ""), listen=("127.0.0.1:7390",)).tls is None
    with pytest.raises(ConfigError, match="not a loopback address"):
        load(write(tmp_path, ""), listen=("192.168.1.4:7390",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[listen]\ninsecure_tcp = true",
            "2: listen.insecure_tcp: lets in whoever reaches the port; to say that it is",
        ),
        (
            "[tls]\ninsecure_off = true",
            "2: tls.insecure_off: lets in whoever reaches the port; to say that it is meant",
        ),
        ('[tls]\nca = "ca.pem"', "2: tls.ca: expected an absolute path; it is 'ca.pem'"),
        ('[tls]\nca = "/nowhere/ca.pem"', "2: tls.ca: /nowhere/ca.pem: No such file or directory"),
        ('[tls]\nca = "/tmp"', "2: tls.ca: /tmp is not a file"),
        ('[tls]\nca = "/a\\u0000"', r"2: tls.ca: expected an absolute path; it is '/a\x00'"),
        ('[tls]\nca = "/etc/passwd"', "1: tls: TLS needs certificate, key and ca; there is no certificate and no key"),
        ('[tls]\nclients = ["ab:cd"]', "2: tls.clients: expected `str` matching regex"),
        (
            f'[tls]\nclients = ["sha256:{"a" * 64}"]',
            "2: tls.clients: names clients of TLS, but there is no certificate",
        ),
    ],
)
def test_tls_settings_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, expected: str) -> None:  # D3, D8
    assert expected in "\n".join(problems(tmp_path, text))


def test_a_key_that_others_may_read_and_tls_that_is_off_and_on_are_refused(tmp_path: Path) -> None:  # D3
    assert problems(tmp_path, tls_files(tmp_path, key_mode=0o644)) == [
        f"3: tls.key: {tmp_path}/key has mode 0644: a key is for its owner; chmod 600 {tmp_path}/key"
    ]
    both = f"[listen]\ninsecure_tcp = true\n{tls_files(tmp_path)}insecure_off = true"
    (problem,) = problems(tmp_path, both)
    assert problem.endswith("TLS is configured; expected either its files or the insecure settings")


@pytest.mark.parametrize(
    "endpoint",
    ["7390", "host:7390", "::1:7390", "127.0.0.1:0", "127.0.0.1:70000", "unix:", "unix:a", "unix:/" + "a" * 107],
)
def test_an_endpoint_that_cannot_be_listened_at_is_refused(endpoint: str) -> None:
    assert endpoint_problem(endpoint)


def test_a_runtime_directory_too_deep_for_sockets_is_refused() -> None:  # D8
    with pytest.raises(ConfigError, match="has at most 107 bytes"):
        load(runtime_dir=Path("/" + "a" * 100), environ={})


def test_the_example_for_operators_shows_every_setting_and_its_default(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/operators.md").read_text().split("```toml\n")[1].split("```")[0]
    path = write(tmp_path, text)
    made = {"RUNTIME_DIRECTORY": "/run/simplerd", "STATE_DIRECTORY": "/var/lib/simplerd"}
    environ = {**made, "SYSTEMD_EXEC_PID": str(os.getpid())}
    defaults = load(environ=environ)
    assert replace(load(path), source="") == replace(defaults, source="")
    for section, shape in SECTIONS.items():
        assert f"[{section}]" in text
        assert all(f"{key} = " in text for key in shape.__struct_fields__)


@pytest.mark.parametrize("endpoint", ["0.0.0.0:9469", "10.0.0.2:9469", "host:9469", "unix:/run/m.sock", "[::]:9469"])
def test_metrics_are_served_on_this_host_only(tmp_path: Path, endpoint: str) -> None:
    [problem] = problems(tmp_path, f'[metrics]\nlisten = "{endpoint}"\n')
    assert "metrics.listen: expected a loopback address and port" in problem
