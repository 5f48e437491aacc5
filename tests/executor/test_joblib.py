"""joblib's programs, and scikit-learn's through it, on the executor."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Iterator

import joblib
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from executor import calls
from executor.conftest import await_threads
from simpler import ArgumentError
from simpler.executor import SimplerExecutor, joblib_backend

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    joblib_backend.register()
    yield
    joblib.parallel.BACKENDS.pop(joblib_backend.NAME)
    gc.collect()
    await_threads("simpler-executor")


def test_calls_run_in_workers_and_results_come_in_order() -> None:
    with joblib.parallel_config("simpler", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(calls.add)(item) for item in range(500)) == list(range(1, 501))
        assert os.getpid() not in joblib.Parallel()(joblib.delayed(calls.pid)() for _ in range(3))


def test_an_executor_of_the_program_may_have_options() -> None:
    with SimplerExecutor(2) as executor:
        view = executor.options(env_updates={"A": "b"})
        with joblib.parallel_config("simpler", executor=view):
            assert joblib.Parallel()(joblib.delayed(os.getenv)("A") for _ in range(3)) == ["b"] * 3
    with pytest.raises(ArgumentError, match=r"executor=3 .*SimplerExecutor"):
        joblib_backend.SimplerParallelBackend(executor=3)  # type: ignore[arg-type]


def test_the_workers_stay_from_one_loop_to_the_next() -> None:
    with joblib.parallel_config("simpler", n_jobs=2):
        pids = [joblib.Parallel()(joblib.delayed(calls.pid)() for _ in range(2)) for _ in range(3)]
    assert len(set(itertools.chain.from_iterable(pids))) <= 2


def test_an_executor_of_the_program_is_used_and_left_to_it(executor: SimplerExecutor) -> None:
    with joblib.parallel_config("simpler", executor=executor):
        assert joblib.Parallel(n_jobs=8)(joblib.delayed(calls.add)(item) for item in range(3)) == [1, 2, 3]
        assert joblib.effective_n_jobs(-1) == joblib.effective_n_jobs(8) == 2
    assert executor.submit(calls.add, 1).result(timeout=60) == 2


def test_results_may_be_taken_as_they_come(executor: SimplerExecutor) -> None:
    with joblib.parallel_config("simpler", executor=executor):
        results = joblib.Parallel(return_as="generator_unordered")(joblib.delayed(calls.add)(item) for item in range(9))
        assert sorted(results) == list(range(1, 10))


def test_an_error_ends_the_loop_and_leaves_the_executor_usable(executor: SimplerExecutor) -> None:
    with joblib.parallel_config("simpler", executor=executor):
        with pytest.raises(ZeroDivisionError):
            joblib.Parallel()(joblib.delayed(calls.divide)(1, divisor) for divisor in range(100))
        assert joblib.Parallel()([joblib.delayed(calls.divide)(6, 3)]) == [2]


def test_scikit_learn_validates_a_model_as_it_does_in_one_process() -> None:
    features, labels = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500)
    with joblib.parallel_config("simpler", n_jobs=2):
        scores = cross_val_score(model, features, labels, cv=5)
    assert list(scores) == list(cross_val_score(model, features, labels, cv=5, n_jobs=None))


def test_what_cannot_be_is_refused(executor: SimplerExecutor) -> None:
    with pytest.raises(ArgumentError, match="timeout_s: an executor that is there already takes no settings"):
        joblib_backend.SimplerParallelBackend(executor=executor, timeout_s=1)
    with pytest.raises(ArgumentError, match="n_jobs=0"):
        joblib_backend.SimplerParallelBackend().effective_n_jobs(0)
