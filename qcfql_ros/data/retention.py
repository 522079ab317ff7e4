# SPDX-License-Identifier: Apache-2.0
"""Which closed files of a bag may go, and which the replay still holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mcap.exceptions import McapError
from mcap.reader import make_reader

from qcfql_ros.data.bag_metadata import FileEntry
from qcfql_ros.errors import BagError


def first_needed(steps: Mapping[int, int], capacity: int) -> int:
    """Return the number of the first file that a replay of `capacity` steps still holds.

    A step is counted to the file that completed it; what it is made of may begin in the one
    before. So a file is needed until the files from the next but one on fill the replay alone.

    Args:
        steps: steps completed, by the file's number; a file that is not there counts none.
        capacity: steps that the replay holds.
    """
    held = 0
    for number in sorted(steps, reverse=True):
        held += steps[number]
        if held >= capacity:
            return max(0, number - 1)
    return 0


def surplus(sizes: Sequence[tuple[int, int]], limit: int, needed: int) -> int:
    """Return how many of the oldest closed files must go.

    Args:
        sizes: (number, bytes) of the closed files, oldest first.
        limit: bytes that the closed files may have; 0 keeps all.
        needed: files from this number on are kept whatever the limit; so is the newest, which
            the numbers of the next go on from.
    """
    total = sum(size for _, size in sizes)
    gone = 0
    for number, size in sizes[:-1]:
        if not limit or total <= limit or number >= needed:
            break
        total -= size
        gone += 1
    return gone


def topic_counts(path: Path, entry: FileEntry) -> Mapping[str, int]:
    """Return the messages of a closed file by topic, which ``metadata.yaml`` does not say.

    Raises:
        BagError: the file does not say it either.
    """
    if '' not in entry.counts:
        return entry.counts
    try:
        with path.open('rb') as stream:
            summary = make_reader(stream).get_summary()
    except McapError as error:
        raise BagError(f'cannot read the summary of {path}: {error}') from error
    if summary is None or summary.statistics is None:
        raise BagError(f'{path} says nowhere what it holds; move it away')
    counts = summary.statistics.channel_message_counts
    return {summary.channels[number].topic: count for number, count in counts.items()}
