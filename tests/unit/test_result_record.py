"""Return values as records."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpler.errors import TaskError
from simpler.result_record import decode_result, encode_result

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(inner, inner)),
)


@given(VALUES)
def test_values_come_back_as_they_went(value: Any) -> None:  # G10
    assert decode_result(b"".join(encode_result(value))) == value


def test_arrays_come_back_whole_writable_and_independent_of_the_record() -> None:  # G10
    value: dict[str, Any] = {"a": np.arange(1000.0).reshape(10, 100), "b": [np.zeros(0, "int8"), np.ones(3, "bool")]}
    record = bytearray(b"".join(encode_result(value)))
    back: Any = decode_result(memoryview(record))
    record[:] = bytes(len(record))
    assert np.array_equal(back["a"], value["a"])
    assert [list(each) for each in back["b"]] == [[], [True, True, True]]
    back["a"][0, 0] = 7


def test_an_array_is_not_pickled_into_the_first_segment() -> None:  # G10
    parts = encode_result(np.zeros(1 << 20, "uint8"))
    assert max(len(part) for part in parts) == 1 << 20
    assert sum(len(part) for part in parts) < (1 << 20) + 1024


def test_a_value_of_a_local_class_goes_by_value() -> None:  # G10
    class Local:
        pass

    assert isinstance(decode_result(b"".join(encode_result(Local()))), Local)


def test_what_cannot_be_pickled_says_what_it_is() -> None:  # G10
    with pytest.raises(TaskError, match="frame") as caught:
        encode_result(sys._getframe())
    assert caught.value.code == "RESULT_NOT_SERIALIZABLE"


def test_a_record_whose_class_is_not_here_degrades_to_an_error_that_says_so() -> None:  # R6
    record = b"".join(encode_result(3)).replace(b"K\x03", b"cx")
    with pytest.raises(TaskError, match="cannot be rebuilt"):
        decode_result(record)
