"""The build step that pyproject.toml names: makes the cffi module from the headers, compiled with the library."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from cffi import FFI
from setuptools import Extension
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "native"
INCLUDE = ROOT / "client" / "simpler" / "include"

# setuptools compiles with -DNDEBUG; asserts in the library guard shared memory and stay on.
COMPILE_ARGS = [
    "-std=gnu11",
    "-D_GNU_SOURCE",
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-UNDEBUG",
    "-pthread",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
]
# What cffi and CPython's own headers do is not ours to warn about.
GENERATED_ARGS = ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type"]


def _declarations_module() -> ModuleType:
    """declarations.py by its path: setuptools loads this file alone, not as part of a package."""
    spec = importlib.util.spec_from_file_location("_simpler_declarations", Path(__file__).with_name("declarations.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class BuildExt(build_ext):
    """setuptools' build_ext for the one extension this project has."""

    def build_extension(self, ext: Extension) -> None:
        source = Path(self.build_temp) / "_native.c"
        source.parent.mkdir(parents=True, exist_ok=True)
        self._generate(ext.name, source)
        ext.sources = [str(source), *sorted(str(path.relative_to(ROOT)) for path in NATIVE.glob("*.c"))]
        ext.depends = sorted(str(path.relative_to(ROOT)) for path in (*NATIVE.glob("*.h"), *INCLUDE.glob("*.h")))
        ext.include_dirs = [str(NATIVE), str(INCLUDE)]
        ext.extra_compile_args = [*COMPILE_ARGS, *GENERATED_ARGS]
        ext.extra_link_args = ["-pthread"]
        ext.libraries = ["dl"]
        super().build_extension(ext)

    def _generate(self, module: str, target: Path) -> None:
        headers = _declarations_module()
        ffi = FFI()
        ffi.cdef("\n".join(headers.declarations(header) for header in headers.HEADERS))
        ffi.set_source(module, "\n".join(f'#include "{header.name}"' for header in headers.HEADERS))
        ffi.emit_c_code(str(target))
