"""Groups: tasks of one node of the graph that run on several workers at once.

Rules
  1. The members' tensor arguments are numbered through, one member after the other. By these numbers the C library
     knows what one argument is, and refuses two that write the same bytes, whichever members they are of.
  2. Members are not ordered among each other, since they run at the same time: what one writes, another had better not
     read, unless they agree on when.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NoReturn

from simpler.args import TaskArgs
from simpler.errors import ArgumentError
from simpler.packing import as_one_argument, written_apart
from simpler.region_records import Member, WriteConflict
from simpler.run import RunState, TaskRef


class GroupRef(TaskRef):
    """A group that was submitted; goes into ``after=[...]`` as one task. ``members``: its tasks, in order."""

    __slots__ = ("members",)

    def __init__(self, run: RunState, group: int, members: Sequence[int]) -> None:
        super().__init__(run, group)
        self.members = tuple(TaskRef(run, member) for member in members)

    def result(self) -> list[Any]:
        """What each member returned, in order, once the run has ended. Raises the error of the first that failed."""
        return [member.result() for member in self.members]


class PackedGroup:
    """The members of a group, ready to submit: ``members``, with the ranges of their arguments numbered through."""

    __slots__ = ("_args_list", "_firsts", "members")

    def __init__(self, packed: Sequence[Member], args_list: Sequence[TaskArgs | None]) -> None:
        """``packed``: the members, each with its own arguments numbered from 0; ``args_list``: what they were."""
        self._args_list = args_list
        counts = [0 if args is None else args.tensor_count() for args in args_list]
        self._firsts = list(accumulate(counts, initial=0))
        self.members = [
            member._replace(ranges=[(*each[:4], first + each[4]) for each in member.ranges])
            for member, first in zip(packed, self._firsts, strict=False)
        ]

    def tell_apart(self, conflict: WriteConflict) -> None:
        """As PackedArgs.tell_apart, over all members. Raises ArgumentError where two do write the same bytes."""
        tensors = [tagged for args in self._args_list if args is not None for tagged in args.tagged_tensors()]
        try:
            apart = written_apart(tensors, conflict)
        except WriteConflict as same:
            self._refuse(same)
        self.members = [member._replace(ranges=as_one_argument(member.ranges, apart)) for member in self.members]

    def _refuse(self, conflict: WriteConflict) -> NoReturn:
        first, second = self._name(conflict.first), self._name(conflict.second)
        raise ArgumentError(
            f"{first} and {second} of one group write overlapping bytes; its members run at the same time, so give "
            "each a part of its own"
        ) from None

    def _name(self, argument: int) -> str:
        member = bisect_right(self._firsts, argument) - 1
        return f"tensor argument {argument - self._firsts[member]} of member {member}"


def checked_args_list(args_list: object) -> list[TaskArgs | None]:
    """One entry for each member of a group. Raises ArgumentError for what is no such list."""
    if isinstance(args_list, TaskArgs) or not isinstance(args_list, Sequence):
        raise ArgumentError(f"args_list={args_list!r}: expected a list with TaskArgs, or None, for each member")
    if not args_list:
        raise ArgumentError("a group needs at least one member; args_list is empty")
    for number, args in enumerate(args_list):
        if args is not None and not isinstance(args, TaskArgs):
            raise ArgumentError(f"the arguments of member {number} are TaskArgs or None, not {type(args).__name__}")
    return list(args_list)


def checked_workers(workers: object, n_members: int) -> list[int]:
    """One worker for each member, each another. Raises ArgumentError for anything else."""
    if not isinstance(workers, Sequence) or isinstance(workers, str):
        raise ArgumentError(f"workers={workers!r}: expected a list with a worker id for each member")
    if len(workers) != n_members:
        raise ArgumentError(f"a group of {n_members} members (args_list) needs as many workers, not {len(workers)}")
    for worker in workers:
        if not isinstance(worker, int) or isinstance(worker, bool):
            raise ArgumentError(f"workers={workers!r}: {worker!r} is no worker id")
    if len(set(workers)) != n_members:
        raise ArgumentError(f"workers={workers!r}: members of a group run at the same time, each on another worker")
    return list(workers)
