"""The Python side of devices, and kernels from C source, on the sim driver. C's own checks are in tests/native."""

from __future__ import annotations

import contextlib
import math
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpler import limits
from simpler.callables import KERNEL_INCLUDE, ChipBlob, ChipCallable, Direction, validate_content
from simpler.device import Device, DeviceTensor, Kernel, scalar_bits
from simpler.errors import ArgumentError, DeviceError, RegistrationError, StateError
from simpler.tensor import DataType

SOURCE = """
#include <math.h>
#include <string.h>
#include "simpler_kernel.h"

int scale(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
{
    double by;
    if (n_tensors != 2 || n_scalars != 2)
        return 22;
    memcpy(&by, s, sizeof by);
    const float *in = t[0].data;
    float *out = t[1].data;
    for (int64_t i = 0; i < t[0].shape[0] * t[0].shape[1]; i++)
        out[i] = (float)(in[i] * by) + (float)(int64_t)s[1];
    return 0;
}

int stride(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
{
    (void)n_tensors, (void)s, (void)n_scalars;
    return (int)(t[0].strides[0] * 1000 + t[0].strides[1] * 100 + t[0].ndim * 10 + t[0].dtype);
}
"""


@pytest.fixture(scope="module")
def scale() -> ChipCallable:
    return ChipCallable.from_c_source(SOURCE, "scale", ["in", Direction.OUT, "SCALAR", "scalar"])


@pytest.fixture
def device() -> Iterator[Device]:
    with Device("sim", 3) as device:
        yield device


def refused(kind: type[Exception], code: str, match: str) -> Any:
    return pytest.raises(kind, match=match, check=lambda error: error.code == code)


def loaded(device: Device, chip: ChipCallable) -> Kernel:
    return device.load(chip.elf, chip.symbol)


def test_a_device_says_what_it_is(device: Device, scale: ChipCallable) -> None:
    device.alloc(1000)
    info = device.info()
    assert (info.driver, info.name, info.arch) == ("sim", "simulated device 3", scale.target_arch)
    assert (info.memory_used, info.memory_bytes) == (1000, 4 << 30)


def test_a_kernel_computes_on_device_memory(device: Device, scale: ChipCallable) -> None:
    given, out = np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((2, 3), np.float32)
    tensors = [DeviceTensor(device.alloc(24), 24, DataType.FLOAT32, (2, 3)) for _ in range(2)]
    device.copy_in(tensors[0].address, given)
    assert device.launch(loaded(device, scale), tensors, [0.5, -1]) == 0
    device.synchronize()
    device.copy_out(out, tensors[1].address)
    assert np.array_equal(out, given * 0.5 - 1)


def test_a_kernels_status_comes_back(device: Device, scale: ChipCallable) -> None:
    assert device.launch(loaded(device, scale), [], []) == 22


def test_tensors_are_row_major(device: Device, scale: ChipCallable) -> None:
    kernel = device.load(scale.elf, "stride")
    tensor = DeviceTensor(device.alloc(12), 12, DataType.INT16, (3, 2))
    assert device.launch(kernel, [tensor]) == 4 * 1000 + 2 * 100 + 2 * 10 + DataType.INT16.value


def test_an_empty_tensor_needs_no_memory(device: Device, scale: ChipCallable) -> None:
    tensor = DeviceTensor(0, 0, DataType.FLOAT32, (0, 5))
    assert device.launch(loaded(device, scale), [tensor, tensor], [1.0, 0]) == 0


def test_a_forgotten_copy_shows(device: Device) -> None:
    out = np.zeros(4)
    device.copy_out(out, device.alloc(32))
    assert np.isnan(out).all()


def test_errors_name_the_device_and_the_operation(device: Device, scale: ChipCallable) -> None:
    address = device.alloc(8)
    with refused(DeviceError, "DEVICE_ADDRESS", r"device 3 \(sim\): copying 9 bytes in: 9 bytes at .* has 8 bytes"):
        device.copy_in(address, bytes(9))
    with refused(DeviceError, "DEVICE_ADDRESS", "freeing 0x7: .* no allocation that begins at 0x7"):
        device.free(7)
    with refused(DeviceError, "DEVICE_MEMORY", "cannot allocate"):
        device.alloc(5 << 30)
    with refused(DeviceError, "DEVICE_KERNEL", "loading kernel absent: .* does not define the symbol absent"):
        device.load(scale.elf, "absent")
    with refused(DeviceError, "DEVICE_KERNEL", "not an ELF object"):
        device.load(b"text", "scale")
    with refused(ArgumentError, "ARGUMENT", "up to 8 dimensions, not 9"):
        device.launch(loaded(device, scale), [DeviceTensor(address, 8, DataType.FLOAT64, (1,) * 9)])
    with refused(ArgumentError, "ARGUMENT", "has 12 bytes, not 8"):
        device.launch(loaded(device, scale), [DeviceTensor(address, 8, DataType.FLOAT32, (3,))])


def test_an_unloaded_kernel_is_refused(device: Device, scale: ChipCallable) -> None:
    kernel = loaded(device, scale)
    device.unload(kernel)
    with refused(ArgumentError, "ARGUMENT", "launching kernel scale: .* not loaded on this device"):
        device.launch(kernel, [])


def test_a_closed_device_says_so(scale: ChipCallable) -> None:
    device = Device("sim", 0)
    kernel = loaded(device, scale)
    device.close()
    device.close()
    for use in (device.info, device.synchronize, lambda: device.alloc(1), lambda: device.launch(kernel, [])):
        with refused(StateError, "STATE", r"device 0 \(sim\): .* the device is closed"):
            use()


