"""The headers are the only place where the C declarations stand; what cffi reads is cut out of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from cffi_build.declarations import BEGIN, END, HEADERS, declarations

from simpler._native import ffi, lib
from simpler.tensor import Access, DataType


def test_the_tag_values_are_those_of_the_header() -> None:
    assert (Access.READ.value, Access.WRITE.value) == (lib.SLR_READ, lib.SLR_WRITE)


def test_element_types_fit_a_kernels_field() -> None:
    tensor = ffi.new("slr_tensor *")
    for kind in DataType:
        tensor.dtype = kind.value
        assert tensor.dtype == kind.value


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.name)
def test_a_header_without_one_pair_of_markers_is_refused(header: Path, tmp_path: Path) -> None:
    text, copy = header.read_text(), tmp_path / header.name
    for broken in (text.replace(BEGIN, ""), text.replace(END, ""), text + BEGIN):
        copy.write_text(broken)
        with pytest.raises(ValueError, match="expected exactly one"):
            declarations(copy)
