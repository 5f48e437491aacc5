"""What a Worker takes, how it starts, and what a failed start leaves: nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from simpler import RemoteCallable, RemoteWorkerSpec, Worker, WorkerType
from simpler.errors import (
    ArgumentError,
    CapacityError,
    ConnectError,
    DeviceError,
    LevelError,
    RegistrationError,
    SimplerError,
    StartupError,
    StateError,
)
from simpler.spawn import Spawner


@pytest.mark.parametrize(
    ("level", "accepted"),
    [
        (3, {WorkerType.CHIP, WorkerType.SUB}),
        (4, {WorkerType.DIST, WorkerType.SUB}),
        (6, {WorkerType.DIST, WorkerType.SUB}),
    ],
)
def test_a_level_says_what_it_takes(level: int, accepted: set[WorkerType]) -> None:  # L1
    worker = Worker(level)
    assert {kind for kind in WorkerType if worker.accepts_worker_type(kind)} == accepted


def test_what_is_no_worker_type_is_refused_rather_than_denied() -> None:  # L1
    with pytest.raises(ArgumentError, match=r"WorkerType\.SUB, not 'SUB'"):
        Worker(3).accepts_worker_type("SUB")  # type: ignore[arg-type]


def test_wrong_wiring_fails_at_once_and_names_the_level(tmp_path: Path) -> None:  # L1
    with pytest.raises(LevelError, match=r"level 4 takes DIST and SUB"):
        Worker(4, device_ids=[0])
    with pytest.raises(LevelError, match=r"level 3 takes CHIP and SUB"):
        Worker(3).add_remote_worker(RemoteWorkerSpec(f"unix:{tmp_path}/none"))
    with pytest.raises(LevelError, match="3 or higher"):
        Worker(2)


@pytest.mark.parametrize(
    "options",
    [
        {"level": "3"},
        {"level": True},
        {"device_ids": [0, 1, 0]},
        {"device_ids": [-1]},
        {"device_ids": ["0"]},
        {"num_sub_workers": -1},
        {"num_sub_workers": 1.5},
        {"num_sub_workers": 1 << 20},
        {"heap_bytes": 0},
        {"heap_bytes": 1 << 60},
        {"heap_bytes": "1G"},
        {"startup_timeout_s": 0},
        {"startup_timeout_s": float("nan")},
        {"spin_us": -1},
        {"max_tasks": 0},
        {"max_edges": 1 << 30},
        {"max_runs": True},
        {"max_callables": 10.0},
        {"preload": "numpy"},
        {"env": {"A=B": "x"}},
        {"env": {"A": 1}},
        {"env": {"A": "\0"}},
        {"name": 7},
        {"platform": None},
        {"platform": "../sim"},
        {"runtime": ""},
        {"device_ids": 5},
        {"device_ids": [1 << 40]},
        {"startup_timeout_s": True},
        {"env": [("A", "x")]},
        {"name": "two\nlines"},
        {"preload": ["no module"]},
        {"import_paths": "/tmp"},
        {"import_paths": ["/there/is/none"]},
        {"spawner": "one"},
        {"runtime": "x"},
    ],
    ids=str,
)
def test_impossible_values_are_refused_at_once(options: dict[str, Any]) -> None:  # L4
    with pytest.raises(ArgumentError, match=next(iter(options))):
        Worker(**{"level": 3, **options})


def test_unknown_keywords_are_refused_at_once() -> None:  # L4
    with pytest.raises(TypeError, match="num_workers"):
        Worker(3, num_workers=2)  # type: ignore[call-arg]


def test_worker_ids_count_local_workers_first_and_are_never_renumbered(tmp_path: Path) -> None:  # L3
    worker = Worker(4, num_sub_workers=2)
    ids = [worker.add_remote_worker(RemoteWorkerSpec(f"unix:{tmp_path}/{name}")) for name in "ab"]
    assert ids == [2, 3]


@pytest.mark.slow
def test_init_returns_with_all_ready_and_is_for_once() -> None:  # W1, W2
    with Worker(3, num_sub_workers=3, name="tree") as worker:
        states = [each.state.name for each in worker.stats().workers]
        assert set(states) <= {"SPINNING", "PARKED"}
        assert len(states) == 3
        with pytest.raises(StateError, match="READY"):
            worker.init()
    with pytest.raises(StateError, match="CLOSED"):
        worker.init()


@pytest.mark.slow
def test_workers_are_named_for_process_lists() -> None:
    with Worker(3, num_sub_workers=2, name="tree") as worker:
        pids = [each.pid for each in worker.stats().workers]
        assert [Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids] == ["tree.sub0", "tree.sub1"]


@pytest.mark.slow
def test_env_and_preload_reach_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "preloaded_module.py").write_text("import os; WHO = os.getppid()")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("UNWANTED", "here")

    def look(args: Any) -> Any:
        import os
        import sys

        module = sys.modules.get("preloaded_module")
        return os.environ.get("WANTED"), os.environ.get("UNWANTED"), getattr(module, "WHO", None), os.getpid()

    options = {"env": {"WANTED": "yes", "UNWANTED": None}, "preload": ["preloaded_module"]}
    with Worker(3, num_sub_workers=1, **options) as worker:  # type: ignore[arg-type]
        handle = worker.register(look)
        wanted, unwanted, imported_by, pid = worker.run(lambda orch, args, config: orch.submit_sub(handle)).result()
    assert (wanted, unwanted) == ("yes", None)
    assert imported_by == os.getpid() != pid  # by the spawner, before the fork


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "text", "expected"),
    [
        ("raises_on_import", "raise ValueError('not today')", "not today"),
        ("dies_on_import", "import os; os.write(2, b'last words'); os._exit(7)", "code 7"),
    ],
)
def test_a_preload_that_fails_is_named_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, text: str, expected: str
) -> None:  # W1, W2
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = Worker(3, num_sub_workers=1, preload=[module])
    with pytest.raises(StartupError, match=expected):
        worker.init()
    with pytest.raises(StateError, match="FAILED"):
        worker.init()
    worker.close()


@pytest.mark.slow
def test_a_preload_that_hangs_is_named_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W2: with the spawner itself stuck, it is the program that says what it waited for, and kills it."""
    (tmp_path / "hangs_on_import.py").write_text("import signal; signal.pause()")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("simpler.local_workers._REPORT_S", 0.1)
    monkeypatch.setattr("simpler.spawn._REAP_TIMEOUT_S", 0.1)
    worker = Worker(3, num_sub_workers=1, preload=["hangs_on_import"], startup_timeout_s=0.3)
    with pytest.raises(
        StartupError, match=r"not ready within 0\.3 s \(startup_timeout_s\); it imports .*hangs_on_import"
    ):
        worker.init()


