# SPDX-License-Identifier: Apache-2.0
"""Where things are in an MCAP file, found by hopping from record to record."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import BinaryIO

from qcfql_ros.data.bag_file import MCAP_MAGIC, Channel
from qcfql_ros.data.mcap_records import (
    BROKEN,
    CHANNEL,
    CHUNK,
    CHUNK_HEAD,
    DATA_END,
    FOOTER,
    FOOTER_BYTES,
    INDEX_HEAD,
    MESSAGE,
    MESSAGE_HEAD,
    MESSAGE_INDEX,
    METADATA,
    RECORD,
    SCHEMA,
    Summary,
    read_channel,
    read_footer,
    read_schema,
    read_summary,
    read_text,
    read_text_map,
)

_RUN = 1 << 20  # messages outside of chunks are read in runs of about this many bytes
_CHUNK_FRONT = CHUNK_HEAD.size + 4
_KNOWN = range(0x01, 0x10)  # opcodes; those from 0x80 on are anybody's own


@dataclass(slots=True)
class Block:
    """A chunk, or a run of messages outside of chunks.

    Attributes:
        at: offset of the first record.
        size: bytes with all heads.
        start_ns: lowest receive stamp, as the chunk's head says.
        end_ns: highest.
        counts: messages by channel, as the message index behind it says; None without one.
        torn: the end of the file cuts it off.
        last: offset of the last message of a run.
    """

    at: int
    size: int
    start_ns: int
    end_ns: int
    chunk: bool
    counts: dict[int, int] | None = None
    torn: bool = False
    last: int = 0


@dataclass(frozen=True)
class Hole:
    """Bytes in which no record begins; `block` is the number of the first block behind them."""

    at: int
    size: int
    why: str
    block: int
    at_end: bool = False


@dataclass
class Layout:
    """What a file holds, and where.

    Attributes:
        blocks: in the order of the file.
        holes: what was passed over.
        end: bytes up to which records follow each other.
        closed: it ends with a footer.
        torn_opcode: of the record that the end of the file cuts off; 0 without one.
        channels: of the summary and of records outside of chunks, by number.
        metadata: text records by name.
    """

    blocks: list[Block] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    end: int = 0
    size: int = 0
    closed: bool = False
    torn_opcode: int = 0
    summary: Summary | None = None
    schemas: dict[int, tuple[str, str, bytes]] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)


def scan(stream: BinaryIO, size: int) -> Layout:
    """Walk through the file without reading what chunks hold.

    Where a record does not lead to the next one, the walk goes on at the next chunk that the
    summary names, else at the next compressed chunk that is found; without one it ends there.
    """
    layout = Layout(size=size)
    layout.closed = read_footer(stream) is not None
    layout.summary = read_summary(stream)
    if layout.summary is not None:
        layout.channels.update(layout.summary.channels)
    known = sorted(layout.summary.chunks) if layout.summary else []
    at = len(MCAP_MAGIC)
    while True:
        length = _plausible(stream, at, layout)
        if length is None:
            if layout.size - at < RECORD.size or (
                not layout.closed and _cut_off(stream, at, layout)
            ):
                layout.end = at
                return layout
            behind = next((chunk for chunk in known if chunk > at), 0)
            behind = behind or _search(stream, at + 1, layout)
            at = _leave_hole(layout, at, behind)
            if not behind:
                layout.end = layout.size
                return layout
            continue
        try:
            if not _take(stream, at, length, layout):
                layout.end = layout.size
                return layout
        except BROKEN as error:
            why = f'a record that cannot be read ({error})'
            layout.holes.append(Hole(at, RECORD.size + length, why, len(layout.blocks)))
        at += RECORD.size + length


def _plausible(stream: BinaryIO, at: int, layout: Layout) -> int | None:
    """Return the length of the record at `at`, None if there is none."""
    stream.seek(at)
    head = stream.read(RECORD.size)
    if len(head) < RECORD.size:
        return None
    opcode, length = RECORD.unpack(head)
    if at + RECORD.size + length > layout.size or not (opcode in _KNOWN or opcode >= 0x80):
        return None
    if opcode == CHUNK:
        front = stream.read(_CHUNK_FRONT)
        if len(front) < _CHUNK_FRONT:
            return None
        name = int.from_bytes(front[-4:], 'little')
        stream.seek(at + RECORD.size + _CHUNK_FRONT + min(name, length))
        packed = int.from_bytes(stream.read(8), 'little')
        return length if _CHUNK_FRONT + name + 8 + packed == length else None
    if opcode == MESSAGE:
        return length if length >= MESSAGE_HEAD.size else None
    if opcode in (DATA_END, FOOTER):
        return length if length == (4 if opcode == DATA_END else 20) else None
    return length


def _search(stream: BinaryIO, at: int, layout: Layout) -> int:
    """Return where the next compressed chunk begins, 0 if none is found."""
    before = RECORD.size + CHUNK_HEAD.size  # from its beginning to the name of the compression
    while at + before < layout.size:
        stream.seek(at)
        window = stream.read(_RUN + before)
        for name in re.finditer(rb'\x04\0\0\0zstd|\x03\0\0\0lz4', window):
            start = at + name.start() - before
            begins = start >= at and window[name.start() - before] == CHUNK
            if begins and _plausible(stream, start, layout) is not None:
                return start
        at += _RUN - before
    return 0


def _cut_off(stream: BinaryIO, at: int, layout: Layout) -> bool:
    """Take what there is of the record at the end; False if it is no record."""
    stream.seek(at)
    opcode, length = RECORD.unpack(stream.read(RECORD.size))
    if opcode not in _KNOWN or at + RECORD.size + length <= layout.size:
        return False
    layout.torn_opcode = opcode
    if opcode == CHUNK and layout.size - at >= RECORD.size + _CHUNK_FRONT:
        start, end, _, _ = CHUNK_HEAD.unpack(stream.read(CHUNK_HEAD.size))
        block = Block(at, layout.size - at, start, end, chunk=True, torn=True)
        layout.blocks.append(block)
    return True


def _leave_hole(layout: Layout, at: int, behind: int) -> int:
    """Note that no record begins at `at`, and return where the walk goes on."""
    end = behind or (layout.size - FOOTER_BYTES if layout.closed else layout.size)
    last = layout.blocks[-1] if layout.blocks else None
    if last is not None and not last.chunk and last.at + last.size == at:
        # The length of the last message led here: that message cannot be trusted either.
        last.size = last.last - last.at
        at = last.last
        if not last.size:
            layout.blocks.pop()
    why = 'no record where one should begin'
    layout.holes.append(Hole(at, max(0, end - at), why, len(layout.blocks), not behind))
    return end


def _take(stream: BinaryIO, at: int, length: int, layout: Layout) -> bool:
    """Take in one record; False at the end of the data."""
    stream.seek(at)
    opcode = stream.read(RECORD.size)[0]
    if opcode in (DATA_END, FOOTER):
        return False
    if opcode == CHUNK:
        start, end, _, _ = CHUNK_HEAD.unpack(stream.read(CHUNK_HEAD.size))
        layout.blocks.append(Block(at, RECORD.size + length, start, end, chunk=True))
    elif opcode == MESSAGE:
        _take_message(stream, at, length, layout)
    elif opcode == MESSAGE_INDEX and layout.blocks and layout.blocks[-1].chunk:
        channel, size = INDEX_HEAD.unpack(stream.read(INDEX_HEAD.size))
        if size != length - INDEX_HEAD.size or size % 16:
            raise ValueError('a message index is not as long as it says')
        block = layout.blocks[-1]
        block.counts = block.counts or {}
        if size:
            block.counts[channel] = size // 16
    elif opcode == SCHEMA:
        read_schema(stream.read(length), layout.schemas)
    elif opcode == CHANNEL:
        read_channel(stream.read(length), layout.schemas, layout.channels)
    elif opcode == METADATA:
        body = stream.read(length)
        name, here = read_text(body, 0)
        layout.metadata[name] = read_text_map(body, here)[0]
    return True


def _take_message(stream: BinaryIO, at: int, length: int, layout: Layout) -> None:
    """Make the run of messages longer that ends at `at`, or begin one."""
    _, _, receive_ns, _ = MESSAGE_HEAD.unpack(stream.read(MESSAGE_HEAD.size))
    last = layout.blocks[-1] if layout.blocks else None
    size = RECORD.size + length
    if last is None or last.chunk or last.at + last.size != at or last.size > _RUN:
        layout.blocks.append(Block(at, size, receive_ns, receive_ns, chunk=False, last=at))
        return
    last.size += size
    last.last = at
    last.start_ns = min(last.start_ns, receive_ns)
    last.end_ns = max(last.end_ns, receive_ns)
