"""What several tests of sessions need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A pipe with a name: whoever reads it waits for whoever writes."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path
