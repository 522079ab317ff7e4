# SPDX-License-Identifier: Apache-2.0
"""The steps of earlier sessions of a recording, for the one that goes on with it.

Each session begins with a mark, in a file of its own, and nothing of the one before reaches over
it. So the steps of each are kept by themselves: what a later session adds, and what retention
deletes, leaves them true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path

from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.bag_folder import split_number, split_paths
from qcfql_ros.data.bag_steps import BagSteps
from qcfql_ros.data.step_cache import forget_parts
from qcfql_ros.data.steps import SegmentEnd, Step

SESSIONS = 'qcfql.sessions'  # key of the bag's custom data: the first file's number of each


def note_session(custom: MutableMapping[str, str], first_split: int) -> None:
    """Note in the bag's custom data that a session begins with the file of that number."""
    custom[SESSIONS] = ','.join(map(str, sorted({*_first_splits(custom), first_split})))


def earlier_events(
    folder: Path,
    contract: Contract,
    custom: MutableMapping[str, str],
    before: int,
    say: Callable[[str], object],
) -> Iterator[Step | SegmentEnd]:
    """Return the steps and segment ends of the sessions before file number `before`.

    Args:
        folder: the recording.
        contract: what its messages mean.
        custom: its custom data.
        before: the first file of the present session.
        say: takes a line for a person.

    Raises:
        BagError: a file of it cannot be read.
    """
    numbers = [split_number(path) for path in split_paths(folder)]
    numbers = [number for number in numbers if number < before]
    begins = [first for first in _first_splits(custom) if first < before]
    sessions = []
    for first, last in zip([-1, *begins], [*begins, before], strict=True):
        start, stop = (sum(number < edge for number in numbers) for edge in (first, last))
        if start < stop:
            sessions.append((slice(start, stop), f'from_{max(first, 0)}'))
    forget_parts(folder, contract, [name for _, name in sessions])
    bags = [BagSteps(folder, contract, part=session) for session in sessions]
    return _events(bags, say)


def _events(bags: list[BagSteps], say: Callable[[str], object]) -> Iterator[Step | SegmentEnd]:
    for bag in bags:
        for block in bag.stream():
            yield from block.events()
        for line in bag.remarks():
            say(line)


def _first_splits(custom: MutableMapping[str, str]) -> list[int]:
    """Return the numbers in order; none from what is not ours."""
    found = custom.get(SESSIONS, '').split(',')
    return sorted(int(number) for number in found if number.isdecimal())
