"""CPython's own tests of process pools, run on SimplerExecutor: ``python -m executor.cpython_suite PART OF``.

They are taken from the interpreter's test package, as they are. Each of its test classes for process pools is built
anew with an executor of ours in the place of a ProcessPoolExecutor, and its tests of futures with our future. Those of
NOT_APPLICABLE are run too, and must fail: one that does not is no longer true there.

What is told to them: where a ProcessPoolExecutor is broken, as one of its processes died, the call alone is lost here,
with WorkerDied or TaskError. A script that imports the class from concurrent.futures finds it there.
"""

from __future__ import annotations

import concurrent.futures
import gc
import importlib
import itertools
import json
import multiprocessing
import sys
import unittest
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from simpler import SimplerExecutor, TaskError, WorkerDied
from simpler.executor import CallFuture

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".venv" / "cpython"
"""Where tests/executor/setup.sh puts the test package of an interpreter that came without."""

_PRIVATE = "looks at _processes, which an executor whose processes are nobody else's business does not have"
_ITS_OWN = "max_tasks_per_child is no argument: a process is put back after each call, and stays"
_PRINTS = "looks for what a call prints on standard output; it comes on standard error, the worker's name before it"
_NAMED = "wants the class to be called Future"

NOT_APPLICABLE = {
    "FailingInitializerMixin.test_initializer": "looks at _broken, and for a log that crosses a multiprocessing queue",
    "FutureTests.test_multiple_set_exception": _NAMED,
    "FutureTests.test_multiple_set_result": _NAMED,
    "FutureTests.test_repr": _NAMED,
    "ProcessPoolShutdownTest.test_context_manager_shutdown": _PRIVATE,
    "ProcessPoolShutdownTest.test_del_shutdown": _PRIVATE,
    "ProcessPoolShutdownTest.test_hang_gh83386": _PRINTS,
    "ProcessPoolShutdownTest.test_interpreter_shutdown": _PRINTS,
    "ProcessPoolShutdownTest.test_processes_terminate": _PRIVATE,
    "ProcessPoolShutdownTest.test_shutdown_no_wait": _PRIVATE,
    "ProcessPoolShutdownTest.test_submit_after_interpreter_shutdown": "wants the class of the error to be called "
    "RuntimeError; it is a StateError, which is a RuntimeError",
    "ProcessPoolExecutorTest.test_killed_child": _PRIVATE,
    "ProcessPoolExecutorTest.test_idle_process_reuse_multiple": _PRIVATE,
    "ProcessPoolExecutorTest.test_idle_process_reuse_one": _PRIVATE,
    "ProcessPoolExecutorTest.test_max_tasks_early_shutdown": _ITS_OWN,
    "ProcessPoolExecutorTest.test_max_tasks_per_child": _ITS_OWN,
    "ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context": _ITS_OWN,
    "ProcessPoolExecutorTest.test_ressources_gced_in_workers": "passes a proxy, which processes of multiprocessing "
    "alone can use",
    "ProcessPoolExecutorTest.test_saturation": "passes a semaphore, which processes of multiprocessing alone inherit",
    "ExecutorDeadlockTest.test_shutdown_deadlock_pickle": "looks at _executor_manager_thread",
}
"""Class and test, and why it cannot hold of an executor that is no ProcessPoolExecutor."""

BEGUN = "test_cancel_futures"
"""Wants a call to have begun as soon as it was submitted: the workers of this test are started before."""


class Pool(SimplerExecutor):
    """As the tests make one: ``mp_context`` says how processes are started, which is always the same here."""

    def __init__(self, max_workers: int | None = None, mp_context: object = None, **settings: Any) -> None:
        super().__init__(max_workers, **settings)


class ProcessPoolExecutor(Pool):
    """What tests get that make a ProcessPoolExecutor by its name."""


Pool.__name__ = "SimplerExecutor"


