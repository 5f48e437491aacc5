"""Kernels for chips: an ELF shared object, the symbol to call in it, and what it does with each argument."""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from simpler import limits
from simpler.content import ChipBlob, Content, is_symbol
from simpler.descriptors import ChipDescriptor, Direction, encode_signature, unsupported
from simpler.errors import ArgumentError, RegistrationError

KERNEL_INCLUDE = Path(__file__).parent / "include"
"""The folder of simpler_kernel.h, for those who compile kernels themselves."""

# -z defs: a symbol that nothing provides is an error now, not when a worker loads the kernel.
# No build id, a fixed file name and a relative path: the same source gives the same bytes, and so the same hashid.
_CC_FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-Wl,-z,defs", "-Wl,--build-id=none")
_ELF_HEADER = struct.Struct("<4sBB10xHH")  # magic, class, byte order, type, machine: elf(5)
_ELF_64_BIT, _ELF_LITTLE_ENDIAN, _ELF_SHARED_OBJECT = 2, 1, 3
_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}


@dataclass(frozen=True)
class ChipCallable:
    """A kernel, ready to register. Made by ``from_elf`` and ``from_c_source``.

    ``signature``: one Direction for each argument. Tensors (IN, OUT, INOUT) reach the kernel in their order, scalars in
    theirs. ``target_arch``: what the ELF object is built for, such as "x86_64".
    """

    symbol: str
    signature: tuple[Direction, ...]
    elf: bytes = field(repr=False)
    target_arch: str
    platform: str = "sim"
    runtime: str = "graph"

    @classmethod
    def from_elf(
        cls,
        elf: str | os.PathLike[str] | bytes,
        symbol: str,
        signature: Sequence[Direction | str],
        *,
        platform: str = "sim",
        runtime: str = "graph",
    ) -> ChipCallable:
        """A kernel from an ELF shared object: its path, or its bytes.

        ``signature``: Direction members or their names in any case, such as ``["in", "inout", "scalar"]``.
        Raises ArgumentError for an impossible symbol or signature, RegistrationError CALLABLE_KIND_UNSUPPORTED for what
        is not a 64-bit little-endian ELF shared object of a known machine, OSError when the file cannot be read.
        """
        if not isinstance(symbol, str) or not is_symbol(symbol):
            raise ArgumentError(f"{symbol!r} is not a C symbol; expected letters, digits and underscores")
        image = bytes(elf) if isinstance(elf, (bytes, bytearray, memoryview)) else Path(elf).read_bytes()
        directions = tuple(_direction(entry, at) for at, entry in enumerate(signature))
        return cls(symbol, directions, image, _target_arch(image), platform, runtime)

    @classmethod
    def from_c_source(
        cls,
        source: str,
        symbol: str,
        signature: Sequence[Direction | str],
        *,
        platform: str = "sim",
        runtime: str = "graph",
    ) -> ChipCallable:
        """A kernel from C, compiled with ``$CC`` or ``cc``; ``#include "simpler_kernel.h"`` gives it ``slr_tensor``.

        Raises RegistrationError CALLABLE_COMPILE_FAILED with all that the compiler said, else as ``from_elf``.
        """
        if not isinstance(source, str):
            raise ArgumentError(f"the source of a kernel is a string of C, not a {type(source).__name__}")
        elf = _compile(source, symbol)
        return cls.from_elf(elf, symbol, signature, platform=platform, runtime=runtime)

    @cached_property
    def content(self) -> Content:
        """The bytes that workers load, and that the hashid names."""
        blob = ChipBlob(self.symbol, self.signature, self.elf).encode()
        signature = hashlib.sha256(encode_signature(self.signature)).digest()
        names = (self.target_arch, self.platform, self.runtime)
        return Content.of(ChipDescriptor(*names, hashlib.sha256(blob).digest(), signature), blob)

    @property
    def hashid(self) -> str:
        return self.content.hashid


def _direction(entry: Direction | str, at: int) -> Direction:
    if isinstance(entry, Direction):
        return entry
    if isinstance(entry, str) and entry.upper() in Direction.__members__:
        return Direction[entry.upper()]
    names = ", ".join(each.name.lower() for each in Direction)
    raise ArgumentError(f"entry {at} of the signature is {entry!r}; expected one of {names}")


def _target_arch(image: bytes) -> str:
    if len(image) < _ELF_HEADER.size or not image.startswith(b"\x7fELF"):
        raise unsupported(f"the kernel ({len(image)} bytes, beginning with {image[:8]!r}) is not an ELF object")
    _, width, order, kind, machine = _ELF_HEADER.unpack_from(image)
    if (width, order) != (_ELF_64_BIT, _ELF_LITTLE_ENDIAN):
        raise unsupported("the kernel is not a 64-bit little-endian ELF object")
    if kind != _ELF_SHARED_OBJECT:
        raise unsupported(f"the kernel is an ELF object of type {kind}, not a shared object: link it with -shared")
    if machine not in _ELF_MACHINES:
        known = ", ".join(_ELF_MACHINES.values())
        raise unsupported(f"the kernel is built for ELF machine {machine}; known are {known}")
    return _ELF_MACHINES[machine]


def _compile(source: str, symbol: str) -> bytes:
    compiler = shlex.split(os.environ.get("CC") or "cc")
    with tempfile.TemporaryDirectory(prefix="simpler-kernel-") as folder:
        (Path(folder) / "kernel.c").write_text(source, encoding="utf-8")
        command = [*compiler, *_CC_FLAGS, f"-I{KERNEL_INCLUDE}", "-o", "kernel.so", "kernel.c", "-lm"]
        try:
            status, said = _run(command, folder)
        except FileNotFoundError:
            raise _compile_failed(
                symbol, f"there is no C compiler {compiler[0]!r}; install gcc, set CC, or pass ready code to from_elf"
            ) from None
        except OSError as error:
            raise _compile_failed(symbol, f"{compiler[0]} cannot be run: {error.strerror}") from None
        except subprocess.TimeoutExpired as error:
            raise _compile_failed(symbol, f"{shlex.join(command)} took more than {error.timeout} s") from None
        if status != 0:
            raise _compile_failed(symbol, f"{shlex.join(command)} ended with status {status}\n{said}")
        return (Path(folder) / "kernel.so").read_bytes()


def _run(command: Sequence[str], folder: str) -> tuple[int, str]:
    """The exit status of a compiler, and what it said. It has a process group of its own, which ends with this call:
    what does the work are its children, and they hold its output open."""
    with subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    ) as running:
        try:
            said, _ = running.communicate(timeout=limits.COMPILE_TIMEOUT_S)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    return running.returncode, said.decode(errors="replace").rstrip()


def _compile_failed(symbol: str, why: str) -> RegistrationError:
    return RegistrationError(f"kernel {symbol} was not compiled: {why}", code="CALLABLE_COMPILE_FAILED", symbol=symbol)
