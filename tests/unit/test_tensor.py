"""Element types, tags and their access, and a tensor's storage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simpler.errors import ArgumentError, StaleHandle
from simpler.tensor import Access, DataType, Tensor, TensorArgType


@pytest.mark.parametrize("kind", [kind for kind in DataType if kind is not DataType.BFLOAT16])
def test_every_type_is_numpys_of_the_same_size(kind: DataType) -> None:
    dtype = np.dtype(kind.numpy_name)
    assert dtype.itemsize == kind.itemsize
    assert DataType.of(dtype) is kind


@pytest.mark.parametrize("kind", DataType)
def test_every_type_goes_by_the_name_that_errors_list(kind: DataType) -> None:
    assert DataType.of(kind.name.lower()) is kind


@pytest.mark.parametrize("dtype", [object, "U4", "complex128", ">f8", "datetime64[s]", "nonsense"])
def test_a_type_that_cannot_cross_processes_is_refused(dtype: object) -> None:
    with pytest.raises(ArgumentError, match=r"float32"):
        DataType.of(dtype)


def test_tags_say_what_rights_a_buffer_needs() -> None:  # B2
    rights = {tag.name: tag.rights for tag in TensorArgType}
    assert rights == {
        "INPUT": Access.READ,
        "OUTPUT": Access.WRITE,
        "INOUT": Access.BOTH,
        "OUTPUT_EXISTING": Access.WRITE,
        "NO_DEP": Access.BOTH,
    }


def test_no_dep_takes_no_part_in_ordering() -> None:  # G1
    assert TensorArgType.NO_DEP.ordering is Access.NONE


@pytest.mark.parametrize("shape", [(-1,), (1,) * 9, 2.5, (2.5,), None, "3"], ids=str)
def test_impossible_shapes_are_refused(shape: Any) -> None:
    with pytest.raises(ArgumentError, match="not possible"):
        Tensor(shape, "float32")


def test_a_tensor_lets_go_of_its_storage_once_and_is_stale_then() -> None:  # G2
    tensor, released = Tensor((2, 3), np.float32), []
    assert (tensor.nbytes, tensor.offset) == (24, None)
    tensor.attach(64, lambda: released.append(64))
    tensor.release()
    tensor.release()
    assert released == [64]
    with pytest.raises(StaleHandle, match="scope"):
        _ = tensor.offset


def test_a_collected_tensor_lets_go_too() -> None:  # G2
    released: list[int] = []
    Tensor(4, "int8").attach(64, lambda: released.append(64))
    assert released == [64]
