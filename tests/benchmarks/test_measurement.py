"""What the benchmarks make of what they measured."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from benchmarks.bare import bare
from benchmarks.measurement import Result, Samples

from benchmarks import executor_calls, executors, processors, report, sessions, waking

SLOW, FAST = Samples([30.0, 10.0, 20.0]), Samples([5.0, 5.0, 5.0])


@pytest.mark.parametrize("percent", [0, 10, 50, 90, 99, 100])
def test_percentiles_are_those_of_numpy(percent: float) -> None:
    values = np.random.default_rng(1).random(37).tolist()
    assert Samples(values).percentile(percent) == pytest.approx(float(np.percentile(values, percent)))


def test_a_result_knows_whether_it_reached_its_target_and_by_how_much_it_is_better() -> None:
    time = Result("a", "µs", 5.0, FAST, others={"other": SLOW})
    rate = Result("b", "tasks/s", 21.0, SLOW, higher_is_better=True, others={"other": FAST})
    assert (time.reached, time.times_better("other")) == (True, 4.0)
    assert (rate.reached, rate.times_better("other")) == (False, 4.0)


def test_a_target_that_was_missed_is_marked() -> None:
    rows = report.rows(Result("a hop", "µs", 4.0, FAST, others={"other": SLOW}))
    assert "≤ 4 µs" in rows[0]
    assert "MISSED" in rows[0]
    assert "20" in rows[1]
    assert "4.0 times better" in rows[1]


def test_the_record_has_every_value() -> None:
    record = json.loads(json.dumps(report.record([Result("a", "µs", 5.0, SLOW)])))
    assert record["results"][0]["samples"]["values"] == [30.0, 10.0, 20.0]
    assert record["results"][0]["reached"] is False
    assert record["machine"]["cores"] >= 1


def test_cpu_time_is_counted_over_the_whole_tree() -> None:
    burn = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    child = "import sys; sum(range(3_000_000)); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", burn, child]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert len(processors.process_tree(parent.pid)) == 2
        assert sessions.cpu_ns(parent.pid) > 20_000_000
        parent.communicate()


def test_a_result_may_be_judged_by_its_worst() -> None:
    assert Result("a", "µs", 15.0, SLOW, judged_at=10).reached
    assert not Result("a", "µs", 25.0, SLOW, judged_at=99).reached
    assert SLOW.minus(10).values == [20.0, 0.0, 10.0]
    assert SLOW.over(10).median == 2.0


def test_what_is_not_installed_is_said_with_how_to_get_it() -> None:
    with pytest.raises(ValueError, match="'spark' is none of dask, ray"):
        executors.add_extras(["spark"])
    missing = [name for name, (module, _) in executors.EXTRAS.items() if importlib.util.find_spec(module) is None]
    for name in missing:
        with pytest.raises(ValueError, match=rf"{name} is not installed here: .*\[bench-{name}\]"):
            executors.add_extras([name])


@pytest.mark.slow
def test_the_bare_futex_round_trip_is_measured() -> None:
    assert len(waking.bare_round_trips().values) == waking.ROUNDS // 2


def test_the_bare_tcp_programs_measure_each_round() -> None:
    assert min(bare("tcp_roundtrip", 20, 96).values) > 0
    assert len(bare("tcp_bulk", 3, 1 << 20).values) == 3


@pytest.mark.slow
def test_a_first_result_is_measured_with_and_without_the_import() -> None:  # X8
    first, whole = executor_calls.first_result(*executor_calls.STARTED["SimplerExecutor"], repeats=1)
    assert 0 < first.median < whole.median
