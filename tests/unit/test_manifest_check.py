"""Manifests that a host cannot carry out: each problem named with its field, all of them at once."""

from pathlib import Path
from typing import Any

import pytest

from simpler.errors import ArgumentError
from simpler.wire.control_messages import Manifest, SessionLimits
from simplerd.manifest_check import check_manifest

GOOD: dict[str, Any] = {"platform": "sim", "runtime": "graph", "device_ids": [0], "num_sub_workers": 2}


def check(import_roots: list[str] | None = None, **fields: Any) -> Manifest:
    return check_manifest(Manifest(**(GOOD | fields)), platform="sim", devices=(0, 1), import_roots=import_roots)


def test_a_manifest_that_fits_passes() -> None:
    check(env={"MODE": "fast", "HOME": None}, import_paths=["/opt/job"], imports=["job.steps:train"], name="digits")


@pytest.mark.parametrize(
    ("fields", "field", "why"),
    [
        ({"platform": "a9"}, "platform", "'a9' is not what this host has, which is 'sim'"),
        ({"runtime": "flow"}, "runtime", "expected 'graph'"),
        ({"device_ids": [0, 1, 0]}, "device_ids", "0 named more than once"),
        ({"device_ids": [7]}, "device_ids", "7 not on this host, which has 0, 1"),
        ({"num_sub_workers": 65}, "num_sub_workers", "65; at most 64"),
        (
            {"num_sub_workers": 3, "limits": SessionLimits(processes=5)},
            "limits",
            "5 processes and threads are too few; it starts with 7",
        ),
        ({"spin_us": 2_000_000}, "spin_us", "at most 1000000"),
        ({"env": {"A-B": "1"}}, "env", "'A-B' is not a variable's name"),
        ({"env": {"NOTIFY_SOCKET": "/x"}}, "env", "NOTIFY_SOCKET is the service manager's"),
        ({"env": {"LISTEN_FDS": "1"}}, "env", "LISTEN_FDS is the service manager's"),
        ({"env": {"A": "b\0c"}}, "env", "the value of A has a zero byte"),
        ({"import_paths": ["job"]}, "import_paths", "'job' is not an absolute path"),
        ({"import_paths": ["/opt/a\0b"]}, "import_paths", r"'/opt/a\x00b' is not an absolute path"),
        ({"import_paths": ["/opt/../root"]}, "import_paths", "'/opt/../root' is not an absolute path without '..'"),
        (
            {"env": {"A": "x" * 300_000}},
            "env",
            "300008 bytes; at most 262144",
        ),
        ({"import_paths": ["/a" * 40_000]}, "import_paths", "bytes; at most 65536 in all of them"),
        ({"imports": ["job.steps"]}, "imports", "job.steps"),
        ({"name": "a\nb"}, "name", "printable"),
        ({"name": "n" * 65}, "name", "at most 64"),
    ],
)
def test_what_does_not_fit_is_named_with_its_field(fields: dict[str, Any], field: str, why: str) -> None:  # R1
    with pytest.raises(ArgumentError) as caught:
        check(**fields)
    assert f"{field}: " in str(caught.value)
    assert why in str(caught.value)
    assert caught.value.context["field"] == field


def test_all_problems_are_reported_at_once() -> None:  # R1
    with pytest.raises(ArgumentError) as caught:
        check(platform="a9", device_ids=[9, 9], env={"1": ""})
    for field in ("platform: ", "device_ids: 9 named", "device_ids: 9 not on", "env: '1'"):
        assert field in str(caught.value)


def test_only_users_of_this_host_choose_their_import_paths_freely(tmp_path: Path) -> None:  # C4
    (tmp_path / "digits").mkdir()
    check(import_roots=[str(tmp_path)], import_paths=[f"{tmp_path}/digits"])
    with pytest.raises(ArgumentError, match="letters': No such file or directory"):
        check(import_roots=[str(tmp_path)], import_paths=[f"{tmp_path}/letters"])
    with pytest.raises(ArgumentError, match=r"'/opt/job' is not under daemon\.import_paths .*\(/srv/jobs\)"):
        check(import_roots=["/srv/jobs"], import_paths=["/opt/job"])
    with pytest.raises(ArgumentError, match="none are set"):
        check(import_roots=[], import_paths=["/srv/jobsite"])


def test_a_link_out_of_the_allowed_folders_is_followed_and_refused(tmp_path: Path) -> None:  # C4
    allowed, elsewhere = tmp_path / "allowed", tmp_path / "elsewhere"
    for folder in (allowed, elsewhere, allowed / "job"):
        folder.mkdir()
    (allowed / "out").symlink_to(elsewhere)
    (allowed / "in").symlink_to(allowed / "job")
    (tmp_path / "roots").symlink_to(allowed)
    with pytest.raises(ArgumentError, match=r"allowed/out' is not under daemon\.import_paths"):
        check(import_roots=[str(allowed)], import_paths=[str(allowed / "out")])
    kept = check(import_roots=[str(tmp_path / "roots")], import_paths=[str(tmp_path / "roots" / "in")])
    assert kept.import_paths == [str(allowed / "job")]  # no link that could be changed before it is used
