"""A chip worker's process: owns one device, and runs kernels on it for its Worker's region.

Rules
  1. The device is opened here, after the fork, and every call on it comes from this process's one thread.
  2. A kernel sees device memory only. Tensors are packed row-major on their way in and spread over their strides on
     their way out: bytes between the elements of a view belong to other tasks and are never touched.
  3. What lies in a program's device buffer stays there. Of other tensors, what the kernel reads or the tag says is read
     is copied in, and what the kernel writes is copied out, unless it failed. What a kernel declares to write, it
     writes whole: the rest of an OUT tensor is undefined.
  4. A kernel that does more with an argument than the task's tag says is refused: nothing would order it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from simpler.args import Scalar, TensorRecord, decode
from simpler.callables import ChipBlob, ChipDescriptor, Content, Direction
from simpler.device import Device, DeviceTensor, Kernel
from simpler.device_buffers import ChipRequest
from simpler.device_memory import DeviceBuffers, DeviceMemory
from simpler.errors import ArgumentError, DeviceError, RegistrationError, SimplerError, TaskError
from simpler.imported_memory import FORGET, Places
from simpler.result_record import encode_result
from simpler.tensor import Access, TensorArgType
from simpler.worker_process import WorkerSpec, run_worker

if TYPE_CHECKING:
    import numpy as np

    from simpler.region import Region, Task

_NEEDS = {Direction.IN: Access.READ, Direction.OUT: Access.WRITE, Direction.INOUT: Access.BOTH}
_FITTING_TAGS = {
    direction: [tag for tag in TensorArgType if not needed & ~tag.rights] for direction, needed in _NEEDS.items()
}
"""By what a kernel does with a tensor, the tags that allow it."""


@dataclass(frozen=True)
class LoadedKernel:
    """A kernel on this worker's device."""

    hashid: str
    kernel: Kernel
    signature: tuple[Direction, ...]

    @cached_property
    def tensors(self) -> list[Direction]:
        """Of each tensor, in their order."""
        return [direction for direction in self.signature if direction is not Direction.SCALAR]

    def describe(self) -> str:
        return f"kernel {self.kernel.symbol} ({self.hashid})"


def main(argument: bytes, fds: list[int]) -> None:
    """Entry of the process; ``argument`` and ``fds`` as ``run_worker`` takes them."""
    with contextlib.ExitStack() as closing:

        def make(heaps: Sequence[Region], spec: WorkerSpec) -> ChipExecutor:
            assert spec.device_id is not None
            device = closing.enter_context(Device(spec.platform, spec.device_id))
            generation = heaps[0].worker_info(spec.worker).deaths
            return ChipExecutor(heaps, device, spec.runtime, generation)

        run_worker(argument, fds, make)


