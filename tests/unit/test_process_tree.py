"""Knowing when the last process of a session is gone."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable

import pytest
import trio

from simplerd.process_tree import ProcessTree, tree_of

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
async def tree_and_start() -> AsyncIterator[tuple[ProcessTree, Start]]:
    """A tree, and what starts a process of it, which may start others."""
    tree, child_end = ProcessTree.new()

    def start(script: str) -> subprocess.Popen[bytes]:
        with child_end:
            return subprocess.Popen(["sh", "-c", script], stdin=child_end.fileno(), stdout=subprocess.PIPE)

    yield tree, start
    tree.close()


@pytest.fixture
def tree(tree_and_start: tuple[ProcessTree, Start]) -> ProcessTree:
    return tree_and_start[0]


@pytest.fixture
def start(tree_and_start: tuple[ProcessTree, Start]) -> Start:
    return tree_and_start[1]


async def test_it_is_gone_with_its_last_process(tree: ProcessTree, start: Start) -> None:  # R5
    with start("exec 3<&0; sleep 1000 <&3 >/dev/null & echo $!") as process:
        assert process.stdout is not None
        orphan = int(process.stdout.readline())
        process.wait()
        with trio.move_on_after(0.05) as scope:
            await tree.wait_gone()
        assert scope.cancelled_caught
        assert tree.kill() == [orphan]
        with trio.fail_after(5):
            await tree.wait_gone()


async def test_who_reads_its_input_gets_the_end_of_it_at_once(tree: ProcessTree, start: Start) -> None:
    with start("cat; echo done") as process:
        assert process.communicate(timeout=5)[0] == b"done\n"
    await tree.wait_gone()


async def test_who_writes_to_its_input_does_not_end_it(tree: ProcessTree, start: Start) -> None:
    with start("echo hello >&0; echo written; exec sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        with trio.move_on_after(0.05) as scope:
            await tree.wait_gone()
        assert scope.cancelled_caught
        process.kill()
    await tree.wait_gone()


async def test_who_has_lost_the_other_end_finds_the_processes_by_its_number(
    tree: ProcessTree, start: Start
) -> None:  # D2
    with start("echo begun; exec sleep 1000") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert tree_of(process.pid) == tree.inode
        found = ProcessTree(None, tree.inode)
        with trio.move_on_after(0.05) as scope:
            await found.wait_gone()
        assert scope.cancelled_caught
        assert found.kill() == [process.pid]
        process.wait()
        await found.wait_gone()
        found.close()
    assert tree_of(process.pid) == 0
