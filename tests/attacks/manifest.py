"""The manifest: what a session may be made of, and from where it may import."""

from __future__ import annotations

from typing import Any

import msgpack

from attacks.scene import Scene, small
from attacks.table import attack
from simpler.wire.frames import MessageType as T


def wanted(scene: Scene, *, over_tcp: bool = False, **fields: Any) -> str:
    """What is said to an OPEN with this manifest."""
    raw = scene.control(scene.tcp() if over_tcp else None)
    raw.say(T.OPEN, {"manifest": small(**fields)})
    return raw.refusal()


@attack(r"import_paths: '/etc' is not under daemon\.import_paths")
def import_from_anywhere(scene: Scene) -> str:
    """A client from elsewhere that imports from /etc."""
    return wanted(scene, over_tcp=True, import_paths=["/etc"])


@attack(r"import_paths: .*is not an absolute path without '\.\.'")
def import_by_dots(scene: Scene) -> str:
    """An import path that leaves the allowed folder by '..'."""
    return wanted(scene, over_tcp=True, import_paths=[f"{scene.fortress.allowed}/../.."])


@attack(r"import_paths: .*-evil' is not under daemon\.import_paths")
def import_from_a_neighbour(scene: Scene) -> str:
    """An import path that begins with the name of the allowed folder, and is another."""
    return wanted(scene, over_tcp=True, import_paths=[f"{scene.fortress.allowed}-evil"])


@attack(r"import_paths: \d+ bytes; at most 65536 in all of them")
def import_from_a_path_of_many_folders(scene: Scene) -> str:
    """An import path of 120,000 folders, each of which would be looked at."""
    return wanted(scene, over_tcp=True, import_paths=["/a" * 120_000])


@attack(r"import_paths: .*Too many levels of symbolic links", logged=r"import_paths: .*characters in all")
def import_through_a_link_to_itself(scene: Scene) -> str:
    """Import paths through a link in the allowed folder that leads back to it, thousands of times."""
    (scene.fortress.allowed / "loop").symlink_to(".")
    scene.open.callback((scene.fortress.allowed / "loop").unlink)
    return wanted(scene, over_tcp=True, import_paths=[f"{scene.fortress.allowed}{'/loop' * 800}"] * 16)


@attack(r"import_paths: .*/out' is not under daemon\.import_paths")
def import_through_a_link(scene: Scene) -> str:
    """A link in the allowed folder that leads out of it."""
    (scene.fortress.allowed / "out").symlink_to("/usr")
    scene.open.callback((scene.fortress.allowed / "out").unlink)
    return wanted(scene, over_tcp=True, import_paths=[f"{scene.fortress.allowed}/out"])


@attack(r"CALLABLE_IMPORT_FAILED.*sly is /.*, which is not under the import paths")
def import_a_linked_module(scene: Scene) -> str:
    """A module in the allowed folder that is a link to a file outside."""
    outside = scene.fortress.allowed.parent / "outside.py"
    outside.write_text("raise SystemExit('code from outside has run')\n")
    link = scene.fortress.allowed / "sly.py"
    link.symlink_to(outside)
    scene.open.callback(link.unlink)
    return wanted(scene, over_tcp=True, import_paths=[str(scene.fortress.allowed)], imports=["sly:f"])


@attack(r"CALLABLE_IMPORT_FAILED.*there is no module os under the import paths")
def import_of_the_standard_library(scene: Scene) -> str:
    """os:system, which every Python has."""
    return wanted(scene, over_tcp=True, imports=["os:system"])


@attack(r"CALLABLE_IMPORT_FAILED.*(os is a module|there is no)")
def import_through_an_allowed_module(scene: Scene) -> str:
    """system of the os that an allowed module has imported."""
    module = scene.fortress.allowed / "innocent.py"
    module.write_text("import os\n")
    scene.open.callback(module.unlink)
    return wanted(scene, over_tcp=True, imports=["innocent:os.system"])


@attack(r"imports: .*the module name must be absolute, without leading dots")
def import_by_a_path(scene: Scene) -> str:
    """An import target that is a path."""
    return wanted(scene, over_tcp=True, imports=["../../etc/passwd:f"])


@attack(r"imports: .*is not an identifier")
def import_of_an_expression(scene: Scene) -> str:
    """An import target that is a call."""
    return wanted(scene, over_tcp=True, imports=["os:system('true')"])