class Ours:
    """What stands in the place of ProcessPoolForkMixin."""

    executor_type = Pool

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]  # of the tests
        if self._testMethodName == BEGUN:  # type: ignore[attr-defined]
            self.executor.submit(abs, -1).result()  # type: ignore[attr-defined]

    def get_context(self) -> object:
        """For tests that make semaphores."""
        return multiprocessing.get_context("spawn")


class Outcome(NamedTuple):
    """What came of the tests of one part."""

    all: list[str]
    """Of all parts; empty when this interpreter has no such tests."""
    passed: list[str]
    failed: dict[str, str]
    skipped: dict[str, str]
    not_applicable: list[str]
    stale: list[str]
    """Not applicable, and passed."""


def load() -> ModuleType | None:
    """The module of tests, with ours told to it; None when this interpreter has none."""
    if UNPACKED.exists():
        sys.path.insert(0, str(UNPACKED))
    try:
        module = importlib.import_module("test.test_concurrent_futures")
    except ImportError:
        return None
    if not hasattr(module, "ProcessPoolForkMixin"):  # a package of several modules, from Python 3.12 on
        return None
    original = module.assert_python_ok

    def assert_python_ok(*args: str) -> object:
        begin = f"import sys; sys.path[:0] = {sys.path!r}\nimport concurrent.futures, multiprocessing, simpler\n"
        begin += "concurrent.futures.SimplerExecutor = simpler.SimplerExecutor\n"
        return original(*args[:-1], begin + args[-1])

    futures = SimpleNamespace(**{**vars(concurrent.futures), "ProcessPoolExecutor": ProcessPoolExecutor})
    told = {"BrokenProcessPool": (WorkerDied, TaskError), "Future": CallFuture, "futures": futures}
    vars(module).update(told, assert_python_ok=assert_python_ok)
    for name in [name for name, value in vars(module).items() if isinstance(value, concurrent.futures.Future)]:
        made = getattr(module, name)
        setattr(module, name, module.create_future(made._state, made._exception, made._result))
    module.support.verbose = False  # it would have each test's time printed
    return module


def cases(module: ModuleType) -> dict[str, unittest.TestCase]:
    """Each test, by the class that it stands in and its name."""
    mixin = type("SimplerMixin", (Ours, module.ExecutorMixin), {})
    found: dict[str, unittest.TestCase] = {}
    for name, kind in list(vars(module).items()):
        if not isinstance(kind, type) or not issubclass(kind, unittest.TestCase):
            continue
        if module.ProcessPoolForkMixin in kind.__bases__:
            bases = (mixin if base is module.ProcessPoolForkMixin else base for base in kind.__bases__)
            tests = type(kind.__bases__[0].__name__, tuple(bases), {})
        elif name == "FutureTests":
            tests = kind
        else:
            continue
        for case in unittest.defaultTestLoader.loadTestsFromTestCase(tests):
            assert isinstance(case, unittest.TestCase)
            found[f"{tests.__name__}.{case._testMethodName}"] = case
    return found


def run(found: Mapping[str, unittest.TestCase], part: int, of: int) -> Outcome:
    """Runs one part of them, one after the other."""
    outcome = Outcome(list(found), [], {}, {}, [], [])
    for name, case in itertools.islice(found.items(), part, None, of):
        result = unittest.TestResult()
        case.run(result)
        problems = [text for _, text in (*result.failures, *result.errors)]
        if name in NOT_APPLICABLE:
            (outcome.not_applicable if problems else outcome.stale).append(name)
        elif problems:
            outcome.failed[name] = "\n".join(problems)
        elif result.skipped:
            outcome.skipped[name] = result.skipped[0][1]
        else:
            outcome.passed.append(name)
    return outcome


def main() -> None:
    """Runs every OF-th test, from the PART-th on; the last line of standard output is an Outcome."""
    part, of = (int(argument) for argument in sys.argv[1:])
    module = load()
    found = {} if module is None else cases(module)
    gc.freeze()  # the tests collect garbage often, and only their own is meant
    outcome = run(found, part, of)
    print(json.dumps(outcome._asdict()))


if __name__ == "__main__":
    main()
