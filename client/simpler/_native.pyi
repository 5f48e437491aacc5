"""The cffi module that cffi_build makes. Its declarations are in native/*.h, which are the only place where they stand."""

from typing import Any

ffi: Any
lib: Any