@attack(r"import_paths: .*is not an absolute path")
def import_path_with_a_zero(scene: Scene) -> str:
    """An import path with a zero byte, where C ends a string."""
    return wanted(scene, import_paths=[f"{scene.fortress.allowed}\0/../../etc"])


@attack(r"env: NOTIFY_SOCKET is the service manager's")
def speak_to_systemd(scene: Scene) -> str:
    """A session that would speak to the service manager in the daemon's name."""
    return wanted(scene, env={"NOTIFY_SOCKET": "/run/systemd/notify"})


@attack(r"env: LISTEN_FDS is the service manager's")
def inherit_sockets(scene: Scene) -> str:
    """A session that takes itself for a service with inherited sockets."""
    return wanted(scene, env={"LISTEN_FDS": "4", "LISTEN_PID": "1"})


@attack(r"env: 'A=B' is not a variable's name")
def a_variable_in_a_name(scene: Scene) -> str:
    """A variable whose name holds another variable."""
    return wanted(scene, env={"A=B": "c"})


@attack(r"env: the value of A has a zero byte")
def a_zero_in_a_variable(scene: Scene) -> str:
    """A variable with a zero byte."""
    return wanted(scene, env={"A": "b\0LD_PRELOAD=/tmp/evil.so"})


@attack(r"env: 300008 bytes; at most 262144")
def a_huge_environment(scene: Scene) -> str:
    """A manifest larger than what a runner is told in one packet."""
    return wanted(scene, env={"A": "x" * 300_000})


@attack(r"BAD_PAYLOAD")
def import_paths_by_the_thousand(scene: Scene) -> str:
    """A manifest with 100,000 import paths."""
    return wanted(scene, import_paths=["/a"] * 100_000)


@attack(r"PAYLOAD_TOO_LARGE|BAD_PAYLOAD")
def a_manifest_of_megabytes(scene: Scene) -> str:
    """A manifest with a text of 4 MiB."""
    return wanted(scene, name="x" * (4 << 20))


@attack(r"name: .*expected at most 64 printable characters", logged=r"name: .*expected at most 64 printable")
def a_name_that_moves_the_cursor(scene: Scene) -> str:
    """A session's name with a terminal's control sequence, for the operator who lists it."""
    said = wanted(scene, name="\x1b[2J\x1b[Hroot@host# ")
    assert not any("\x1b" in line for line in scene.log())
    return said


@attack(r"num_sub_workers: 9223372036854775807; at most 64|num_sub_workers")
def workers_without_number(scene: Scene) -> str:
    """A session with 2**63 - 1 sub-workers."""
    return wanted(scene, num_sub_workers=(1 << 63) - 1)


@attack(r"manifest\.heap_bytes|heap_bytes")
def a_heap_of_exabytes(scene: Scene) -> str:
    """A session with a heap of 4 EiB."""
    return wanted(scene, heap_bytes=1 << 62)


@attack(r"device_ids: 65535 not on this host")
def a_device_that_there_is_not(scene: Scene) -> str:
    """A device that the host does not have."""
    return wanted(scene, device_ids=[65_535])


@attack(r"device_ids")
def a_negative_device(scene: Scene) -> str:
    """Device -1."""
    return wanted(scene, device_ids=[-1])


@attack(r"device_ids: 0 named more than once")
def a_device_twice(scene: Scene) -> str:
    """One device for two workers."""
    return wanted(scene, device_ids=[0, 0])


@attack(r"startup_timeout_s")
def a_start_that_takes_for_ever(scene: Scene) -> str:
    """A start-up deadline that is no number, so that nothing is ever later."""
    return wanted(scene, startup_timeout_s=float("nan"))


@attack(r"platform: '\.\./\.\./evil' is not what this host has")
def a_platform_that_is_a_path(scene: Scene) -> str:
    """A platform whose name would load a driver from elsewhere."""
    return wanted(scene, platform="../../evil")


@attack(r"unknown field `uid`|unknown field")
def a_uid_in_the_manifest(scene: Scene) -> str:
    """A manifest that says whose session it is."""
    return wanted(scene, uid=0)


@attack(r"ARGUMENT|BAD_PAYLOAD")
def a_field_twice(scene: Scene) -> str:
    """A manifest with one field twice, good first and bad second."""
    fields = msgpack.packb(small())
    twice = bytes([fields[0] + 1]) + fields[1:] + msgpack.packb("platform") + msgpack.packb("../evil")
    raw = scene.control()
    raw.say(T.OPEN, b"\x81" + msgpack.packb("manifest") + twice)
    return raw.refusal()
