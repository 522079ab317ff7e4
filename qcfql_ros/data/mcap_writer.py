# SPDX-License-Identifier: Apache-2.0
"""The bytes of an MCAP file, as https://mcap.dev/spec has them; who writes them is another's.

::

    begin() | metadata() chunk() chunk() metadata() ... | end()

A file must be closed even when the disk refused some of it: `mark` and `back` forget what was
made since. Every topic is told of in the first chunk that has a message of it, in the chunk after
that, and again whenever the file has become twice as long: a damaged chunk must not take with it
what the messages in the others mean.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import zstandard

from qcfql_ros.data.bag_file import MCAP_MAGIC
from qcfql_ros.data.mcap_records import (
    CHANNEL,
    CHUNK,
    CHUNK_HEAD,
    CHUNK_INDEX,
    DATA_END,
    FOOTER,
    HEADER,
    INDEX_HEAD,
    MESSAGE,
    MESSAGE_INDEX,
    METADATA,
    METADATA_INDEX,
    RECORD,
    SCHEMA,
    STATISTICS,
    SUMMARY_OFFSET,
    U16,
    U32,
    U64,
)

_MESSAGE = struct.Struct('<BQHIQQ')  # a record's head and a message's, in one
_HEAD_BYTES = _MESSAGE.size - RECORD.size
_REPEAT_FROM = 32 * 1024


@dataclass(frozen=True)
class _Made:
    """What was made up to a place in the file; lists are as long as it says."""

    size: int = 0
    messages: int = 0
    start_ns: int = 0
    end_ns: int = 0
    schemas: int = 0
    channels: int = 0
    chunks: int = 0
    metadata: int = 0
    counts: Mapping[int, int] = field(default_factory=dict)


class McapWriter:
    """Makes the parts of one file, which must be written in the order in which they are made."""

    def __init__(self) -> None:
        self._made = self._marked = _Made()
        self._schemas: list[bytes] = []
        self._channels: list[bytes] = []
        self._chunks: list[bytes] = []  # their index records
        self._metadata: list[bytes] = []
        self._counts: dict[int, int] = {}
        self._repeat_at = _REPEAT_FROM
        self._new: list[bytes] = []  # schemas and channels that no chunk has yet
        self._again: list[bytes] = []  # those of the chunk before
        # Of 1 MiB chunks of benchmarks/bag_messages.py level 1 leaves 25.1 % at 670 MB/s, level 3
        # 25.2 % at 455 MB/s (one core of a Xeon).
        self._zstd = zstandard.ZstdCompressor(level=1)
        self._records: list[bytes] = []
        self._size = self._start_ns = self._end_ns = 0
        self._clear()

    @property
    def schemas(self) -> int:
        """How many types were announced."""
        return len(self._schemas)

    def begin(self, profile: str, library: str) -> bytes:
        """Return how the file begins."""
        return self._count(MCAP_MAGIC + _record(HEADER, _text(profile) + _text(library)))

    def schema(self, name: str, encoding: str, definition: bytes) -> int:
        """Announce a type; return its number."""
        number = len(self._schemas) + 1
        body = U16.pack(number) + _text(name) + _text(encoding) + U32.pack(len(definition))
        self._schemas.append(_record(SCHEMA, body + definition))
        self._new.append(self._schemas[-1])
        return number

    def channel(self, topic: str, schema: int, encoding: str, about: Mapping[str, str]) -> int:
        """Announce a topic; return its number."""
        number = len(self._channels) + 1
        body = struct.pack('<HH', number, schema) + _text(topic) + _text(encoding) + _map(about)
        self._channels.append(_record(CHANNEL, body))
        self._new.append(self._channels[-1])
        return number

    def add(self, channel: int, receive_ns: int, publish_ns: int, data: bytes) -> int:
        """Put a message into the chunk; return how many bytes this holds."""
        count = self._counts.get(channel, 0)
        self._counts[channel] = count + 1
        records, size = self._records, self._size
        if self._new:
            size += sum(map(len, self._new))
            records += self._new
            self._fresh += self._new
            self._new = []
        length, sequence = _HEAD_BYTES + len(data), count & 0xFFFFFFFF
        head = _MESSAGE.pack(MESSAGE, length, channel, sequence, receive_ns, publish_ns)
        try:
            self._index[channel] += (receive_ns, size)
        except KeyError:
            self._index[channel] = [receive_ns, size]
        records += (head, data)
        self._size = size + len(head) + len(data)
        if receive_ns < self._start_ns:
            self._start_ns = receive_ns
        if receive_ns > self._end_ns:
            self._end_ns = receive_ns
        return self._size

    def chunk(self) -> bytes:
        """Return the chunk and its index, and begin the next; nothing without a message."""
        if not self._index:
            return b''
        made = self._made
        records = b''.join(self._records)
        packed = self._zstd.compress(records)
        head = CHUNK_HEAD.pack(self._start_ns, self._end_ns, len(records), zlib.crc32(records))
        chunk = _record(CHUNK, head + _text('zstd') + U64.pack(len(packed)) + packed)
        places, indexes = [], b''
        for channel, pairs in self._index.items():
            places.append(struct.pack('<HQ', channel, made.size + len(chunk) + len(indexes)))
            body = INDEX_HEAD.pack(channel, 8 * len(pairs)) + struct.pack(
                f'<{len(pairs)}Q', *pairs
            )
            indexes += _record(MESSAGE_INDEX, body)
        index = struct.pack('<QQQQ', self._start_ns, self._end_ns, made.size, len(chunk))
        index += U32.pack(10 * len(places)) + b''.join(places) + U64.pack(len(indexes))
        index += _text('zstd') + struct.pack('<QQ', len(packed), len(records))
        self._chunks.append(_record(CHUNK_INDEX, index))
        self._made = replace(
            made,
            messages=made.messages + sum(map(len, self._index.values())) // 2,
            start_ns=min(made.start_ns, self._start_ns) if made.messages else self._start_ns,
            end_ns=max(made.end_ns, self._end_ns),
        )
        self._again = self._fresh
        self._clear()
        return self._count(chunk + indexes)

    def metadata(self, name: str, values: Mapping[str, str]) -> bytes:
        """Return a text record; what is in the chunk must have been taken before."""
        record = _record(METADATA, _text(name) + _map(values))
        index = struct.pack('<QQ', self._made.size, len(record)) + _text(name)
        self._metadata.append(_record(METADATA_INDEX, index))
        return self._count(record)

    def end(self) -> bytes:
        """Return how the file ends; what is in the chunk must have been taken before."""
        made = self._made
        data_end = _record(DATA_END, U32.pack(0))
        counts = b''.join(struct.pack('<HQ', *pair) for pair in sorted(self._counts.items()))
        statistics = struct.pack(
            '<QHIIIIQQ',
            *(made.messages, len(self._schemas), len(self._channels), 0, len(self._metadata)),
            *(len(self._chunks), made.start_ns, made.end_ns),
        )
        groups = (
            (SCHEMA, self._schemas),
            (CHANNEL, self._channels),
            (STATISTICS, [_record(STATISTICS, statistics + U32.pack(len(counts)) + counts)]),
            (CHUNK_INDEX, self._chunks),
            (METADATA_INDEX, self._metadata),
        )
        start = made.size + len(data_end)
        summary, offsets = b'', b''
        for opcode, records in groups:
            group = b''.join(records)
            if group:
                place = struct.pack('<BQQ', opcode, start + len(summary), len(group))
                offsets += _record(SUMMARY_OFFSET, place)
            summary += group
        footer = RECORD.pack(FOOTER, 20) + struct.pack('<QQ', start, start + len(summary))
        summary += offsets + footer
        return data_end + summary + U32.pack(zlib.crc32(summary)) + MCAP_MAGIC

    def mark(self) -> None:
        """Note that all that was made is in the file."""
        self._marked = replace(
            self._made,
            schemas=len(self._schemas),
            channels=len(self._channels),
            chunks=len(self._chunks),
            metadata=len(self._metadata),
            counts=dict(self._counts),
        )

    def back(self) -> None:
        """Forget what was made since the last `mark`: it is not in the file."""
        made = self._made = self._marked
        del self._schemas[made.schemas :], self._channels[made.channels :]
        del self._chunks[made.chunks :], self._metadata[made.metadata :]
        self._counts = dict(made.counts)
        self._new, self._again = [], []
        self._clear()

    def _clear(self) -> None:
        """Begin a chunk, with what is told in it again."""
        again = self._again
        if self._made.size >= self._repeat_at:
            self._repeat_at = 2 * self._made.size
            again = [*self._schemas, *self._channels]
        self._records = list(again)
        self._size = sum(map(len, again))
        self._fresh: list[bytes] = []
        self._index: dict[int, list[int]] = {}
        self._start_ns, self._end_ns = 1 << 64, 0

    def _count(self, data: bytes) -> bytes:
        self._made = replace(self._made, size=self._made.size + len(data))
        return data


def _record(opcode: int, body: bytes) -> bytes:
    return RECORD.pack(opcode, len(body)) + body


def _text(text: str) -> bytes:
    data = text.encode()
    return U32.pack(len(data)) + data


def _map(values: Mapping[str, str]) -> bytes:
    body = b''.join(_text(key) + _text(value) for key, value in values.items())
    return U32.pack(len(body)) + body
