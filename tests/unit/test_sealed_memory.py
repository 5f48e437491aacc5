"""What is too large for a packet between simplerd and a runner, and what a runner may send in its place."""

from __future__ import annotations

import os

import pytest

from simpler.errors import ProtocolError
from simplerd.sealed_memory import seal, unseal


def test_an_error_of_any_length_fits_a_memfd() -> None:  # R6
    record = os.urandom(3 << 20)
    memfd = seal(record, "error-record")
    assert unseal(memfd, "an error", len(record)) == record
    with pytest.raises(PermissionError):
        os.write(memfd, b"more")
    with pytest.raises(ProtocolError, match=f"an error has {len(record)} bytes; at most 10 are read"):
        unseal(memfd, "an error", 10)
    os.close(memfd)


def test_a_descriptor_that_is_no_sealed_memfd_is_not_read() -> None:
    pipe = os.pipe()
    unsealed = os.memfd_create("unsealed")
    for fd in (*pipe, unsealed):
        with pytest.raises(ProtocolError, match="not a sealed memfd"):
            unseal(fd, "an error", 10)
        os.close(fd)
