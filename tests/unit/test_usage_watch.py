"""What the processes of a session use, looked at where the kernel does not keep them below their limits."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import trio

from simplerd.process_tree import ProcessTree
from simplerd.session_limits import Limit, LimitsInForce
from simplerd.usage_watch import UsageWatch

MIB = 1 << 20
FOUR_PROCESSES = "exec 3<&0; sleep 1000 <&3 & sleep 1000 <&3 & sleep 1000 <&3 & wait"
TWO_THREADS = r"""
import threading, time
open('/proc/self/comm', 'wb').write(b'\xff: 9')  # any name will do
threading.Thread(target=time.sleep, args=(1000,)).start()
"""
MUCH_MEMORY = "import time; held = bytearray(b'x') * (100 << 20); time.sleep(1000)"
SHARED_MEMORY = """
import mmap, os, time
shared = mmap.mmap(-1, 60 << 20)
touched, touch = os.pipe()
for _ in range(2):
    if os.fork() == 0:
        shared[::4096] = b'x' * len(shared[::4096])
        os.write(touch, b'.')
        time.sleep(1000)
shared[::4096] = b'x' * len(shared[::4096])
os.read(touched, 1), os.read(touched, 1)
os.fork()
time.sleep(1000)
"""
"""Three processes that share 60 MiB, and only then a fourth."""

Tree = tuple[ProcessTree, socket.socket]


@pytest.fixture
async def tree() -> AsyncIterator[Tree]:
    tree, child_end = ProcessTree.new()
    yield tree, child_end
    tree.kill()
    with trio.fail_after(20):
        await tree.wait_gone()
    tree.close()


def start(tree: Tree, words: list[str]) -> subprocess.Popen[bytes]:
    with tree[1] as child_end:
        return subprocess.Popen(words, stdin=child_end.fileno())


async def exceeded(tree: Tree, limits: LimitsInForce, words: list[str]) -> str:
    """What is said of a process, and what it starts, that comes to have too much."""
    watch = UsageWatch(interval_s=0.01)
    with start(tree, words) as process:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            try:
                with trio.fail_after(20):
                    return await watch.exceeded(tree[0], limits)
            finally:
                nursery.cancel_scope.cancel()
                tree[0].kill()
                process.wait()


@pytest.mark.parametrize(
    ("words", "allowed"), [(["sh", "-c", FOUR_PROCESSES], 3), ([sys.executable, "-c", TWO_THREADS], 1)]
)
async def test_processes_are_counted_with_their_threads(tree: Tree, words: list[str], allowed: int) -> None:
    # D5
    limits = LimitsInForce(processes=Limit(allowed, "limits.session_processes of this host"))
    what = await exceeded(tree, limits, words)
    assert what == (
        f"it had {allowed + 1} processes and threads, and may have {allowed} (limits.session_processes of this host)"
    )


async def test_memory_is_told_with_what_is_allowed(tree: Tree) -> None:  # D5
    limits = LimitsInForce(memory_bytes=Limit(90 * MIB, "limits.session_memory_bytes of this host"))
    what = await exceeded(tree, limits, [sys.executable, "-c", MUCH_MEMORY])
    assert what.startswith("it used ")
    assert what.endswith(" MiB of memory, and may use 90 MiB (limits.session_memory_bytes of this host)")


async def test_memory_that_processes_share_is_counted_once(tree: Tree) -> None:  # D5
    limits = LimitsInForce(memory_bytes=Limit(150 * MIB, "a"), processes=Limit(3, "b"))
    assert "4 processes" in await exceeded(tree, limits, [sys.executable, "-c", SHARED_MEMORY])
