"""The cffi module that cffi_build makes. What it declares stands in native/*.h and nowhere else."""

from typing import Any

ffi: Any
lib: Any
