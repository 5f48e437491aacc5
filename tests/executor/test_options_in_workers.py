"""The options of a call: what surrounds it, and nothing else."""

from __future__ import annotations

import colorsys
import importlib
import shutil
import sys
from pathlib import Path

import msgpack
import numpy as np
import pytest

from executor import calls, situations
from executor.conftest import MakeExecutor
from simpler.errors import TaskError
from simpler.executor import SimplerExecutor

WAIT_S = 60
MIB = 1 << 20


@pytest.fixture
def one_worker(make_executor: MakeExecutor) -> SimplerExecutor:
    """An executor whose calls all run in one process."""
    return make_executor(1)


def folder_with(folder: Path, **modules: str) -> str:
    """A folder of modules, by their sources."""
    folder.mkdir()
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    return str(folder)


def test_a_call_runs_in_the_folder_that_it_asks_for(one_worker: SimplerExecutor, tmp_path: Path) -> None:
    elsewhere = one_worker.options(cwd=tmp_path)
    assert elsewhere.submit(situations.folder).result(WAIT_S) == tmp_path
    assert list(elsewhere.map(lambda _: situations.folder(), range(3), timeout=WAIT_S)) == [tmp_path] * 3
    assert one_worker.submit(situations.folder).result(WAIT_S) == Path.cwd()


