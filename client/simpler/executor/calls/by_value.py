"""Pickles by value: cloudpickle's, and of what it would pickle so that no other process can load it.

* A class with ``__slots__`` keeps them. Without, its instances there had a ``__dict__`` that those here have no room
  for, and never came back.
* A function in ``functools.lru_cache`` goes with its function, and begins with an empty cache. By itself it goes by
  its name alone, also in ``__main__``, where another process has nothing of that name.
"""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def pickler_class() -> Any:
    """A ``cloudpickle.Pickler``; a function, since importing cloudpickle takes long and most programs never use it."""
    import cloudpickle

    class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, functools._lru_cache_wrapper):
                return self._cached_function(obj)
            reduced = super().reducer_override(obj)
            slots = vars(obj).get("__slots__") if isinstance(obj, type) else None
            if reduced is not NotImplemented and isinstance(slots, (str, list, tuple, dict)):
                reduced[1][3]["__slots__"] = slots  # what the class is made with, before it is given its methods
            return reduced

        def _cached_function(self, obj: Any) -> Any:
            if super().reducer_override(obj.__wrapped__) is NotImplemented:
                return NotImplemented
            return _cached, (obj.__wrapped__, obj.cache_parameters())

    return ByValuePickler


def dumps(value: object) -> bytes:
    """The pickle of ``value``, in band."""
    from io import BytesIO

    out = BytesIO()
    pickler_class()(out, protocol=5).dump(value)
    return out.getvalue()


def _cached(fn: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(fn)
