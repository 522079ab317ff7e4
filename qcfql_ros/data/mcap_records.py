# SPDX-License-Identifier: Apache-2.0
"""Records of an MCAP file: ``opcode u8, length u64, body``, as https://mcap.dev/spec has them."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import lz4.frame  # type: ignore[import-untyped]
import zstandard

from qcfql_ros.data.bag_file import LARGEST, MCAP_MAGIC, Channel

HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
MESSAGE_INDEX, CHUNK_INDEX, STATISTICS, METADATA = 0x07, 0x08, 0x0B, 0x0C
METADATA_INDEX, SUMMARY_OFFSET, DATA_END = 0x0D, 0x0E, 0x0F

RECORD = struct.Struct('<BQ')
MESSAGE_HEAD = struct.Struct('<HIQQ')
CHUNK_HEAD = struct.Struct('<QQQI')
INDEX_HEAD = struct.Struct('<HI')
U16 = struct.Struct('<H')
U32 = struct.Struct('<I')
U64 = struct.Struct('<Q')
FOOTER_BYTES = RECORD.size + 20 + len(MCAP_MAGIC)
SECTOR = bytes(512)  # a disk that lost power leaves at least this much zero

# What a damaged record makes of the functions below.
BROKEN = (struct.error, ValueError, UnicodeDecodeError, KeyError)


@dataclass
class Summary:
    """What stands behind the data of a file that was closed.

    Attributes:
        channels: by number.
        chunks: offset of each chunk to the channels in it; None where it does not say.
        counts: messages by channel; empty when there are no statistics.
    """

    channels: dict[int, Channel] = field(default_factory=dict)
    chunks: dict[int, frozenset[int] | None] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)


def is_closed(path: Path) -> bool:
    """Say whether the file ends with a footer, so that any reader takes it."""
    with path.open('rb') as stream:
        return read_footer(stream) is not None


def is_mcap(path: Path) -> bool:
    """Say whether the file begins as MCAP does, as far as it goes, or at least ends so."""
    with path.open('rb') as stream:
        begins = MCAP_MAGIC.startswith(stream.read(len(MCAP_MAGIC)))
        return begins or read_footer(stream) is not None


def read_footer(stream: BinaryIO) -> tuple[int, int, int] | None:
    """Return (summary's start, summary offsets' start, checksum), None without a footer."""
    size = stream.seek(0, 2)
    if size < len(MCAP_MAGIC) + FOOTER_BYTES:
        return None
    stream.seek(size - FOOTER_BYTES)
    tail = stream.read()
    if not tail.endswith(MCAP_MAGIC) or tail[:9] != RECORD.pack(FOOTER, 20):
        return None
    return struct.unpack_from('<QQI', tail, 9)


def read_summary(stream: BinaryIO) -> Summary | None:
    """Read the summary; None where there is none or it does not hold together."""
    footer = read_footer(stream)
    size = stream.seek(0, 2)
    if footer is None or not len(MCAP_MAGIC) <= footer[0] <= size - FOOTER_BYTES:
        return None
    stream.seek(footer[0])
    data = stream.read(size - FOOTER_BYTES + 9 + 16 - footer[0])
    if footer[2] and zlib.crc32(data) != footer[2]:
        return None
    summary = Summary()
    schemas: dict[int, tuple[str, str, bytes]] = {}
    at, end = 0, len(data) - 9 - 16
    try:
        while at < end:
            opcode, length = RECORD.unpack_from(data, at)
            body = data[at + 9 : at + 9 + length]
            at += 9 + length
            if opcode == SCHEMA:
                read_schema(body, schemas)
            elif opcode == CHANNEL:
                read_channel(body, schemas, summary.channels)
            elif opcode == CHUNK_INDEX:
                start = U64.unpack_from(body, 16)[0]
                size = U32.unpack_from(body, 32)[0]
                ids = [U16.unpack_from(body, here)[0] for here in range(36, 36 + size, 10)]
                summary.chunks[start] = frozenset(ids) if ids else None
            elif opcode == STATISTICS:
                size = U32.unpack_from(body, 42)[0]
                pairs = struct.iter_unpack('<HQ', body[46 : 46 + size])
                summary.counts = dict(pairs)  # type: ignore[arg-type]
    except BROKEN:
        return None
    return summary


def read_schema(body: bytes, schemas: dict[int, tuple[str, str, bytes]]) -> None:
    """Read a schema into `schemas`: number to (name, encoding, definition)."""
    number = U16.unpack_from(body)[0]
    name, at = read_text(body, 2)
    encoding, at = read_text(body, at)
    size = U32.unpack_from(body, at)[0]
    schemas[number] = (name, encoding, body[at + 4 : at + 4 + size])


def read_channel(
    body: bytes, schemas: dict[int, tuple[str, str, bytes]], channels: dict[int, Channel]
) -> None:
    """Read a channel into `channels`, by number."""
    number, schema = struct.unpack_from('<HH', body)
    topic, at = read_text(body, 4)
    serialization, at = read_text(body, at)
    fields = read_text_map(body, at)[0]
    type_name, encoding, definition = schemas.get(schema, ('', '', b''))
    channels[number] = Channel(topic, type_name, definition, encoding, fields, serialization)


def open_chunk(body: bytes) -> tuple[bytes, bool]:
    """Decompress a chunk; return its records and whether a checksum vouches for them.

    Raises:
        ValueError: they do not fit its size or its checksum.
    """
    _, _, size, checksum = CHUNK_HEAD.unpack_from(body)
    compression, packed = chunk_content(body)
    if size > LARGEST:
        raise ValueError(f'a chunk of {size} bytes')
    try:
        if compression == 'zstd':
            data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
        elif compression == 'lz4':
            data = lz4.frame.decompress(packed)
        elif compression == '':
            data = packed
        else:
            raise ValueError(f'unknown compression {compression!r}')
    except (zstandard.ZstdError, RuntimeError, MemoryError) as error:
        raise ValueError(f'a chunk does not decompress ({error})') from error
    if len(data) != size:
        raise ValueError(f'a chunk of {len(data)} bytes, {size} announced')
    if checksum and zlib.crc32(data) != checksum:
        raise ValueError('checksum mismatch')
    return data, checksum != 0


def chunk_content(body: bytes) -> tuple[str, bytes]:
    """Return a chunk's compression and its packed records.

    Raises:
        ValueError: it is shorter or longer than it says.
    """
    compression, at = read_text(body, CHUNK_HEAD.size)
    packed = body[at + 8 :]
    if U64.unpack_from(body, at)[0] != len(packed):
        raise ValueError('a chunk is not as long as it says')
    return compression, packed


def open_torn_chunk(body: bytes, offset: int, torn: bool) -> bytes:
    """Return the records at the front of a chunk that is cut off, or has a hole of zeros.

    Up to there nothing was changed, so that what decompresses is what was written.

    Args:
        body: what there is of the chunk.
        offset: where it begins in the file; holes begin and end where sectors do.
        torn: the end of the file cuts it off. Of a chunk of full length, a compressed one must
            have a hole, and another one no checksum: it would not say where it is wrong.
    """
    try:
        _, _, size, checksum = CHUNK_HEAD.unpack_from(body)
        size = min(size, LARGEST)
        compression, at = read_text(body, CHUNK_HEAD.size)
        packed = body[at + 8 :]
        if compression == '':
            if not torn:
                return b'' if checksum else packed
            end = offset + len(body)
            full = packed.rstrip(b'\0')
            zeros = len(packed) - len(full)
            return full if zeros and end - zeros <= (end - 1) // 512 * 512 else packed
        hole = packed.find(SECTOR)
        if hole < 0 and not torn:
            return b''
        packed = packed if hole < 0 else packed[:hole]
        if compression == 'zstd':
            return zstandard.ZstdDecompressor().stream_reader(packed).read(size)
        if compression == 'lz4':
            return lz4.frame.LZ4FrameDecompressor().decompress(packed, size)
    except (*BROKEN, zstandard.ZstdError, RuntimeError, EOFError, MemoryError):
        pass
    return b''


def read_text(data: bytes, at: int) -> tuple[str, int]:
    """Read a string; return it and where it ends. ValueError if it reaches over the end."""
    stop = at + 4 + U32.unpack_from(data, at)[0]
    if stop > len(data):
        raise ValueError('a string reaches over the end')
    return data[at + 4 : stop].decode(), stop


def read_text_map(data: bytes, at: int) -> tuple[dict[str, str], int]:
    """Read a map of strings; return it and where it ends."""
    end = at + 4 + U32.unpack_from(data, at)[0]
    at += 4
    fields: dict[str, str] = {}
    while at < end:
        key, at = read_text(data, at)
        fields[key], at = read_text(data, at)
    return fields, end
