"""Remote buffers without a session: handles, the book of rights and holds, packing of arguments, views of memory."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator

import numpy as np
import pytest

from simpler import limits
from simpler.args import TaskArgs
from simpler.byte_views import readable_bytes, writable_bytes
from simpler.errors import AccessDenied, ArgumentError, SimplerError, StaleHandle
from simpler.region import Region
from simpler.region_records import Range
from simpler.remote.buffers import (
    TRANSITIONS,
    BufferBook,
    BufferEvent,
    BufferState,
    RemoteBufferHandle,
    RemoteTensorRef,
)
from simpler.remote.clock import ClockOffset
from simpler.remote.io_thread import IoThread
from simpler.remote.memory import RemoteBuffers
from simpler.remote.packing import RemotePacked, pack
from simpler.remote.spec import RemoteWorkerSpec
from simpler.tensor import Access, Tensor, TensorArgType
from simpler.wire.control_messages import SessionLimits
from simpler.wire.task_args import BufferTensor, InlineTensor, RemoteArgs

INPUT, OUTPUT, INOUT = TensorArgType.INPUT, TensorArgType.OUTPUT, TensorArgType.INOUT
OUTPUT_EXISTING, NO_DEP = TensorArgType.OUTPUT_EXISTING, TensorArgType.NO_DEP


@pytest.fixture
def book() -> BufferBook:
    return BufferBook()


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region.create(workers=1, heap_bytes=1 << 16)
    yield made
    made.close()


# ---- handles


def test_a_handle_cannot_be_made_changed_copied_or_pickled(book: BufferBook) -> None:  # B1
    handle = book.add(2, 77, 5, 64)
    with pytest.raises(TypeError, match=r"Worker.remote_malloc"):
        RemoteBufferHandle()
    with pytest.raises(AttributeError, match="cannot be changed"):
        handle.nbytes = 1 << 40
    with pytest.raises(AttributeError, match="cannot be changed"):
        del handle.nbytes
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            attempt(handle)


def test_a_handle_shows_nothing_that_the_session_knows_it_by(book: BufferBook) -> None:  # B1
    handle = book.add(2, 4711, 31337, 64)
    shown = repr(handle) + "".join(str(getattr(handle, name, "")) for name in dir(handle) if name != "__doc__")
    assert "4711" not in shown
    assert "31337" not in shown
    assert repr(handle).endswith("of worker 2, 64 bytes>")


def test_a_forged_handle_is_in_no_book(book: BufferBook) -> None:  # B1
    handle = book.add(0, 1, 1, 64)
    forged = object.__new__(RemoteBufferHandle)
    for name in ("_serial", "nbytes", "worker"):
        object.__setattr__(forged, name, getattr(handle, name))
    for wrong, where in ((forged, book), (handle, BufferBook())):
        with pytest.raises(StaleHandle, match="belongs to another Worker"):
            where.hold([(wrong, Access.READ)])


# ---- the book


def test_a_free_waits_for_the_last_holder(book: BufferBook) -> None:  # B4
    handle = book.add(0, 1, 1, 64)
    first, second = book.hold([(handle, Access.READ)]), book.hold([(handle, Access.WRITE)])
    assert book.free(handle) is None
    with pytest.raises(StaleHandle, match="was freed"):
        book.hold([(handle, Access.READ)])
    with pytest.raises(StaleHandle, match="freed already"):
        book.free(handle)
    assert book.let_go(first) == []
    assert book.let_go(second) == second
    book.freed(second[0])
    with pytest.raises(StaleHandle):
        book.free(handle)


def test_a_run_may_end_after_its_worker_was_closed(book: BufferBook) -> None:  # B4, W3
    handle = book.add(0, 1, 1, 64)
    buffers = RemoteBuffers(IoThread("never started"), {}, book)
    held = buffers.hold([(handle, Access.READ)])
    assert book.free(handle) is None
    buffers.let_go(held)


def test_holding_several_is_all_or_nothing(book: BufferBook) -> None:  # B4
    good, freed = book.add(0, 1, 1, 64), book.add(0, 2, 1, 64)
    assert book.free(freed) is not None
    with pytest.raises(StaleHandle):
        book.hold([(good, Access.READ), (freed, Access.READ)])
    assert book.free(good) is not None, "nothing may hold it any more"


def test_one_task_may_hold_a_buffer_twice(book: BufferBook) -> None:  # B4
    handle = book.add(0, 1, 1, 64)
    held = book.hold([(handle, Access.READ), (handle, Access.WRITE)])
    assert book.free(handle) is None
    assert book.let_go(held) == held[:1]


def test_rights_are_checked(book: BufferBook) -> None:  # B2
    read_only = book.add(0, 1, 1, 64, Access.READ)
    book.hold([(read_only, Access.READ)])
    for wanted in (Access.WRITE, Access.BOTH):
        with pytest.raises(AccessDenied, match="was imported with access 'read', this needs '"):
            book.hold([(read_only, wanted)])


def test_a_free_that_was_not_confirmed_is_asked_for_again(book: BufferBook) -> None:  # B5
    handle, _ = book.add(0, 1, 1, 64), book.add(0, 2, 1, 64)
    entry = book.free(handle)
    assert entry is not None
    book.not_freed(entry, SimplerError("the first reason"))
    with pytest.raises(StaleHandle):
        book.hold([(handle, Access.READ)])
    assert book.free(handle) is entry
    book.not_freed(entry, SimplerError("another"))
    assert book.unconfirmed()[0].failure == "the first reason"
    assert book.to_ask_again(1) == []
    assert book.to_ask_again(0) == [entry]
    assert book.to_ask_again(0) == [], "it is being asked for"
    book.freed(entry)
    with pytest.raises(StaleHandle):
        book.free(handle)


def test_the_handles_of_a_lost_session_are_stale(book: BufferBook) -> None:  # B1
    lost, other = book.add(0, 1, 1, 64), book.add(1, 1, 1, 64)
    book.forget(0)
    with pytest.raises(StaleHandle, match="its session has ended"):
        book.hold([(lost, Access.READ)])
    book.hold([(other, Access.READ)])


def imported_from(book: BufferBook, handle: RemoteBufferHandle, worker: int) -> RemoteBufferHandle:
    """What an import of all of the buffer adds to the book."""
    exported = book.hold_exported(book.export(handle, 0, handle.nbytes, Access.BOTH), None)
    return book.add(worker, 9, 9, exported.nbytes, exported.access, root=exported.root, base=exported.offset)


def test_an_import_holds_its_root_until_its_release_is_confirmed(book: BufferBook) -> None:  # B4
    handle = book.add(0, 1, 1, 64)
    imported = imported_from(book, handle, 1)
    root = book.hold([(handle, Access.READ)])[0]
    assert book.let_go([root]) == []
    assert book.free(handle) is None
    entry = book.free(imported, imported=True)
    assert entry is not None
    book.not_freed(entry, SimplerError("no answer"))
    assert book.to_ask_again(1) == [entry]
    assert book.freed(entry) == [root]


def test_an_import_goes_with_either_session(book: BufferBook) -> None:  # B1, B4
    handle = book.add(0, 1, 1, 64)
    first, second = imported_from(book, handle, 1), imported_from(book, handle, 2)
    assert book.free(handle) is None
    assert book.forget(1) == []
    with pytest.raises(StaleHandle):
        book.free(first, imported=True)
    assert book.forget(0) == []
    with pytest.raises(StaleHandle, match="import from worker 0, whose session has ended"):
        book.hold([(second, Access.READ)])
    entry = book.free(second, imported=True)
    assert entry is not None
    assert book.freed(entry) == [], "the root went with its session"


def test_the_last_import_of_a_lost_session_frees_what_waits_for_it(book: BufferBook) -> None:  # B4
    handle = book.add(0, 1, 1, 64)
    imported_from(book, handle, 1)
    assert book.free(handle) is None
    [root] = book.forget(1)
    assert root.handle is handle


def test_the_table_leads_from_live_to_freed() -> None:
    reached, pending = set[BufferState](), [BufferState.LIVE]
    while pending:
        state = pending.pop()
        if state not in reached:
            reached.add(state)
            pending += [after for (before, _), after in TRANSITIONS.items() if before is state]
    assert reached == set(BufferState)
    assert not [state for state, _ in TRANSITIONS if state is BufferState.FREED]
    assert {event for _, event in TRANSITIONS} == set(BufferEvent)


# ---- tensors


@pytest.mark.parametrize(
    ("offset", "shape", "why"),
    [
        (0, (17,), r"68 bytes at offset 0 reaches beyond its buffer of 64 bytes"),
        (4, (4, 4), r"64 bytes at offset 4 reaches beyond"),
        (2, (1,), "not a multiple of the element size, 4"),
        (-4, (1,), "offset -4"),
    ],
)
def test_a_tensor_lies_within_its_buffer(book: BufferBook, offset: int, shape: tuple[int, ...], why: str) -> None:  # B3
    handle = book.add(0, 1, 1, 64)
    with pytest.raises(ArgumentError, match=why):
        RemoteTensorRef(handle, offset=offset, shape=shape, dtype="float32")
    RemoteTensorRef(handle, offset=32, shape=(2, 4), dtype="float32")


def test_a_tensor_cannot_be_moved_out_of_its_buffer(book: BufferBook) -> None:  # B3
    tensor = RemoteTensorRef(book.add(0, 1, 1, 64), offset=np.int64(4), shape=1, dtype="float32")
    assert type(tensor.offset) is int
    with pytest.raises(AttributeError, match="cannot be changed"):
        tensor.offset = 1000
    with pytest.raises(ArgumentError, match="offset 'x' is not a whole number"):
        RemoteTensorRef(tensor.handle, offset="x", shape=1, dtype="float32")  # type: ignore[arg-type]


def test_host_inline_is_as_long_as_it_says_and_small() -> None:  # B3
    ref = RemoteTensorRef.host_inline(np.arange(3, dtype="int16"), shape=3, dtype="int16")
    assert (ref.shape, ref.nbytes, ref.handle) == ((3,), 6, None)
    with pytest.raises(ArgumentError, match=r"got 6 bytes; shape \(4,\) of INT16 takes 8"):
        RemoteTensorRef.host_inline(bytes(6), shape=4, dtype="int16")
    with pytest.raises(ArgumentError, match="remote_copy_to"):
        RemoteTensorRef.host_inline(bytes(limits.INLINE_BYTES + 1), shape=limits.INLINE_BYTES + 1, dtype="uint8")


# ---- packing


def packed(args: TaskArgs, book: BufferBook, region: Region) -> tuple[RemoteArgs, RemotePacked]:
    result = pack(args, 0, book, [region], no_outputs)
    return RemoteArgs.decode(result.payload), result


def test_arguments_are_packed_with_what_orders_and_holds_them(book: BufferBook, region: Region) -> None:  # G1, B4
    handle = book.add(0, 7, 3, 64)
    half = [RemoteTensorRef(handle, offset=offset, shape=8, dtype="float32") for offset in (0, 32)]
    args = TaskArgs().add_tensor(half[0]).add_tensor(half[1], INOUT).add_scalar(0.5).add_scalar("x")
    sent, result = packed(args, book, region)
    first, second = sent.tensors
    assert isinstance(first, BufferTensor)
    assert isinstance(second, BufferTensor)
    assert (first.buffer, first.generation, first.offset, second.offset) == (7, 3, 0, 32)
    assert sent.scalars == [0.5, "x"]
    name = result.ranges[0].buffer
    assert name >> 63 == 1
    assert result.ranges == [Range(name, 0, 32, 1, 0), Range(name, 32, 64, 3, 1)]
    assert book.free(handle) is None
    assert len(book.let_go(result.captured)) == 1


def no_outputs(tensor: Tensor, tag: TensorArgType, worker: int) -> int:
    raise AssertionError("there is none")


def test_no_arguments_are_no_bytes(book: BufferBook, region: Region) -> None:
    assert pack(None, 0, book, [region], no_outputs) == RemotePacked(b"", [], [], {})
    assert pack(TaskArgs(), 0, book, [region], no_outputs) == RemotePacked(b"", [], [], {})


@pytest.mark.parametrize(("tag", "denied"), [(INPUT, False), (OUTPUT, True), (OUTPUT_EXISTING, True), (NO_DEP, True)])
def test_rights_follow_the_tag(tag: TensorArgType, denied: bool, book: BufferBook, region: Region) -> None:  # B2
    handle = book.add(0, 1, 1, 64, Access.READ)
    args = TaskArgs().add_tensor(RemoteTensorRef(handle, shape=16, dtype="float32"), tag)
    if denied:
        with pytest.raises(AccessDenied):
            pack(args, 0, book, [region], no_outputs)
        assert book.free(handle) is not None, "a refused task holds nothing"
    else:
        assert len(pack(args, 0, book, [region], no_outputs).captured) == 1


def test_no_dep_is_held_but_orders_nothing(book: BufferBook, region: Region) -> None:  # G1, B4
    args = TaskArgs().add_tensor(RemoteTensorRef(book.add(0, 1, 1, 64), shape=16, dtype="float32"), NO_DEP)
    result = pack(args, 0, book, [region], no_outputs)
    assert (result.ranges, len(result.captured)) == ([], 1)


def test_small_arrays_of_the_program_travel_along(book: BufferBook, region: Region) -> None:
    array = np.arange(6, dtype="int32").reshape(2, 3).T
    sent, _ = packed(TaskArgs().add_tensor(array), book, region)
    [tensor] = sent.tensors
    assert isinstance(tensor, InlineTensor)
    assert tensor.shape == [3, 2]
    assert tensor.data == np.ascontiguousarray(array).tobytes()


def test_what_cannot_travel_is_refused_with_advice(book: BufferBook, region: Region) -> None:  # B6
    elsewhere = RemoteTensorRef(book.add(1, 1, 1, 64), shape=16, dtype="float32")
    inline = RemoteTensorRef.host_inline(bytes(4), shape=1, dtype="float32")
    in_heap = region.new_array((4,), elsewhere.dtype)
    refused: list[tuple[object, TensorArgType, str]] = [
        (np.zeros(limits.INLINE_BYTES + 1, "uint8"), INPUT, "remote_malloc and remote_copy_to"),
        (np.zeros(4), INOUT, "tagged INOUT, but travels with the task"),
        (in_heap, INPUT, "earlier tasks may still write to it"),
        (elsewhere, INPUT, "in the session of worker 1; a task of worker 0 cannot use it"),
        (inline, OUTPUT, "tagged OUTPUT, but travels with the task"),
    ]
    mine = book.add(0, 1, 1, 64)
    for tensor, tag, why in refused:
        args = TaskArgs().add_tensor(RemoteTensorRef(mine, shape=1, dtype="float32")).add_tensor(tensor, tag)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match=f"tensor argument 1 .*{why}"):
            pack(args, 0, book, [region], no_outputs)
    assert book.free(mine) is not None, "a refused task holds nothing"
    del in_heap


def test_arguments_that_cannot_be_sent_hold_nothing(book: BufferBook, region: Region) -> None:  # B4
    handle = book.add(0, 1, 1, 64)
    refused: list[tuple[list[str | int], str]] = [
        (["x" * (limits.MESSAGE_TEXT_BYTES + 1)], "scalar 0 is a text of more than"),
        ([0] * (limits.MESSAGE_ARRAY_ITEMS + 1), f"at most {limits.MESSAGE_ARRAY_ITEMS} can be sent"),
    ]
    for scalars, why in refused:
        args = TaskArgs().add_tensor(RemoteTensorRef(handle, shape=1, dtype="float32"))
        for scalar in scalars:
            args.add_scalar(scalar)
        with pytest.raises(ArgumentError, match=why):
            pack(args, 0, book, [region], no_outputs)
    assert book.free(handle) is not None


def test_as_many_tensors_as_can_be_sent_can_be_read(book: BufferBook, region: Region) -> None:  # R2
    args, one = TaskArgs(), RemoteTensorRef(book.add(0, 1, 1, 64), shape=(1,) * 8, dtype="float32")
    for _ in range(limits.MESSAGE_ARRAY_ITEMS):
        args.add_tensor(one, NO_DEP)
    sent, _ = packed(args, book, region)
    assert len(sent.tensors) == limits.MESSAGE_ARRAY_ITEMS


# ---- memory of the program


def test_anything_with_bytes_can_be_copied_from() -> None:
    grid = np.arange(12, dtype="float32").reshape(3, 4)
    for source in (grid, grid.T, grid[:, ::2], np.asfortranarray(grid), np.float64(2.5), np.zeros((0, 3)), b"abc"):
        assert bytes(readable_bytes(source)) == np.asarray(source).tobytes()
    assert readable_bytes(grid).obj is not None
    with pytest.raises(ArgumentError, match="a str has no bytes that can be copied"):
        readable_bytes("text")


def test_a_contiguous_source_is_not_copied() -> None:
    source = np.zeros((2, 3), dtype="float16")
    view = readable_bytes(source)
    source[:] = 1
    assert bytes(view) == source.tobytes()


def test_a_destination_is_writable_and_contiguous() -> None:
    target = np.zeros((2, 3), dtype="complex128")
    writable_bytes(target)[:16] = np.complex128(1 + 2j).tobytes()
    assert target[0, 0] == 1 + 2j
    with pytest.raises(ArgumentError, match="read-only"):
        writable_bytes(b"constant")
    for strided in (target[:, ::2], target.T):
        with pytest.raises(ArgumentError, match="not contiguous"):
            writable_bytes(strided)


def test_bytes_of_any_buffer_may_be_in_a_cycle_that_is_collected() -> None:
    swapped = np.zeros(3, ">i4")
    for source in (np.eye(2), swapped, np.eye(0), np.frombuffer(b"abc", "uint8")):
        for view in (readable_bytes(source), readable_bytes(memoryview(source))):  # type: ignore[arg-type]
            assert bytes(view) == source.tobytes()
            cycle: list[object] = [view]
            cycle.append(cycle)
        del view, cycle
        gc.collect()


# ---- the clock


def test_the_clock_offset_lies_within_every_exchange() -> None:
    clock = ClockOffset()
    assert clock.ns == 0
    clock.observe(1000, 5_000_000_100, 1900)
    clock.observe(2000, 5_000_001_400, 2600)
    assert -5_000_000_100 + 1000 <= clock.ns <= -5_000_001_400 + 2600


def test_a_clock_that_may_be_ours_is_taken_for_ours() -> None:
    clock = ClockOffset()
    clock.observe(1000, 1010, 900_000)
    assert clock.ns == 0


# ---- the spec


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        ({"transport": "rdma"}, "UNSUPPORTED", "transport 'rdma' is not supported"),
        ({"tls": object()}, "ARGUMENT", "is not a TlsConfig"),
        ({"tls": "insecure", "endpoint": "unix:/s.sock"}, "ARGUMENT", "tls is for TCP"),
        ({"endpoint": "10.0.0.2:7390"}, "ARGUMENT", "SIMPLER_TLS"),
        ({"endpoint": "127.example.com:7390"}, "ARGUMENT", "SIMPLER_TLS"),
        ({"endpoint": "nowhere"}, "ARGUMENT", "'nowhere' is not an address"),
        ({"device_ids": (0, 0)}, "ARGUMENT", "names a device twice"),
        ({"device_ids": (-1,)}, "ARGUMENT", "whole number"),
        ({"num_sub_workers": -1}, "ARGUMENT", "num_sub_workers -1"),
        ({"num_sub_workers": True}, "ARGUMENT", "num_sub_workers True"),
        ({"heap_bytes": 65535}, "ARGUMENT", "heap_bytes 65535 is not from 65536 to"),
        ({"env": {"A=B": "c"}}, "ARGUMENT", "'A=B'"),
        ({"import_paths": "/opt"}, "ARGUMENT", r"write \['/opt'\]"),
        ({"import_paths": ["relative"]}, "ARGUMENT", "'relative' is not absolute"),
        ({"import_paths": None}, "ARGUMENT", "import_paths is a list of folders"),
        ({"endpoint": None}, "ARGUMENT", "endpoint None is not an address"),
        ({"device_ids": 0}, "ARGUMENT", r"device_ids is a list of device ids; write \[0\]"),
        ({"env": ["A"]}, "ARGUMENT", "env is a mapping of names to texts or None, not a list"),
        ({"platform": None}, "ARGUMENT", "platform None is not a text"),
        ({"output": "no"}, "ARGUMENT", "output 'no' is neither True nor False"),
        ({"limits": 5}, "ARGUMENT", "limits 5 are no SessionLimits"),
        ({"limits": SessionLimits(memory_bytes=-1)}, "ARGUMENT", r"Expected `int` >= 0 - at `\$.memory_bytes`"),
        ({"health_timeout_s": True}, "ARGUMENT", "health_timeout_s True is not from 0.1 to 86400 seconds"),
    ],
)
def test_a_spec_that_cannot_work_is_refused_at_once(options: dict[str, object], code: str, why: str) -> None:  # R7, L4
    with pytest.raises(SimplerError, match=why) as raised:
        RemoteWorkerSpec(**({"endpoint": "unix:/x"} | options))  # type: ignore[arg-type]
    assert raised.value.code == code


def test_a_spec_does_not_show_its_environment() -> None:
    assert "hunter2" not in repr(RemoteWorkerSpec("unix:/x", env={"PASSWORD": "hunter2"}))


def test_a_spec_makes_the_manifest() -> None:
    spec = RemoteWorkerSpec("unix:/x", device_ids=[1], num_sub_workers=2, env={"A": None}, import_paths=["/opt"])
    manifest = spec.manifest(name="job/0", startup_timeout_s=5.0, imports=["mod:fn"])
    assert (manifest.device_ids, manifest.num_sub_workers, manifest.env) == ([1], 2, {"A": None})
    assert (manifest.imports, manifest.import_paths, manifest.name) == (["mod:fn"], ["/opt"], "job/0")
