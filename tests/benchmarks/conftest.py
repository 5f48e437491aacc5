"""Makes the package benchmarks importable, as it is for ``python -m benchmarks`` at the root."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
