"""Programs that take any executor of concurrent.futures: dask and tqdm."""

from __future__ import annotations

import io
import os

import dask.config
import pytest
from dask.delayed import delayed
from tqdm import tqdm

from executor import calls
from simpler.executor import SimplerExecutor

pytestmark = pytest.mark.slow


def test_dask_computes_its_graphs_on_it(executor: SimplerExecutor) -> None:
    parts = [delayed(calls.add)(item) for item in range(20)]
    total = delayed(sum)(parts)
    with dask.config.set(scheduler=executor):
        assert total.compute() == sum(range(1, 21))
        pid = delayed(calls.pid)().compute()
    assert pid != os.getpid()


def test_dask_is_told_what_failed(executor: SimplerExecutor) -> None:
    with pytest.raises(ZeroDivisionError):
        delayed(calls.divide)(delayed(calls.add)(0), 0).compute(scheduler=executor)


def test_tqdm_counts_what_a_map_gives(executor: SimplerExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # else a thread of tqdm's stays for as long as the process
    shown = io.StringIO()
    assert list(tqdm(executor.map(calls.add, range(30)), total=30, file=shown)) == list(range(1, 31))
    assert "30/30" in shown.getvalue()
