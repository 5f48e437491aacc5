"""What is sent by reference and what by value: of ``__main__``, of a notebook, of modules that were registered."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

from executor import calls
from simpler.executor import SimplerExecutor
from simpler.executor.calls.pickling import dump


class Notebook:
    """Cells run in ``__main__``, whose names can be defined anew."""

    def __init__(self) -> None:
        self.names = vars(sys.modules["__main__"])
        self._before = dict(self.names)

    def run(self, cell: str) -> None:
        """Runs a cell."""
        exec(cell, self.names)

    def close(self) -> None:
        """Forgets what it defined."""
        for name in set(self.names) - set(self._before):
            del self.names[name]


@pytest.fixture
def notebook() -> Iterator[Notebook]:
    """One, forgotten afterwards."""
    notebook = Notebook()
    yield notebook
    notebook.close()


# X2
def test_a_function_that_was_defined_anew_is_sent_as_it_is_now(executor: SimplerExecutor, notebook: Notebook) -> None:
    notebook.run("factor = 2\ndef times(x): return factor * x")
    assert executor.submit(notebook.names["times"], 5).result(timeout=60) == 10
    notebook.run("factor = 3")
    assert executor.submit(notebook.names["times"], 5).result(timeout=60) == 15
    notebook.run("def times(x): return factor + x")
    assert executor.submit(notebook.names["times"], 5).result(timeout=60) == 8


@pytest.mark.parametrize("made", ["Slotted(3, 'b')", "Frozen(3)", "One(3)"])
def test_what_has_slots_comes_back(executor: SimplerExecutor, notebook: Notebook, made: str) -> None:
    notebook.run("""
from dataclasses import dataclass
class One:
    __slots__ = "a"
    def __init__(self, a): self.a = a
class Slotted(One):
    __slots__ = ("__b", "__weakref__")
    def __init__(self, a, b): self.a, self.__b = a, b
@dataclass(slots=True, frozen=True)
class Frozen:
    a: int""")
    notebook.run(f"def make(): return {made}")
    back = executor.submit(notebook.names["make"]).result(timeout=60)
    assert type(back) is notebook.names[made.partition("(")[0]]
    assert back.a == 3
    assert not hasattr(back, "__dict__")


def test_a_function_with_a_cache_is_sent_with_its_function(executor: SimplerExecutor, notebook: Notebook) -> None:
    body = "return n if n < 2 else fib(n - 1) + fib(n - 2)"
    notebook.run(f"import functools\n@functools.lru_cache(maxsize=7)\ndef fib(n): {body}")
    fib = notebook.names["fib"]
    assert fib(5) == 5
    assert executor.submit(fib, 60).result(timeout=60) == 1_548_008_755_920
    notebook.run("def tell(): return fib(2), fib.cache_info().misses, fib.cache_info().maxsize")
    assert executor.submit(notebook.names["tell"]).result(timeout=60) == (1, 3, 7)


def test_what_comes_back_is_of_the_class_that_is_here(executor: SimplerExecutor, notebook: Notebook) -> None:
    notebook.run("class Point:\n    def __init__(self, x): self.x = x\n    def moved(self): return Point(self.x + 1)")
    first = notebook.names["Point"]
    assert type(executor.submit(first(1).moved).result(timeout=60)) is first
    notebook.run("class Point:\n    def __init__(self, x): self.x = x\n    def moved(self): return Point(self.x - 1)")
    moved = executor.submit(notebook.names["Point"](1).moved).result(timeout=60)
    assert type(moved) is notebook.names["Point"] is not first
    assert moved.x == 0


def test_an_exception_of_main_is_caught_by_its_class(executor: SimplerExecutor, notebook: Notebook) -> None:
    notebook.run("class Odd(Exception): pass\ndef fail(): raise Odd(3)")
    with pytest.raises(notebook.names["Odd"], match="3"):
        executor.submit(notebook.names["fail"]).result(timeout=60)


def test_a_module_can_be_registered_to_be_sent_by_value(executor: SimplerExecutor) -> None:
    before = calls.add.__defaults__
    cloudpickle.register_pickle_by_value(calls)
    try:
        calls.add.__defaults__ = (40,)
        assert executor.submit(calls.add, 2).result(timeout=60) == 42
    finally:
        calls.add.__defaults__ = before
        cloudpickle.unregister_pickle_by_value(calls)
    assert executor.submit(calls.add, 2).result(timeout=60) == 3


def test_a_large_bytes_object_is_not_copied_to_be_pickled() -> None:
    large = bytes(1 << 20)
    assert any(part is large for part in dump({"nested": [large]}).parts)


def load(value: object) -> Any:
    """What another process would make of it."""
    return pickle.loads(b"".join(dump(value).parts))
