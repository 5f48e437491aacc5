"""Import targets, ``pkg.module:qualname``: their form, where their module may lie, and loading them.

A worker imports only what lies under the session's import paths: that is checked on the files that the import would
read, symbolic links resolved, before any of them is executed, and again on what was in fact imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from keyword import iskeyword
from pathlib import Path
from types import ModuleType
from typing import Any

from simpler.errors import RegistrationError
from simpler.user_traceback import user_traceback


def import_failed(target: str, why: str) -> RegistrationError:
    """The error for a target that cannot be imported; ``why`` is a clause or a whole traceback."""
    return RegistrationError(
        f"import target {target!r}: {why}", code="CALLABLE_IMPORT_FAILED", operation="import", target=target
    )


def check_import_target(target: str) -> tuple[str, str]:
    """Module and qualname of a well-formed target. Raises RegistrationError CALLABLE_IMPORT_FAILED."""
    if not isinstance(target, str) or target.count(":") != 1:
        raise import_failed(str(target), "expected 'pkg.module:qualname' with exactly one colon")
    module, qualname = target.split(":")
    if "<locals>" in qualname:
        raise import_failed(target, "a function inside a function cannot be imported; move it to the module's level")
    if module.startswith("."):
        raise import_failed(target, "the module name must be absolute, without leading dots")
    for part in (*module.split("."), *qualname.split(".")):
        if not part.isidentifier() or iskeyword(part):
            raise import_failed(target, f"{part!r} is not an identifier; expected identifiers joined by dots")
    return module, qualname


def import_callable(target: str, import_paths: Sequence[str] | None) -> Callable[..., Any]:
    """Imports the target's module and returns the callable that the qualname names.

    ``import_paths``: the folders that the module must lie under, put in front of this process's ``sys.path``; None
    allows whatever this process can import. Raises RegistrationError CALLABLE_IMPORT_FAILED, with the whole traceback
    where the module itself raised.
    """
    module_name, qualname = check_import_target(target)
    if import_paths is not None:
        roots = [Path(path).resolve() for path in import_paths]
        _check_place(target, module_name, roots)
        front = [str(root) for root in roots]  # also those that were there: what is checked must be what is found first
        sys.path[:] = front + [place for place in sys.path if place not in front]
    module = _import(target, module_name)
    if import_paths is not None:
        _check_spec(target, module.__spec__, module_name, roots)
    return _resolve(target, module, qualname)


def _check_place(target: str, module_name: str, roots: Sequence[Path]) -> None:
    """Finds the module's file, and those of the packages around it, without executing any."""
    importlib.invalidate_caches()  # the file may be younger than what the finder remembers of its folder
    path = [str(root) for root in roots]
    parts = module_name.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            raise import_failed(target, f"there is no module {name} under the import paths {_listed(roots)}")
        _check_spec(target, spec, name, roots)
        path = list(spec.submodule_search_locations or ())


def _check_spec(target: str, spec: ModuleSpec | None, name: str, roots: Sequence[Path]) -> None:
    places = [] if spec is None else [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
    for place in places or [None]:
        real = Path(place).resolve() if place is not None else None
        if real is None or not any(real.is_relative_to(root) for root in roots):
            where = f"is {real}" if real else "is part of Python itself"
            raise import_failed(target, f"module {name} {where}, which is not under the import paths {_listed(roots)}")


def _listed(roots: Sequence[Path]) -> str:
    if not roots:
        return "(there are none: name them in RemoteWorkerSpec's import_paths)"
    return ", ".join(dict.fromkeys(map(str, roots)))  # a session's may be its daemon's, too


def _import(target: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module's own code may raise anything, and its author needs to see it
        raise import_failed(target, f"importing {module_name} raised\n{user_traceback(error)}") from error


def _resolve(target: str, module: ModuleType, qualname: str) -> Callable[..., Any]:
    found: object = module
    for part in qualname.split("."):
        if found is not module and isinstance(found, ModuleType):
            raise import_failed(target, f"{found.__name__} is a module; name it before the colon")
        try:
            found = getattr(found, part)
        except AttributeError:
            raise import_failed(target, f"there is no {part!r} in {found!r}") from None
        except Exception as error:  # a module's __getattr__ is code of its author too
            raise import_failed(target, f"looking up {part!r} in {found!r} raised\n{user_traceback(error)}") from error
    if not callable(found):
        raise import_failed(target, f"it is of type {type(found).__name__}, which cannot be called")
    return found