class ChipExecutor:
    """What a chip worker does with its tasks.

    ``runtime``: of the Worker, which a kernel must be made for. ``generation``: how many processes the worker had
    before.
    """

    source_file = __file__

    def __init__(self, heaps: Sequence[Region], device: Device, runtime: str, generation: int = 0) -> None:
        self._places, self._device, self._runtime, self._generation = Places(heaps), device, runtime, generation
        self._arch = device.info().arch
        self._memory = DeviceMemory(device)
        self._buffers = DeviceBuffers(device, self._memory)
        self._kernels: dict[bytes, LoadedKernel] = {}

    def load(self, content: Content) -> None:
        """Loads a kernel.

        Raises RegistrationError when it is none, or not for this worker; DeviceError when the device refuses it.
        """
        self._check_target(content)
        blob = ChipBlob.decode(content.payload)
        kernel = self._device.load(blob.elf, blob.symbol)
        self._kernels[content.digest] = LoadedKernel(content.hashid, kernel, blob.signature)

    def start(self) -> None:
        """The device was opened when this was made."""

    def unload(self, digest: bytes) -> None:
        """Takes a kernel off the device."""
        self._device.unload(self._kernels.pop(digest).kernel)

    def call(self, task: Task) -> None:
        """Runs a task's kernel on its arguments.

        Raises TaskError when it returns non-zero, ArgumentError when the arguments do not fit its signature,
        StaleHandle for a device buffer that is gone, and DeviceError when the device fails.
        """
        loaded, args = self._kernels[task.digest], decode(task.args)
        check_arguments(loaded, args.tensors, args.scalars)
        if not args.tensors:
            self._launch(loaded, (), args.scalars)
            return
        if args.imports:
            self._places.admit(args.imports)
        placed: list[DeviceTensor] = []
        try:
            for record, direction in zip(args.tensors, loaded.tensors, strict=True):
                placed.append(self._place(record))
                if not record.on_device and (direction is not Direction.OUT or record.tag is TensorArgType.INOUT):
                    self._copy_in(record, placed[-1])
            self._launch(loaded, placed, args.scalars)
            for record, direction, tensor in zip(args.tensors, loaded.tensors, placed, strict=True):
                if not record.on_device and direction is not Direction.IN:
                    self._copy_out(record, tensor)
        finally:
            for record, tensor in zip(args.tensors, placed, strict=False):
                if not record.on_device and tensor.nbytes:
                    self._memory.give(tensor.address, tensor.nbytes)

    def control(self, task: Task) -> Sequence[bytes | memoryview] | None:
        """Does what device_buffers.py says a program may ask.

        Raises DeviceError, StaleHandle for a buffer that is gone, and SimplerError UNSUPPORTED for anything else.
        """
        args = decode(task.args)
        match args.scalars:
            case [ChipRequest.MALLOC, int(buffer), int(nbytes)]:
                self._buffers.add(buffer, nbytes)
                return encode_result(self._generation)
            case [ChipRequest.FREE, int(buffer)]:
                self._buffers.remove(buffer)
            case [str(request), int(place)] if request == FORGET:
                self._places.forget(place)
            case [ChipRequest.COPY]:
                self._copy(*args.tensors)
            case _:
                raise SimplerError(f"a chip worker does not know the request {args.scalars}", code="UNSUPPORTED")
        return None

    def must_leave(self, error: BaseException) -> bool:
        """Once the device does not answer; another process opens it anew."""
        return isinstance(error, DeviceError) and error.code == "DEVICE_LOST"

    def _copy(self, source: TensorRecord, target: TensorRecord) -> None:
        there, here = (target, source) if target.on_device else (source, target)
        nbytes = math.prod(here.shape) * here.dtype.itemsize
        address = self._buffers.address(-there.place, there.offset, nbytes)
        tensor = DeviceTensor(address, nbytes, here.dtype, tuple(here.shape))
        if target.on_device:
            self._copy_in(source, tensor)
        else:
            self._copy_out(target, tensor)

    def _check_target(self, content: Content) -> None:
        descriptor = content.decoded
        if not isinstance(descriptor, ChipDescriptor):
            raise _unfit(content.hashid, f"is of kind {content.kind.name}; a chip worker runs kernels")
        wanted = (descriptor.platform, descriptor.runtime, descriptor.target_arch)
        offered = (self._device.driver, self._runtime, self._arch)
        if wanted != offered:
            raise _unfit(
                content.hashid,
                f"is for platform {wanted[0]}, runtime {wanted[1]}, architecture {wanted[2]}; "
                f"this worker has {offered[0]}, {offered[1]}, {offered[2]}",
            )

    def _launch(self, loaded: LoadedKernel, tensors: Sequence[DeviceTensor], scalars: Sequence[Any]) -> None:
        status = self._device.launch(loaded.kernel, tensors, scalars)
        if status != 0:
            device = f"device {self._device.device_id} ({self._device.driver})"
            raise TaskError(
                f"{loaded.describe()} returned {status} on {device}",
                hashid=loaded.hashid,
                symbol=loaded.kernel.symbol,
                status=status,
                device=self._device.device_id,
            )
        self._device.synchronize()

    def _place(self, record: TensorRecord) -> DeviceTensor:
        nbytes = math.prod(record.shape) * record.dtype.itemsize
        if record.on_device:
            address = self._buffers.address(-record.place, record.offset, nbytes)
        else:
            address = self._memory.take(nbytes) if nbytes else 0
        return DeviceTensor(address, nbytes, record.dtype, tuple(record.shape))

    def _copy_in(self, record: TensorRecord, tensor: DeviceTensor) -> None:
        if record.strides is None:
            self._device.copy_in(tensor.address, self._places[record.place].view(record.offset, tensor.nbytes))
        elif tensor.nbytes:
            import numpy as np

            self._device.copy_in(tensor.address, np.ascontiguousarray(self._strided(record)))

    def _copy_out(self, record: TensorRecord, tensor: DeviceTensor) -> None:
        if record.strides is None:
            self._device.copy_out(self._places[record.place].view(record.offset, tensor.nbytes), tensor.address)
        elif tensor.nbytes:
            import numpy as np

            packed = np.empty(tensor.shape, record.dtype.numpy_name)
            self._device.copy_out(packed, tensor.address)
            self._strided(record)[...] = packed

    def _strided(self, record: TensorRecord) -> np.ndarray[Any, Any]:
        return self._places[record.place].ndarray(record.offset, record.shape, record.dtype, record.strides)


def check_arguments(loaded: LoadedKernel, tensors: Sequence[TensorRecord], scalars: Sequence[Scalar]) -> None:
    """Raises ArgumentError unless count, order and tags of the arguments fit the kernel's signature."""
    n_scalars = len(loaded.signature) - len(loaded.tensors)
    if (len(tensors), len(scalars)) != (len(loaded.tensors), n_scalars):
        signature = ", ".join(direction.name.lower() for direction in loaded.signature)
        raise ArgumentError(
            f"{loaded.describe()} takes {len(loaded.tensors)} tensors and {n_scalars} scalars ({signature}); "
            f"the task has {len(tensors)} and {len(scalars)}",
            hashid=loaded.hashid,
        )
    for index, (record, direction) in enumerate(zip(tensors, loaded.tensors, strict=True)):
        if record.tag not in _FITTING_TAGS[direction]:
            fitting = ", ".join(tag.name for tag in _FITTING_TAGS[direction])
            raise ArgumentError(
                f"tensor argument {index} of {loaded.describe()} is {direction.name}, but the task tags it "
                f"{record.tag.name}; tag it as one of {fitting}, or correct the kernel's signature",
                hashid=loaded.hashid,
            )


def _unfit(hashid: str, why: str) -> RegistrationError:
    return RegistrationError(f"{hashid} {why}", code="CALLABLE_KIND_UNSUPPORTED", hashid=hashid)