DYING = """
import os, sys
def __getattr__(name):
    {deed}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("deed", "expected"),
    [
        ("print('my last words', file=sys.stderr); os.kill(os.getpid(), 9)", r"(?s)sub\d .*SIGKILL.*my last words"),
        ("print('so long', file=sys.stderr); os._exit(0)", r"(?s)sub\d .*code 0.*so long"),
        (
            "print('thinking', file=sys.stderr); import signal; signal.pause()",
            r"(?s)startup_timeout_s.*sub\d.*thinking",
        ),
        ("raise OSError('disk on fire')", "disk on fire"),
    ],
    ids=["killed", "left", "hung", "raised"],
)
def test_a_child_that_dies_or_hangs_while_starting_is_named_with_its_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str, expected: str
) -> None:  # W1, W2
    """The callable is loaded before READY, and loading it does the deed."""
    (tmp_path / "bad_callables.py").write_text(DYING.format(deed=deed))
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = Worker(3, num_sub_workers=2, startup_timeout_s=1.5)
    worker.register(RemoteCallable("bad_callables:anything"))
    with pytest.raises(SimplerError, match=expected):
        worker.init()
    assert worker.region is None


@pytest.mark.slow
def test_a_device_without_a_driver_is_named_and_nothing_else_said(capfd: pytest.CaptureFixture[str]) -> None:  # W1
    with pytest.raises(DeviceError, match='no device driver "absent"'):
        Worker(3, device_ids=(0, 1), platform="absent").init()
    assert "Traceback" not in capfd.readouterr().err


def test_a_remote_child_that_cannot_be_reached_undoes_the_local_ones(tmp_path: Path) -> None:  # W1, R5
    worker = Worker(4, num_sub_workers=1)
    worker.add_remote_worker(RemoteWorkerSpec(f"unix:{tmp_path}/nobody.sock"))
    with pytest.raises(ConnectError):
        worker.init()
    worker.close()


@pytest.mark.slow
def test_children_are_added_before_init(tmp_path: Path) -> None:  # L2
    with Worker(4, num_sub_workers=1) as worker, pytest.raises(StateError, match="before init"):
        worker.add_remote_worker(RemoteWorkerSpec(f"unix:{tmp_path}/none"))


@pytest.mark.slow
def test_a_start_that_fails_ends_the_spawner_that_it_was_given() -> None:  # W1
    spawner = Spawner.exec(preload=[], name="given")
    worker = Worker(4, spawner=spawner)
    worker.register(len)
    with pytest.raises(RegistrationError):
        worker.init()
    assert spawner.pidfd < 0


@pytest.mark.slow
def test_a_start_without_enough_descriptors_says_so_and_leaves_nothing() -> None:  # W1, W2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))  # the spawner needs three for each worker
    try:
        with pytest.raises(StartupError, match=r"sub\d+ could not be forked: .*Too many open files.*ulimit"):
            Worker(3, num_sub_workers=40).init()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def failure_with_descriptors(limit: int) -> StartupError | None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    worker = Worker(3, num_sub_workers=1)
    try:
        worker.init()
    except StartupError as error:
        return error
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        worker.close()
    return None


@pytest.mark.slow
def test_wherever_descriptors_run_out_the_start_is_undone_and_says_so() -> None:  # W1
    """Each further one lets the start get a little further, until it succeeds."""
    with Worker(3):  # which imports what is needed
        pass
    lowest = os.dup(0)
    os.close(lowest)
    failures = list(itertools.takewhile(bool, map(failure_with_descriptors, range(lowest, lowest + 40))))
    assert 2 <= len(failures) < 40
    for failure in failures:
        assert re.search("Too many open files.*ulimit -n", str(failure))


LITTLE_MEMORY = """
import resource
from pathlib import Path
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 3 * 2**29, resource.RLIM_INFINITY))
"""


@pytest.mark.slow
def test_a_worker_that_cannot_map_the_heap_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "little_memory.py").write_text(LITTLE_MEMORY)  # the spawner maps 1 GiB, its children twice
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(StartupError, match=r"worker sub0 .* before it was READY(?s:.*)lower heap_bytes") as caught:
        Worker(3, num_sub_workers=1, heap_bytes=1 << 30, preload=["little_memory"]).init()
    assert "Traceback" not in str(caught.value)  # W2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executable", "expected"),
    [("", "no Python interpreter"), ("/there/is/none", "could not start.*No such file"), ("/bin/true", "code 0")],
)
def test_a_start_without_an_interpreter_says_so(
    monkeypatch: pytest.MonkeyPatch, executable: str, expected: str
) -> None:  # W1
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(StartupError, match=expected):
        Worker(3, num_sub_workers=1).init()


@pytest.mark.slow
def test_a_spawner_that_is_killed_while_starting_is_named_and_undone(monkeypatch: pytest.MonkeyPatch) -> None:  # W1, W2
    send = Spawner.send

    def killed_before(spawner: Spawner, message: Any, fds: Any = ()) -> None:
        os.kill(spawner.pid, signal.SIGKILL)
        send(spawner, message, fds)

    monkeypatch.setattr(Spawner, "send", killed_before)
    with pytest.raises(StartupError, match=r"spawner \(pid \d+\) ended with signal 9"):
        Worker(3, num_sub_workers=1).init()


@pytest.mark.slow
def test_a_start_is_undone_when_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:  # W1
    receive = Spawner.receive

    def interrupted(spawner: Spawner, timeout_s: float | None) -> Any:
        signal.raise_signal(signal.SIGINT)
        return receive(spawner, timeout_s)

    monkeypatch.setattr(Spawner, "receive", interrupted)
    worker = Worker(3, num_sub_workers=2, device_ids=[0])
    with pytest.raises(KeyboardInterrupt):
        worker.init()
    with pytest.raises(StateError, match="FAILED"):
        worker.init()


def test_callables_that_do_not_fit_in_the_heap_fail_the_start_and_name_the_setting() -> None:  # W1
    data = os.urandom(1 << 20)
    worker = Worker(3, num_sub_workers=1, heap_bytes=1 << 19)
    worker.register(lambda args: data)
    with pytest.raises(CapacityError, match="heap_bytes"):
        worker.init()
    assert worker.region is None


@pytest.mark.slow
def test_init_returns_after_the_slowest_worker_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # W2
    """A callable's module is imported before READY, and each importer waits for a byte."""
    fifo, log = tmp_path / "fifo", tmp_path / "log"
    os.mkfifo(fifo)
    pipe = os.open(fifo, os.O_RDWR)
    (tmp_path / "slow_callables.py").write_text(
        f"import os\nopen({str(fifo)!r}, 'rb', 0).read(1)\n"
        f"with open({str(log)!r}, 'a') as log: print(os.getpid(), file=log)\n"
        "def loaded(args): return os.getpid()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = Worker(3, num_sub_workers=2)
    handle = worker.register(RemoteCallable("slow_callables:loaded"))
    receive = Spawner.receive

    def one_is_waited_for(spawner: Spawner, timeout_s: float | None) -> Any:
        os.write(pipe, b".")
        with pytest.raises(TimeoutError):
            receive(spawner, 0.2)
        os.write(pipe, b".")
        return receive(spawner, timeout_s)

    with monkeypatch.context() as patch:
        patch.setattr(Spawner, "receive", one_is_waited_for)
        worker.init()
    with contextlib.closing(worker):
        pids = {each.pid for each in worker.stats().workers}
        assert {int(line) for line in log.read_text().split()} == pids
        assert worker.run(lambda orch, args, config: orch.submit_sub(handle)).result() in pids
    os.close(pipe)


def test_a_callable_that_nobody_can_run_is_refused() -> None:  # C9
    with pytest.raises(RegistrationError, match="num_sub_workers") as caught:
        Worker(3).register(len)
    assert caught.value.code == "CALLABLE_KIND_UNSUPPORTED"
    worker = Worker(4)
    worker.register(len)
    with pytest.raises(RegistrationError, match="add_remote_worker"):
        worker.init()
