"""The C declarations that cffi needs, read from the headers themselves so that nothing is written twice."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "native"
INCLUDE = ROOT / "client" / "simpler" / "include"
HEADERS = (NATIVE / "simpler.h", INCLUDE / "simpler_kernel.h", NATIVE / "device.h", NATIVE / "keeper.h")
BEGIN, END = "/* cffi: begin */", "/* cffi: end */"


def declarations(header: Path) -> str:
    """The part of ``header`` between its two markers.

    Raises ValueError when a marker is missing or stands more than once.
    """
    text = header.read_text()
    for marker in (BEGIN, END):
        if text.count(marker) != 1:
            raise ValueError(f"{header}: expected exactly one line '{marker}', found {text.count(marker)}")
    return text.partition(BEGIN)[2].partition(END)[0]
