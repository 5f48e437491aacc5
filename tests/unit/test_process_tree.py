"""Knowing when the last process of a session is gone."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator

import pytest
import trio

from simplerd.process_tree import ProcessTree


@pytest.fixture
async def tree() -> AsyncIterator[ProcessTree]:
    tree = ProcessTree()
    yield tree
    tree.close()


def start(tree: ProcessTree, script: str) -> subprocess.Popen[bytes]:
    """A process of the tree, and whatever it starts."""
    process = subprocess.Popen(["sh", "-c", script], stdin=tree.child_end.fileno(), stdout=subprocess.PIPE)
    tree.child_end.close()
    return process


async def test_it_is_gone_with_its_last_process(tree: ProcessTree) -> None:  # R5
    with start(tree, "exec 3<&0; sleep 1000 <&3 >/dev/null & echo $!") as process:
        assert process.stdout is not None
        orphan = int(process.stdout.readline())
        process.wait()
        with trio.move_on_after(0.05) as scope:
            await tree.wait_gone()
        assert scope.cancelled_caught
        assert tree.kill() == [orphan]
        with trio.fail_after(5):
            await tree.wait_gone()


async def test_who_reads_its_input_gets_the_end_of_it_at_once(tree: ProcessTree) -> None:
    with start(tree, "cat; echo done") as process:
        assert process.communicate(timeout=5)[0] == b"done\n"
    await tree.wait_gone()


async def test_who_writes_to_its_input_does_not_end_it(tree: ProcessTree) -> None:
    with start(tree, "echo hello >&0; echo written; exec sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        with trio.move_on_after(0.05) as scope:
            await tree.wait_gone()
        assert scope.cancelled_caught
        process.kill()
    await tree.wait_gone()
