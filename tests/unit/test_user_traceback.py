"""Tracebacks without the frames that are not the user's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from simpler.errors import RegistrationError
from simpler.import_target import import_callable


def import_error(target: str) -> str:
    with pytest.raises(RegistrationError) as caught:
        import_callable(target, None)
    return str(caught.value)


def test_a_module_that_is_not_there_is_told_in_a_line() -> None:
    said = import_error("no_such_module:function")
    assert said.endswith("importing no_such_module raised\nModuleNotFoundError: No module named 'no_such_module'")


def test_a_traceback_begins_with_the_users_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imports_one_that_fails.py").write_text("import fails_when_imported\n")
    (tmp_path / "fails_when_imported.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    said = import_error("imports_one_that_fails:function")
    files = [line.split('"')[1] for line in said.splitlines() if line.startswith("  File")]
    assert [Path(file).stem for file in files] == ["imports_one_that_fails", "fails_when_imported"]
    assert said.endswith("ZeroDivisionError: division by zero")
    assert "fails_when_imported" not in sys.modules
