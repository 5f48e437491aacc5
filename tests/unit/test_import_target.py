"""Import targets: their form, where their module may lie, and what failing imports say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simpler.callable_loading import load
from simpler.callables import RemoteCallable, content_of
from simpler.errors import RegistrationError
from simpler.import_target import import_callable


def refused(match: str) -> Any:
    return pytest.raises(RegistrationError, match=match, check=lambda error: error.code == "CALLABLE_IMPORT_FAILED")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of modules; what the test imports and adds to sys.path is undone."""
    modules, path = set(sys.modules), list(sys.path)
    root = tmp_path / "root"
    (root / "slrpkg").mkdir(parents=True)
    (root / "slrpkg" / "__init__.py").write_text("")
    (root / "slrpkg" / "tasks.py").write_text(
        "import os\nclass C:\n    @staticmethod\n    def f():\n        return 42\n"
    )
    yield root
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("slr"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("module", "exactly one colon"),
        ("a:b:c", "exactly one colon"),
        (7, "exactly one colon"),
        (":f", "'' is not an identifier"),
        ("m:", "'' is not an identifier"),
        (".m:f", "must be absolute"),
        ("a..b:f", "'' is not an identifier"),
        ("a/b:f", "'a/b' is not an identifier"),
        ("a:f()", r"'f\(\)' is not an identifier"),
        ("a:class", "'class' is not an identifier"),
        ("a:outer.<locals>.inner", "cannot be imported"),
        ("a:f ", "'f ' is not an identifier"),
    ],
)
def test_a_malformed_target_is_refused(target: Any, match: str) -> None:  # C4
    with refused(match):
        RemoteCallable(target)


def test_a_callable_under_the_import_paths_is_loaded(folder: Path) -> None:  # C4
    assert load(content_of(RemoteCallable("slrpkg.tasks:C.f")), [str(folder)])() == 42


def test_without_import_paths_what_this_process_can_import_is_allowed() -> None:
    assert load(content_of(RemoteCallable("posixpath:join")))("a", "b") == "a/b"


def test_an_empty_list_of_import_paths_allows_nothing() -> None:  # C4
    with refused("name them in RemoteWorkerSpec's import_paths"):
        import_callable("posixpath:join", [])


@pytest.mark.parametrize("module", ["posixpath", "sys", "slrpkg.absent"])
def test_a_module_elsewhere_is_refused(module: str, folder: Path) -> None:  # C4
    with refused(rf"there is no module {module} under the import paths {folder}(?!,)"):
        import_callable(f"{module}:f", [str(folder), str(folder)])


def test_a_symbolic_link_out_of_the_import_paths_is_refused_before_it_runs(folder: Path) -> None:  # C4
    outside = folder.parent / "outside.py"
    outside.write_text("raise AssertionError('was executed')")
    (folder / "slrlink.py").symlink_to(outside)
    with refused(f"module slrlink is {outside}, which is not under"):
        import_callable("slrlink:f", [str(folder)])


def test_a_module_already_loaded_from_elsewhere_is_refused(folder: Path) -> None:  # C4
    (folder / "posixpath.py").write_text("def join(): pass")
    with refused("module posixpath is .*, which is not under"):
        import_callable("posixpath:join", [str(folder)])


def test_a_module_of_the_same_name_earlier_on_the_path_is_never_run(folder: Path, tmp_path: Path) -> None:  # C4
    (tmp_path / "slrtwin.py").write_text("raise AssertionError('was executed')")
    (folder / "slrtwin.py").write_text("def f():\n    return 7\n")
    sys.path[:] = [str(tmp_path), *sys.path, str(folder)]
    assert import_callable("slrtwin:f", [str(folder)])() == 7


def test_a_folder_without_init_is_a_package_too(folder: Path) -> None:
    (folder / "slrbare").mkdir()
    (folder / "slrbare" / "m.py").write_text("def f():\n    return 1\n")
    assert import_callable("slrbare.m:f", [str(folder)])() == 1


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("slrpkg.tasks:os.system", "os is a module; name it before the colon"),
        ("slrpkg.tasks:C.absent", "there is no 'absent' in <class"),
        ("slrpkg.tasks:__doc__", "of type NoneType, which cannot be called"),
    ],
)
def test_what_is_no_callable_of_the_module_is_refused(target: str, match: str, folder: Path) -> None:  # C4
    with refused(match):
        import_callable(target, [str(folder)])


@pytest.mark.parametrize("statement", ["raise RuntimeError('from within')", "raise SystemExit('from within')", "def"])
def test_a_module_that_fails_is_shown_with_its_traceback(statement: str, folder: Path) -> None:  # C4
    (folder / "slrbroken.py").write_text(statement)
    with refused(r"(?s)importing slrbroken raised\n.*slrbroken\.py") as caught:
        import_callable("slrbroken:f", [str(folder)])
    assert "from within" in str(caught.value) or "SyntaxError" in str(caught.value)


def test_a_lookup_that_fails_is_shown_with_its_traceback(folder: Path) -> None:  # C4
    (folder / "slrlazy.py").write_text("def __getattr__(name):\n    raise RuntimeError('from within')\n")
    with refused(r"(?s)looking up 'f' in <module 'slrlazy'.*Traceback.*from within"):
        import_callable("slrlazy:f", [str(folder)])
