"""``python_path``: modules that shadow installed ones for one call.

Rules
  1. Within the scope modules that are loaded already, but of which another would be found on the entries, are out of
     sys.modules; they come back at its end.
  2. What was loaded from the entries is forgotten at the end, and with it whatever was loaded meanwhile and holds
     something of it. Other modules that the call was the first to import stay.
  3. CPython loads an extension module once per process. A package with such modules is put aside instead of forgotten,
     and is there again in the next scope that finds it at the same place.
  4. What carries calls is never shadowed: this package, pickle and cloudpickle, and what they need.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ExtensionFileLoader, FrozenImporter, ModuleSpec, PathFinder
from types import FunctionType, ModuleType
from typing import Any

_CARRIERS = ("simpler", "cloudpickle", "pickle", "copyreg", "encodings", "msgspec")
_NEVER_SHADOWED = {*sys.builtin_module_names, "__main__", "importlib", *_CARRIERS}
_put_aside: dict[str, dict[str, ModuleType]] = {}
"""The modules of each package of rule 3, by the file that it is from."""


@contextlib.contextmanager
def import_scope(entries: Sequence[str | os.PathLike[str]]) -> Iterator[None]:
    """The scope of one call, which puts the entries onto sys.path itself (surroundings.py)."""
    if not entries:
        yield
        return
    import cloudpickle  # noqa: F401  # rule 4; not with what shadows the modules that it needs

    python_path = [str(entry) for entry in entries]
    loaded, finders, path = sys.modules.copy(), sys.path_importer_cache.copy(), sys.path.copy()
    for entry in python_path:
        sys.path_importer_cache.pop(entry, None)  # files may have come since it last listed the folder
    names = _tops({**loaded, **{name: module for modules in _put_aside.values() for name, module in modules.items()}})
    found = {name: _origin_on(python_path, name) for name in names}
    origins = {name: origin for name, origin in found.items() if origin and origin != _origin(loaded.get(name))}
    _remove(origins)
    for origin in origins.values():
        sys.modules.update(_put_aside.get(origin, {}))
    try:
        yield
    finally:
        try:
            _forget(python_path, loaded, path)
        finally:
            sys.modules.update(loaded)
        sys.path_importer_cache.clear()
        sys.path_importer_cache.update(finders)
        importlib.invalidate_caches()


def _top(name: str) -> str:
    return name.partition(".")[0]


def _tops(names: Iterable[str]) -> set[str]:
    return {_top(name) for name in names} - _NEVER_SHADOWED


def _origin_on(python_path: Sequence[str], name: str) -> str | None:
    """The file that an import would load from there; a mere folder is found only where there is nothing else.

    None for what the interpreter holds frozen, os for one: that is found before any path.
    """
    if FrozenImporter.find_spec(name) is not None:
        return None
    spec = PathFinder.find_spec(name, list(python_path))
    return None if spec is None or spec.loader is None else spec.origin


def _remove(tops: Iterable[str]) -> None:
    for name in list(sys.modules):
        if _top(name) in tops:
            del sys.modules[name]


def _forget(python_path: Sequence[str], loaded: dict[str, ModuleType], path: Sequence[str]) -> None:
    """``path``: sys.path without the entries, where some of it may be found as well: that stays."""
    new: dict[str, Any] = {name: module for name, module in sys.modules.items() if loaded.get(name) is not module}
    folders = tuple(f"{entry}/" for entry in python_path)
    gone = {_top(name) for name, module in new.items() if _origin(module).startswith(folders)}
    answering = {name for name, thing in new.items() if not isinstance(thing, ModuleType) and "." not in name}
    gone |= {name for name in answering if _origin_on(python_path, name)}
    gone = {top for top in gone if _origin_on(path, top) != _origin(new.get(top))}
    extensions = {_top(name) for name, module in new.items() if _is_extension(module)}
    for top in gone & extensions:
        _put_aside[_origin(new.get(top))] = {name: module for name, module in new.items() if _top(name) == top}
    stay = extensions | _tops(loaded) | _NEVER_SHADOWED
    while tainted := {_top(name) for name, module in new.items() if _holds_something_of(gone, module)} - stay - gone:
        gone |= tainted
    _remove(gone)


def _origin(module: object) -> str:
    """Where it was found; of a package without an ``__init__`` its first folder; "" for what does not say."""
    spec = _own(module).get("__spec__")
    if not isinstance(spec, ModuleSpec):
        return ""
    try:
        places = [spec.origin, *(spec.submodule_search_locations or ())]
    except KeyError:  # a folder within a package that is not loaded any more
        return ""
    return next((place for place in places if isinstance(place, str)), "")


def _is_extension(module: object) -> bool:
    return isinstance(getattr(_own(module).get("__spec__"), "loader", None), ExtensionFileLoader)


def _own(module: object) -> dict[str, Any]:
    """What it holds itself. Anything may be in sys.modules: objects that answer for modules, and modules that load
    when they are asked for an attribute.
    """
    held: dict[str, Any] = vars(ModuleType)["__dict__"].__get__(module) if isinstance(module, ModuleType) else {}
    return held


def _holds_something_of(gone: set[str], module: object) -> bool:
    return any(_top(_home(value)) in gone for value in list(_own(module).values()))


def _home(value: object) -> str:
    """The module that it belongs to; "" for what does not say."""
    if isinstance(value, ModuleType):
        return str(_own(value).get("__name__", ""))
    try:
        return str((value if isinstance(value, (type, FunctionType)) else type(value)).__module__)
    except Exception:  # a metaclass may answer in any way
        return ""
