"""Buffers that a session owns: names with generations, ranges, and memory that stays while somebody works on it."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import trio

from link_scene import raw_peer
from simpler.errors import ArgumentError, CapacityError, SessionLost, SimplerError, StaleHandle
from simpler.region import Region
from simpler.tensor import Access, TensorArgType
from simpler.wire.command_messages import Malloc
from simpler.wire.data_messages import CopyFrom, CopyTo
from simpler.wire.frames import MAGIC
from simpler.wire.link import Link
from simplerd.runner.buffers import SessionBuffers
from simplerd.runner.copied_import import CopiedImport
from simplerd.runner.daemon_socket import DaemonSocket
from simplerd.runner.data_lane import DataLane
from simplerd.runner.refusal_reports import RefusalReports
from simplerd.runner.trio_calls import TrioCalls

HEAP_BYTES = 1 << 20
NO_LINK = cast(Link, None)


@pytest.fixture
def region() -> Iterator[Region]:
    region = Region.create(workers=1, heap_bytes=HEAP_BYTES)
    yield region
    region.check()
    region.close()


@pytest.fixture
def buffers(region: Region) -> SessionBuffers:
    return SessionBuffers(region, "s-1")


@pytest.fixture
def reports() -> Iterator[RefusalReports]:
    daemon, runner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with daemon, runner, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        yield RefusalReports(DaemonSocket(runner, listening, Path(), adoption_timeout_s=1))


class ToldElsewhere:
    """An import whose owner is told in a thread that also serves the session's data lane, as TrioCalls are."""

    place, offset, nbytes, access = 0, 0, 64, Access.BOTH

    def __init__(self, buffers: SessionBuffers) -> None:
        self._buffers = buffers

    def drop(self) -> None:
        """Returns once that thread has done what it was at."""
        elsewhere = threading.Thread(target=self._buffers.malloc, args=(8,), daemon=True)
        elsewhere.start()
        elsewhere.join(10)
        assert not elsewhere.is_alive(), "it waits for this one"


def used(region: Region) -> int:
    gc.collect()
    return region.stats().heap_used


def test_a_freed_name_is_stale_for_ever_even_when_its_id_comes_back(buffers: SessionBuffers) -> None:  # B3
    first = buffers.malloc(64)
    buffers.free(*first)
    second = buffers.malloc(64)
    assert second[0] == first[0]
    assert second != first
    with pytest.raises(StaleHandle, match="session s-1"):
        buffers.free(*first)
    with pytest.raises(StaleHandle, match="session s-1"):
        buffers.hold(*first, 0, 1)
    buffers.free(*second)


@pytest.mark.parametrize("name", [(0, 1), (7, 1), (1 << 40, 3)])
def test_a_name_that_was_never_given_is_stale(buffers: SessionBuffers, name: tuple[int, int]) -> None:  # B1
    with pytest.raises(StaleHandle):
        buffers.hold(*name, 0, 1)


@pytest.mark.parametrize(("offset", "nbytes"), [(0, 65), (64, 1), (1 << 63, 1), (1, 1 << 63)])
def test_a_range_outside_the_buffer_is_refused(buffers: SessionBuffers, offset: int, nbytes: int) -> None:  # B3
    name = buffers.malloc(64)
    with pytest.raises(ArgumentError, match="of a buffer of 64 in session s-1"):
        buffers.hold(*name, offset, nbytes)
    buffers.free(*name)


def test_the_table_can_be_used_while_an_import_is_given_back(buffers: SessionBuffers) -> None:
    buffers.release(*buffers.add_import(cast(CopiedImport, ToldElsewhere(buffers))))


def test_a_freed_buffer_stays_until_its_last_holder_lets_go(region: Region, buffers: SessionBuffers) -> None:  # B4
    empty = used(region)
    name = buffers.malloc(4096)
    held = buffers.hold(*name, 16, 32)
    buffers.free(*name)
    assert used(region) > empty
    region.view(held.offset, held.nbytes)[:] = b"x" * 32
    held.release()
    assert used(region) == empty


def test_a_full_heap_says_what_to_raise(buffers: SessionBuffers) -> None:  # G2
    with pytest.raises(CapacityError, match="heap_bytes"):
        buffers.malloc(HEAP_BYTES * 2)


def test_bytes_that_never_came_leave_nothing_held(
    region: Region, buffers: SessionBuffers, reports: RefusalReports
) -> None:  # B4
    empty = used(region)
    lane = DataLane(region, buffers, reports)
    buffer, generation = buffers.malloc(4096)
    view = lane.place(NO_LINK, CopyTo(buffer=buffer, generation=generation, offset=0), 4096)
    assert len(view) == 4096
    buffers.free(buffer, generation)
    assert used(region) > empty
    del view  # as when the connection breaks
    assert used(region) == empty


async def test_a_copy_out_is_a_view_that_outlives_the_free(
    region: Region, buffers: SessionBuffers, reports: RefusalReports
) -> None:  # B4
    empty = used(region)
    lane = DataLane(region, buffers, reports)
    buffer, generation = buffers.malloc(4096)
    lane.place(NO_LINK, CopyTo(buffer=buffer, generation=generation, offset=8), 4)[:] = b"abcd"
    request = CopyFrom(buffer=buffer, generation=generation, offset=8, nbytes=4)
    answer = await lane.serve(NO_LINK, request, memoryview(b""))
    assert isinstance(answer, tuple)
    buffers.free(buffer, generation)
    assert bytes(answer[1]) == b"abcd"
    del answer
    assert used(region) == empty


async def test_a_data_lane_takes_copies_only(region: Region, buffers: SessionBuffers, reports: RefusalReports) -> None:
    lane = DataLane(region, buffers, reports)
    with pytest.raises(SimplerError, match="MALLOC does not belong on a data lane") as caught:
        await lane.serve(NO_LINK, Malloc(nbytes=1), memoryview(b""))
    assert caught.value.code == "UNSUPPORTED"


async def test_an_owner_that_dies_within_a_frame_is_lost_and_broke_nothing(region: Region) -> None:  # R4, B7
    async with raw_peer() as (lane, owner), trio.open_nursery() as nursery:
        calls, block = TrioCalls(), region.alloc(64)
        imported = CopiedImport(region, block, 64, Access.BOTH, owner=(1, 0), lane=lane, trio_calls=calls)

        async def die() -> None:
            await owner.receive_some()
            await owner.send_all(MAGIC)
            await owner.aclose()

        nursery.start_soon(die)
        with pytest.raises(SessionLost, match="raw is gone, while imported memory was copied"):
            await trio.to_thread.run_sync(imported.before, TensorArgType.INPUT, block, 64)
        await calls.aclose()
        region.unref(block)