def test_what_cannot_be_opened_says_why() -> None:
    with refused(DeviceError, "DEVICE_NO_DRIVER", "libslr_absent.so"):
        Device("absent", 0)
    with refused(ArgumentError, "ARGUMENT", "devices 0 to 1023, not 5000"):
        Device("sim", 5000)
    with refused(ArgumentError, "ARGUMENT", r"'sim\\x00' is not the name of a driver"):
        Device("sim\0", 0)
    for impossible in (-1, 1 << 32, True, "0"):
        with refused(ArgumentError, "ARGUMENT", "is not possible"):
            Device("sim", impossible)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scalar", "bits"),
    [(0, 0), (True, 1), (-1, 2**64 - 1), (2**64 - 1, 2**64 - 1), (-(2**63), 2**63), (1.0, 0x3FF << 52)],
)
def test_scalars_become_64_bits(scalar: float, bits: int) -> None:
    assert scalar_bits(scalar) == bits
    assert scalar_bits(math.inf) == 0x7FF << 52


@pytest.mark.parametrize("scalar", [2**64, -(2**63) - 1, "text", b"bytes", None])
def test_other_scalars_are_refused(scalar: Any) -> None:
    with pytest.raises(ArgumentError, match=r"64 bits|takes numbers"):
        scalar_bits(scalar)


# ---- kernels from C source and from ELF


def test_the_same_source_gives_the_same_hashid(scale: ChipCallable) -> None:  # C2
    again = ChipCallable.from_c_source(SOURCE, "scale", ["in", "out", "scalar", "scalar"])
    assert again.hashid == scale.hashid
    assert validate_content(again.content.digest, again.content.encode()) == scale.content


def test_symbol_signature_and_platform_are_identity(scale: ChipCallable) -> None:  # C2
    variants = [
        ChipCallable.from_elf(scale.elf, "stride", scale.signature),
        ChipCallable.from_elf(scale.elf, "scale", ["in", "inout", "scalar", "scalar"]),
        ChipCallable.from_elf(scale.elf, "scale", scale.signature, platform="other"),
        ChipCallable.from_elf(scale.elf, "scale", scale.signature, runtime="other"),
        ChipCallable.from_elf(scale.elf + b"\0", "scale", scale.signature),
    ]
    assert len({scale.hashid, *(variant.hashid for variant in variants)}) == 6


def test_the_blob_carries_what_a_worker_needs(scale: ChipCallable) -> None:
    blob = ChipBlob.decode(scale.content.payload)
    assert (blob.symbol, blob.signature, blob.elf) == (scale.symbol, scale.signature, scale.elf)


def test_an_elf_file_is_read_by_path(scale: ChipCallable, tmp_path: Path) -> None:
    (tmp_path / "kernels.so").write_bytes(scale.elf)
    assert ChipCallable.from_elf(tmp_path / "kernels.so", "scale", scale.signature) == scale


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("int scale(void) { return unknown; }", r"(?s)ended with status 1\n.*kernel\.c:1:.*unknown"),
        ("int other(void); int scale(void) { return other(); }", "(?s)undefined reference to .other"),
    ],
)
def test_what_the_compiler_says_comes_back(source: str, match: str) -> None:
    with refused(RegistrationError, "CALLABLE_COMPILE_FAILED", match):
        ChipCallable.from_c_source(source, "scale", [])


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-cc -m64")
    with refused(RegistrationError, "CALLABLE_COMPILE_FAILED", "no C compiler 'no-such-cc'; install gcc"):
        ChipCallable.from_c_source(SOURCE, "scale", [])


@pytest.mark.slow
def test_a_compiler_that_hangs_is_given_up_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "never")
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\ncat {tmp_path}/never &\necho $! > {tmp_path}/pid\nwait\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setattr(limits, "COMPILE_TIMEOUT_S", 0.3)
    with refused(RegistrationError, "CALLABLE_COMPILE_FAILED", "took more than 0.3 s"):
        ChipCallable.from_c_source(SOURCE, "scale", [])
    with contextlib.suppress(ProcessLookupError):
        child = os.pidfd_open(int((tmp_path / "pid").read_text()))
        ended, _, _ = select.select([child], [], [], 10)
        os.close(child)
        assert ended


def patched(elf: bytes, at: int, value: int) -> bytes:
    return elf[:at] + value.to_bytes(2, "little") + elf[at + 2 :]


def test_what_is_no_kernel_is_refused(scale: ChipCallable) -> None:
    wrong = {
        "not an ELF object": b"#!/bin/sh\n",
        "64-bit little-endian": patched(scale.elf, 4, 0x0101),
        "type 1, not a shared object": patched(scale.elf, 16, 1),
        "ELF machine 22": patched(scale.elf, 18, 22),
    }
    for match, elf in wrong.items():
        with refused(RegistrationError, "CALLABLE_KIND_UNSUPPORTED", match):
            ChipCallable.from_elf(elf, "scale", [])


def test_an_impossible_symbol_or_signature_is_refused(scale: ChipCallable) -> None:
    for symbol in ("", "a b", "x;y", "é", None):
        with refused(ArgumentError, "ARGUMENT", "is not a C symbol"):
            ChipCallable.from_elf(scale.elf, symbol, [])  # type: ignore[arg-type]
    for entry in ("input", 1, None):
        with refused(
            ArgumentError, "ARGUMENT", "entry 1 of the signature is .*; expected one of scalar, in, out, inout"
        ):
            ChipCallable.from_elf(scale.elf, "scale", ["in", entry])  # type: ignore[list-item]


def test_the_header_is_where_it_is_said_to_be() -> None:
    assert "slr_tensor" in (KERNEL_INCLUDE / "simpler_kernel.h").read_text()