def test_a_folder_that_is_not_there_is_the_calls_error(one_worker: SimplerExecutor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing") as caught:
        one_worker.options(cwd=tmp_path / "missing").submit(situations.folder).result(WAIT_S)
    assert any("option cwd" in note for note in caught.value.__notes__)


# X3
def test_variables_are_set_and_unset_for_one_call(one_worker: SimplerExecutor) -> None:
    changed = one_worker.options(env_updates={"SITUATION": "new", "HOME": None})
    assert changed.submit(situations.variables, "SITUATION", "HOME").result(WAIT_S) == ["new", None]
    assert changed.submit(situations.variable_of_a_child, "HOME").result(WAIT_S) == "unset"
    situation, home = one_worker.submit(situations.variables, "SITUATION", "HOME").result(WAIT_S)
    assert (situation, home is None) == (None, False)


def test_a_time_zone_is_that_of_one_call(one_worker: SimplerExecutor) -> None:
    before = one_worker.submit(situations.time_zone).result(WAIT_S)
    assert one_worker.options(env_updates={"TZ": "XYZ-7"}).submit(situations.time_zone).result(WAIT_S) == "XYZ"
    assert one_worker.submit(situations.time_zone).result(WAIT_S) == before


@pytest.mark.slow
def test_a_call_gets_no_more_memory_than_it_may_have(one_worker: SimplerExecutor) -> None:
    bounded = one_worker.options(memory_bytes=64 * MIB)
    with pytest.raises(MemoryError):
        bounded.submit(situations.take_memory, 256 * MIB).result(WAIT_S)
    pid = bounded.submit(situations.take_memory, 16 * MIB).result(WAIT_S)
    assert one_worker.submit(situations.take_memory, 256 * MIB).result(WAIT_S) == pid


@pytest.mark.slow
def test_a_call_that_has_all_its_memory_in_use_can_still_tell_so(make_session_executor: MakeExecutor) -> None:
    one_worker = make_session_executor(1)
    bounded, pid = one_worker.options(memory_bytes=8 * MIB), one_worker.submit(calls.pid).result(WAIT_S)
    for size in range(1, 20, 2):
        error = bounded.submit(situations.fill_memory, size).exception(WAIT_S)
        assert isinstance(error, (MemoryError, SystemError))  # CPython raises the latter where it forgets which it was
    assert one_worker.submit(calls.pid).result(WAIT_S) == pid


# X9
def test_a_module_on_the_path_shadows_an_installed_one_for_that_call_only(
    one_worker: SimplerExecutor, tmp_path: Path
) -> None:
    mine = one_worker.options(python_path=[folder_with(tmp_path / "mine", colorsys="HERE = 'mine'")])
    assert one_worker.submit(situations.file_of, "colorsys").result(WAIT_S) == colorsys.__file__
    before = one_worker.submit(situations.module_path).result(WAIT_S)
    for _ in range(2):
        assert mine.submit(situations.attribute, "colorsys", "HERE").result(WAIT_S) == "mine"
        assert one_worker.submit(situations.file_of, "colorsys").result(WAIT_S) == colorsys.__file__
        assert one_worker.submit(situations.module_path).result(WAIT_S) == before


# X9
@pytest.mark.parametrize("name", ["types", "traceback", "io", "pickle", "cloudpickle", "copyreg", "os"])
def test_what_carries_calls_works_whatever_is_on_the_path(executor: SimplerExecutor, tmp_path: Path, name: str) -> None:
    here = executor.options(python_path=[folder_with(tmp_path / "here", **{name: "HERE = 'mine'"})])

    class OfATest(Exception):
        pass

    def fail() -> None:
        raise OfATest("by value")

    assert here.submit(lambda: [lambda: 7]).result(WAIT_S)[0]() == 7
    with pytest.raises((OfATest, TaskError), match="by value"):
        here.submit(fail).result(WAIT_S)
    assert executor.submit(calls.add, 1).result(WAIT_S) == 2


# X9
@pytest.mark.parametrize(
    "thing",
    ["type('Slots', (), {'__slots__': ()})()", "type('Angry', (), {'__getattr__': lambda self, name: 1 / 0})()", "5"],
)
def test_what_answers_for_a_module_on_the_path_is_gone_afterwards_too(
    one_worker: SimplerExecutor, tmp_path: Path, thing: str
) -> None:
    source = f"import colorsys, sys\nsys.modules[__name__] = {thing}"
    here = one_worker.options(python_path=[folder_with(tmp_path / "here", answers=source, colorsys="HERE = 'mine'")])
    assert here.submit(situations.is_loaded_by_importing, "answers").result(WAIT_S)
    assert not one_worker.submit(situations.is_loaded, "answers").result(WAIT_S)
    assert one_worker.submit(situations.file_of, "colorsys").result(WAIT_S) == colorsys.__file__


# X9
def test_a_module_that_is_only_on_the_path_is_gone_afterwards(one_worker: SimplerExecutor, tmp_path: Path) -> None:
    there = one_worker.options(python_path=[folder_with(tmp_path / "there", only_there="HERE = 1")])
    assert there.submit(situations.attribute, "only_there", "HERE").result(WAIT_S) == 1
    with pytest.raises(ModuleNotFoundError, match="only_there"):
        one_worker.submit(situations.attribute, "only_there", "HERE").result(WAIT_S)


# X9
def test_a_function_and_a_class_may_be_from_the_path(
    one_worker: SimplerExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "class Answer:\n  version = {0!r}\ndef answer():\n  return Answer.version, Answer()\n"
    paths = [folder_with(tmp_path / version, from_there=source.format(version)) for version in ("new", "old")]
    with monkeypatch.context() as patch:
        patch.syspath_prepend(paths[0])
        module = importlib.import_module("from_there")
    for path in (*paths, *paths):
        version, made = one_worker.options(python_path=[path]).submit(module.answer).result(WAIT_S)
        assert (version, type(made)) == (Path(path).name, module.Answer)
    del sys.modules["from_there"]


# X9
def test_a_module_that_took_something_from_the_path_is_forgotten_with_it(
    make_executor: MakeExecutor, tmp_path: Path
) -> None:
    always = folder_with(tmp_path / "always", dep="VERSION = 'always'", user="import dep\nVERSION = dep.VERSION")
    now = folder_with(tmp_path / "now", dep="VERSION = 'now'")
    executor = make_executor(1, initializer=situations.lengthen_path, initargs=(always,))
    assert executor.options(python_path=[now]).submit(situations.attribute, "user", "VERSION").result(WAIT_S) == "now"
    assert executor.submit(situations.attribute, "user", "VERSION").result(WAIT_S) == "always"


# X9
def test_a_package_with_extension_modules_may_be_on_the_path_of_many_calls(
    one_worker: SimplerExecutor, tmp_path: Path
) -> None:
    shutil.copytree(Path(msgpack.__file__).parent, tmp_path / "msgpack")
    there = one_worker.options(python_path=[tmp_path])
    for _ in range(2):
        assert there.submit(situations.file_of, "msgpack").result(WAIT_S) == str(tmp_path / "msgpack/__init__.py")
        assert there.submit(situations.file_of, "msgpack._cmsgpack").result(WAIT_S).startswith(str(tmp_path))
        assert one_worker.submit(situations.file_of, "msgpack").result(WAIT_S) == msgpack.__file__


# X9
def test_the_folder_of_what_is_installed_may_be_on_the_path(one_worker: SimplerExecutor) -> None:
    installed = one_worker.options(python_path=[Path(msgpack.__file__).parents[1]])
    loaded = one_worker.submit(situations.identity_of, "msgpack").result(WAIT_S)
    for _ in range(2):
        assert installed.submit(situations.identity_of, "msgpack").result(WAIT_S) == loaded
        for each in (installed, one_worker):
            assert each.submit(situations.attribute, "numpy", "__version__").result(WAIT_S) == np.__version__
