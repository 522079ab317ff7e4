# SPDX-License-Identifier: Apache-2.0
"""One MCAP file, whatever state it is in.

We read it ourselves for two reasons: a message costs about a microsecond instead of ten, and what
a crash or a bad disk left of it stays readable. What can be trusted:

- a chunk with the checksum it says, whole;
- of a chunk that the end of the file, or a hole of zeros, cuts off: the messages before the cut
  that lie in the chunk's range of time;
- of a chunk without checksum (rosbag2 writes none): the messages whose lengths, channels and
  stamps fit the chunk and its message index. A changed number inside a message goes unseen there.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from qcfql_ros.data.bag_file import MCAP_MAGIC, ZSTD_MAGIC, Channel, Message, plain
from qcfql_ros.data.damage import Damage, Skip
from qcfql_ros.data.mcap_index import count_indexed, indexed_records
from qcfql_ros.data.mcap_records import (
    BROKEN,
    CHANNEL,
    CHUNK_HEAD,
    MESSAGE,
    MESSAGE_HEAD,
    MESSAGE_INDEX,
    RECORD,
    SCHEMA,
    open_chunk,
    open_torn_chunk,
    read_channel,
    read_footer,
    read_schema,
)
from qcfql_ros.data.mcap_scan import Block, Layout, scan
from qcfql_ros.data.receive_order import in_receive_order
from qcfql_ros.errors import BagError

_topic, _receive = itemgetter(0), itemgetter(1)
_LATEST_NS = 2**63 - 1  # no clock of ROS has more, and no array of stamps either


class McapFile:
    """Reads one file; see `bag_file.BagFile` for what it has in common with other storages.

    Attributes:
        salvaged: messages read from a chunk that is cut off, not covered by a checksum.

    Raises:
        BagError: not an MCAP file.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path = path
        self.channels: dict[int, Channel] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.damage = Damage()
        self.salvaged = 0
        self.bytes_read = 0
        self.size = self.stored = stream.seek(0, 2)
        self._stream = stream
        self._layout: Layout | None = None
        self._schemas: dict[int, tuple[str, str, bytes]] = {}
        self._lost = 0  # messages left out of the chunk that is being read
        self._squeezed: bool | None = None  # each message is compressed by itself
        self._learned = False

    def learn(self) -> None:
        """Fill in channels and metadata: from the summary, else from the chunks that have them."""
        layout = self._scan()
        if layout.summary is None and not self._learned:
            self._learned = True
            damage, self.damage, salvaged = self.damage, Damage(), self.salvaged
            for number, block in enumerate(layout.blocks):
                if block.counts is None or not self.channels.keys() >= block.counts.keys():
                    self._read(layout, number)
            self.damage, self.salvaged = damage, salvaged

    def chunks(self, topics: frozenset[str] | None = None) -> Iterator[list[Message]]:
        """Yield the messages by receive stamp, equal ones as written, many at a time.

        Args:
            topics: only these; all when None. Chunks without them are not read.
        """
        layout = self._scan()
        for hole in layout.holes:
            self._skip(layout, hole.block, hole.at, hole.size, hole.why, at_end=hole.at_end)
        read: Counter[str] = Counter()
        for messages in in_receive_order(self._blocks(layout, topics)):
            if messages:
                read.update(map(_topic, messages))
                yield messages
        if layout.end < layout.size and not any(block.torn for block in layout.blocks):
            size, count = layout.size - layout.end, len(layout.blocks)
            index = layout.torn_opcode == MESSAGE_INDEX
            why = f'cut off in the middle of {"a message index" if index else "a record"}'
            self._skip(layout, count, layout.end, size, why, at_end=True)
        if layout.summary and layout.summary.counts:
            expected: Counter[str] = Counter()
            for channel, count in layout.summary.counts.items():
                topic = self.channels[channel].topic if channel in self.channels else ''
                if topics is None or topic in topics:
                    expected[topic] += count
            self.damage.settle(self.path, expected, read, 'the summary')
        self.bytes_read = self.size

    def _scan(self) -> Layout:
        if self._layout is None:
            self._stream.seek(0)
            magic = self._stream.read(len(MCAP_MAGIC))
            if magic == MCAP_MAGIC or read_footer(self._stream) is not None:
                self._layout = scan(self._stream, self.size)
            elif MCAP_MAGIC.startswith(magic):  # killed before the first bytes were on disk
                self._layout = Layout(size=self.size)
            else:
                raise BagError(f'{self.path} is not an MCAP file: it starts with {magic!r}')
            self.channels.update(self._layout.channels)
            self.metadata.update(self._layout.metadata)
            self._schemas.update(self._layout.schemas)
        return self._layout

    def _blocks(
        self, layout: Layout, topics: frozenset[str] | None
    ) -> Iterator[tuple[list[Message], int]]:
        """Yield the messages of each block, and a stamp that no later block goes below."""
        order = list(range(len(layout.blocks)))
        starts = [block.start_ns for block in layout.blocks]
        if any(second < first for first, second in pairwise(starts)):
            # Chunks that overlap, or a damaged head: only the messages themselves can tell.
            starts = [self._start(layout, number) for number in order]
            order.sort(key=lambda number: starts[number])
        floors = [0] * len(order)
        lowest = 1 << 64
        for position in range(len(order) - 1, -1, -1):
            floors[position] = lowest
            lowest = min(lowest, starts[order[position]])
        for number, floor in zip(order, floors, strict=True):
            block = layout.blocks[number]
            if self._wanted(layout, block, topics):
                messages = self._read(layout, number, topics)
                if self._squeezed is None and messages:
                    self._squeezed = messages[0].data.startswith(ZSTD_MAGIC)
                yield plain(self, messages) if self._squeezed else messages, floor
            self.bytes_read += block.size

    def _start(self, layout: Layout, number: int) -> int:
        damage, self.damage, salvaged = self.damage, Damage(), self.salvaged
        messages = self._read(layout, number)
        self.damage, self.salvaged = damage, salvaged
        return min(map(_receive, messages), default=layout.blocks[number].start_ns)

    def _wanted(self, layout: Layout, block: Block, topics: frozenset[str] | None) -> bool:
        if topics is None or block.counts is None or block.torn:
            return True
        ids = set(block.counts)
        if layout.summary and block.at in layout.summary.chunks:
            named = layout.summary.chunks[block.at]
            if named is None or not ids <= named:
                return True  # one of the two is damaged
            ids = set(named)
        return any(
            channel not in self.channels or self.channels[channel].topic in topics
            for channel in ids
        )

    def _read(
        self, layout: Layout, number: int, topics: frozenset[str] | None = None
    ) -> list[Message]:
        """Return what can be trusted of a block; the rest goes to `damage`."""
        block = layout.blocks[number]
        self._stream.seek(block.at)
        data = self._stream.read(block.size)
        self._lost = 0
        why = 'messages of a channel that was lost'
        if not block.chunk:
            messages = self._records(data, topics)
        elif block.torn:
            return self._salvage(layout, number, data[RECORD.size :], topics, 'cut off')
        else:
            try:
                records, checked = open_chunk(data[RECORD.size :])
                messages = self._records(records, topics)
            except BROKEN as error:
                return self._salvage(layout, number, data[RECORD.size :], topics, str(error))
            if not checked and any(
                not block.start_ns <= message.receive_ns <= block.end_ns for message in messages
            ):
                fit = [m for m in messages if block.start_ns <= m.receive_ns <= block.end_ns]
                self._lost += len(messages) - len(fit)
                messages, why = fit, 'stamps outside of the range of their chunk'
        if block.end_ns > _LATEST_NS:
            fit = [message for message in messages if message.receive_ns <= _LATEST_NS]
            self._lost += len(messages) - len(fit)
            messages, why = fit, 'receive stamps beyond the year 2262'
        if self._lost and layout.summary is None and not self._learned:
            self.learn()  # the chunk that told of a channel is damaged; a later one tells it again
            return self._read(layout, number, topics)
        if self._lost:
            self._skip(layout, number, block.at, block.size, why, self._lost, messages)
        return messages

    def _salvage(
        self,
        layout: Layout,
        number: int,
        body: bytes,
        topics: frozenset[str] | None,
        why: str,
    ) -> list[Message]:
        """Return the messages at the front of a chunk that is not whole, and note the rest."""
        block = layout.blocks[number]
        messages: list[Message] = []
        _, _, size, checksum = (0, 0, 0, 0)
        if len(body) >= CHUNK_HEAD.size:
            _, _, size, checksum = CHUNK_HEAD.unpack_from(body)
        data = open_torn_chunk(body, block.at + RECORD.size, block.torn)
        # All there, and yet refused: somewhere in it a byte is wrong.
        refused = len(data) >= size and checksum and zlib.crc32(data) != checksum
        begun = last = at = 0
        while not refused and at + RECORD.size <= len(data):
            opcode, length = RECORD.unpack_from(data, at)
            stop = at + RECORD.size + length
            if stop > len(data) or opcode not in (SCHEMA, CHANNEL, MESSAGE):
                break
            try:
                found = self._records(data[at:stop], topics)
            except BROKEN:
                break
            if any(not block.start_ns <= m.receive_ns <= block.end_ns for m in found):
                break
            messages += found
            begun, last, at = at, len(found), stop
        if not block.torn and not checksum and last and at < len(data):
            messages.pop()  # its length led to something that is no record
        else:
            begun = at
        if at < len(data) == size and not block.torn and not checksum:
            # Nothing vouches for the chunk, but where its index says so as well, a message is one.
            for record in indexed_records(self._stream, block.at + block.size, data, begun):
                messages += self._records(record, topics)
        if at < len(data) or not block.torn or len(data) < size:
            held = count_indexed(block.counts, self.channels, topics)
            lost = None if held is None else max(0, held - len(messages))
            self._skip(layout, number, block.at, block.size, why, lost, messages)
        self.salvaged += len(messages)
        return messages

    def _skip(
        self,
        layout: Layout,
        number: int,
        at: int,
        size: int,
        why: str,
        messages: int | None = None,
        kept: list[Message] | None = None,
        at_end: bool = False,
    ) -> None:
        """Note a stretch; the block `number` is damaged itself, or the first one behind it."""
        blocks = layout.blocks
        own = blocks[number] if number < len(blocks) and blocks[number].at == at else None
        behind = blocks[number + (own is not None) :][:1]
        before_ns = blocks[number - 1].end_ns if number else 0
        after_ns = behind[0].start_ns if behind else 0
        if own is not None:  # its own range of time counts where it has no neighbour
            before_ns = max(map(_receive, kept)) if kept else before_ns or own.start_ns
            after_ns = after_ns or own.end_ns
            at_end = own.torn
        before_ns, after_ns = (0 if ns > _LATEST_NS else ns for ns in (before_ns, after_ns))
        self.damage.skip(
            Skip(self.path.name, at, size, why, messages, before_ns, after_ns, at_end)
        )

    def _records(self, data: bytes, topics: frozenset[str] | None = None) -> list[Message]:
        """Parse schemas, channels and messages; count those of unknown channels in `_lost`."""
        messages: list[Message] = []
        append = messages.append
        unpack, head_unpack, make = RECORD.unpack_from, MESSAGE_HEAD.unpack_from, tuple.__new__
        names = self._names(topics)
        at, end = 0, len(data)
        while at < end:
            opcode, length = unpack(data, at)
            at += 9
            stop = at + length
            if stop > end:
                raise ValueError(f'a record of {length} bytes reaches over the end of its chunk')
            if opcode == MESSAGE:
                channel, _, receive_ns, publish_ns = head_unpack(data, at)
                try:
                    topic = names[channel]
                except KeyError:
                    self._lost += 1
                else:
                    if topic:
                        body = data[at + 22 : stop]
                        append(make(Message, (topic, receive_ns, publish_ns, body)))
            elif opcode == SCHEMA:
                read_schema(data[at:stop], self._schemas)
            elif opcode == CHANNEL:
                read_channel(data[at:stop], self._schemas, self.channels)
                names = self._names(topics)
            at = stop
        return messages

    def _names(self, topics: frozenset[str] | None) -> dict[int, str]:
        """Return topic by channel, empty for those that are not wanted."""
        return {
            number: channel.topic if topics is None or channel.topic in topics else ''
            for number, channel in self.channels.items()
        }
