"""Calls and outcomes as bytes: what is known of them before, and without, what they hold of the user's."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from executor import calls, raisers
from simpler.executor.calls.call_record import (
    CallRecord,
    decode_outcome,
    decode_told,
    encode_call,
    encode_outcome,
    open_call,
)
from simpler.executor.calls.captured_output import CapturedOutput
from simpler.executor.calls.metrics import CallMetrics
from simpler.executor.calls.options import CallOptions
from simpler.executor.calls.pickling import NotPicklable

METRICS = CallMetrics(1.0, 2.0, 1.0, 0.5, 0.25, 1 << 20, 7, "sub0", "host")


def joined(parts: Any) -> bytes:
    """As it is on its way."""
    return b"".join(parts)


@pytest.mark.parametrize("is_chunk", [False, True])
def test_a_call_is_opened_before_it_is_loaded(is_chunk: bool) -> None:
    options = CallOptions(cwd="/")
    call = CallRecord(calls.add, [(1,), (np.arange(9),)], {"right": 2}, options, is_chunk)
    opened = open_call(joined(encode_call(call)))
    assert opened.options == options.encoded
    fn, args, kwargs, loaded_is_chunk = opened.load()
    assert (fn, args[0], kwargs, loaded_is_chunk) == (calls.add, (1,), {"right": 2}, is_chunk)
    args[1][0][0] = 1  # an array of its own
    assert args[1][0].tolist() == [1, *range(1, 9)]


# X6
@pytest.mark.parametrize("value", [None, 3, "text", [np.ones(3)], {"raw": b"x" * (1 << 17)}])
def test_an_outcome_has_its_value_its_metrics_and_its_output(value: object) -> None:
    output = CapturedOutput("out", "err \\udcff")
    outcome = decode_outcome(joined(encode_outcome(value, None, METRICS, output)))
    assert repr(outcome.value) == repr(value)
    assert outcome.error is None
    assert decode_told(outcome.told) == (METRICS, output)


def test_of_a_chunk_the_values_before_an_error_are_kept() -> None:
    outcome = decode_outcome(joined(encode_outcome([1, 2], ZeroDivisionError("3"), METRICS, is_chunk=True)))
    assert outcome.value == [1, 2]
    assert isinstance(outcome.error, ZeroDivisionError)


# X2
def test_of_a_chunk_the_values_before_one_that_cannot_be_pickled_are_kept() -> None:
    values = [1, 2, threading.Lock(), 4]
    outcome = decode_outcome(joined(encode_outcome(values, None, METRICS, is_chunk=True)))
    assert outcome.value == [1, 2]
    assert isinstance(outcome.error, NotPicklable)
    assert decode_told(outcome.told) == (METRICS, None)


def test_what_a_call_took_is_known_where_its_value_cannot_be_loaded() -> None:
    outcome = decode_outcome(joined(encode_outcome([raisers.Leaving()], None, METRICS)))
    assert outcome.value is None
    assert isinstance(outcome.error, Exception)
    assert isinstance(outcome.error.__cause__, SystemExit)
    assert decode_told(outcome.told) == (METRICS, None)
