"""Another release of the package: the tree copied, with another version, and with fields that this one has not."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION = "99.1.0"
FIELDS = {
    "daemon/simplerd/session_record.py": {"SessionRecord": 'colour: str = "green"'},
    "daemon/simplerd/runner/control_protocol.py": {
        "Launch": 'weather: str = "fine"',
        "Ready": 'weather: str = "fine"',
        "Adopt": 'weather: str = "fine"',
        "Lane": 'weather: str = "fine"',
        "Stop": 'weather: str = "fine"',
    },
    "client/simpler/spawn_protocol.py": {
        "Start": 'weather: str = "fine"',
        "Kept": 'weather: str = "fine"',
        "Exited": 'weather: str = "fine"',
        "Forget": 'weather: str = "fine"',
    },
}
"""What it says more, by file and class."""


def make(folder: Path) -> str:
    """Makes it below ``folder``; what PYTHONPATH is to be for a program that uses it."""
    for part in ("client", "daemon"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    version = folder / "client/simpler/__init__.py"
    version.write_text(_replaced(version.read_text(), r'(?m)^__version__ = ".*"$', f'__version__ = "{VERSION}"'))
    for name, classes in FIELDS.items():
        source = folder / name
        text = source.read_text()
        for cls, field in classes.items():
            text = _replaced(text, rf'(?s)(\nclass {cls}\(.*?""".*?"""\n.*?)(\n\n)', rf"\1\n    {field}\2")
        source.write_text(text)
    return os.pathsep.join(str(folder / part) for part in ("client", "daemon"))


def _replaced(text: str, pattern: str, by: str) -> str:
    text, count = re.subn(pattern, by, text, count=1)
    assert count == 1, pattern
    return text
