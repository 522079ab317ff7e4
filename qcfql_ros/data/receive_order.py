# SPDX-License-Identifier: Apache-2.0
"""Messages put in the order in which they were received."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from operator import itemgetter

from qcfql_ros.data.bag_file import Message

_receive = itemgetter(1)  # the receive stamp


def in_receive_order(
    blocks: Iterable[tuple[list[Message], int]],
) -> Iterator[list[Message]]:
    """Yield the messages of blocks ordered by receive stamp, equal stamps as written.

    Our recorder writes them in order; rosbag2's cache swaps neighbours, across chunks too, and
    other writers make a chunk for each topic.

    Args:
        blocks: messages, with a stamp in ns that no later block goes below.
    """
    held: list[Message] = []
    for messages, floor_ns in blocks:
        held += messages
        held.sort(key=_receive)
        ready = bisect_left(held, floor_ns, key=_receive)
        yield held[:ready]
        del held[:ready]
    yield held
