# SPDX-License-Identifier: Apache-2.0
"""One MCAP file of a recording, read front to back, the torn end of a killed one included.

The layout is https://mcap.dev/spec: magic, then records of ``opcode u8, length u64, body``; chunks
hold further records, compressed. We read it ourselves for two reasons: a message costs about a
microsecond instead of ten, and the part before a torn end stays readable.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import lz4.frame  # type: ignore[import-untyped]
import zstandard

from qcfql_ros.data.bag_metadata import ACTIVE
from qcfql_ros.errors import BagError

MAGIC = b'\x89MCAP0\r\n'
FOOTER_BYTES = 9 + 20 + len(MAGIC)

_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
_METADATA, _DATA_END = 0x0C, 0x0F

_RECORD = struct.Struct('<BQ')
_MESSAGE_HEAD = struct.Struct('<HIQQ')
_CHUNK_HEAD = struct.Struct('<QQQI')
_U16 = struct.Struct('<H')
_U32 = struct.Struct('<I')
_U64 = struct.Struct('<Q')


class Message(NamedTuple):
    """One recorded message; times in ns."""

    topic: str
    receive_ns: int
    publish_ns: int
    data: bytes


@dataclass(frozen=True)
class Channel:
    """One topic of a file: its type and the type's definition (ros2msg)."""

    topic: str
    type_name: str
    definition: bytes
    encoding: str
    metadata: dict[str, str]


class _TornError(Exception):
    """A record is cut off by the end of the file; `chunk` holds what there is of a chunk."""

    def __init__(self, chunk: bytes = b'') -> None:
        super().__init__()
        self.chunk = chunk


class SplitFile:
    """Reads one file; after `messages` has run out, the attributes say what was found.

    Attributes:
        channels: by the file's own channel number.
        metadata: the MCAP metadata records, by name.
        torn_bytes: bytes after the last whole record; 0 for a file that was closed.
        salvaged: messages read from the torn record itself, not covered by a checksum.
        bytes_read: how far it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channels: dict[int, Channel] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.torn_bytes = 0
        self.salvaged = 0
        self.bytes_read = 0
        self._schemas: dict[int, tuple[str, str, bytes]] = {}

    def chunks(self) -> Iterator[list[Message]]:
        """Yield the messages of each chunk in the order of the file.

        Raises:
            BagError: not an MCAP file, or a damaged chunk before the end.
        """
        try:
            stream = _open(self.path)
        except OSError as error:
            raise BagError(f'cannot read {self.path}: {error.strerror}') from error
        with stream:
            magic = stream.read(len(MAGIC))
            if magic != MAGIC:
                if MAGIC.startswith(magic):  # killed before the first byte was on disk
                    self.torn_bytes = len(magic)
                    return
                raise BagError(f'{self.path} is not an MCAP file: it starts with {magic!r}')
            while True:
                start = stream.tell()
                try:
                    messages = self._next(stream)
                except _TornError as torn:
                    self.torn_bytes = os.fstat(stream.fileno()).st_size - start
                    messages = self._salvage(torn.chunk)
                    self.salvaged = len(messages)
                    if messages:
                        yield messages
                    return
                except (struct.error, ValueError, UnicodeDecodeError, KeyError) as error:
                    raise BagError(
                        f'{self.path} is damaged at byte {start}: {error}; run it through '
                        f'`mcap recover` to keep the rest'
                    ) from error
                self.bytes_read = stream.tell()
                if messages is None:
                    return
                if messages:
                    yield messages

    def _next(self, stream: BinaryIO) -> list[Message] | None:
        """Read one record; None at the end of the data section."""
        head = stream.read(_RECORD.size)
        if len(head) < _RECORD.size:
            raise _TornError
        opcode, length = _RECORD.unpack(head)
        if opcode in (_DATA_END, _FOOTER):
            return None
        if opcode == 0:  # a hole that the file system left after a power cut
            raise _TornError
        if opcode in (_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _METADATA):
            # A damaged length must not be asked for: read() allocates it.
            left = os.fstat(stream.fileno()).st_size - stream.tell()
            body = stream.read(max(0, min(length, left)))
            if len(body) < length:
                raise _TornError(body if opcode == _CHUNK else b'')
            return self._record(opcode, body)
        here = stream.tell()
        if stream.seek(0, 2) < here + length:
            raise _TornError
        stream.seek(here + length)
        return []

    def _record(self, opcode: int, body: bytes) -> list[Message]:
        if opcode == _CHUNK:
            return self._records(_open_chunk(body))
        if opcode == _METADATA:
            name, at = _text(body, 0)
            self.metadata[name] = _text_map(body, at)[0]
            return []
        return self._records(_RECORD.pack(opcode, len(body)) + body)

    def _records(self, data: bytes, upto: int | None = None) -> list[Message]:
        """Parse the records of an opened chunk: schemas, channels and messages."""
        messages: list[Message] = []
        append = messages.append
        unpack, head_unpack = _RECORD.unpack_from, _MESSAGE_HEAD.unpack_from
        channels = self.channels
        at, end = 0, len(data) if upto is None else upto
        while at < end:
            opcode, length = unpack(data, at)
            at += 9
            stop = at + length
            if stop > end:
                raise ValueError(f'a record of {length} bytes reaches over the end of its chunk')
            if opcode == _MESSAGE:
                channel, _, log_ns, publish_ns = head_unpack(data, at)
                append(Message(channels[channel].topic, log_ns, publish_ns, data[at + 22 : stop]))
            elif opcode == _SCHEMA:
                number = _U16.unpack_from(data, at)[0]
                name, here = _text(data, at + 2)
                encoding, here = _text(data, here)
                size = _U32.unpack_from(data, here)[0]
                self._schemas[number] = (name, encoding, data[here + 4 : here + 4 + size])
            elif opcode == _CHANNEL:
                number, schema = struct.unpack_from('<HH', data, at)
                topic, here = _text(data, at + 4)
                _, here = _text(data, here)
                type_name, encoding, definition = self._schemas.get(schema, ('', '', b''))
                fields = _text_map(data, here)[0]
                channels[number] = Channel(topic, type_name, definition, encoding, fields)
            at = stop
        return messages

    def _salvage(self, body: bytes) -> list[Message]:
        """Return the whole messages at the front of a torn chunk.

        Its checksum covers what is lost, so each message is held against the chunk's time range.
        """
        if len(body) < _CHUNK_HEAD.size + 4:
            return []
        first, last, _, _ = _CHUNK_HEAD.unpack_from(body)
        try:
            compression, at = _text(body, _CHUNK_HEAD.size)
            data = body[at + 8 :]
            if compression == 'zstd':
                data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
            elif compression == 'lz4':
                data = lz4.frame.LZ4FrameDecompressor().decompress(data)
        except (ValueError, struct.error, zstandard.ZstdError, RuntimeError, MemoryError):
            return []
        kept: list[Message] = []
        at = 0
        while at + 9 <= len(data):
            length = _RECORD.unpack_from(data, at)[1]
            stop = at + 9 + length
            if stop > len(data):
                break
            try:
                found = self._records(data[at:stop])
            except (struct.error, ValueError, UnicodeDecodeError, KeyError):
                break
            if any(not first <= message.receive_ns <= last for message in found):
                break
            kept += found
            at = stop
        return kept


def is_closed(path: Path) -> bool:
    """Say whether the file ends with a footer, so that any reader takes it."""
    with path.open('rb') as stream:
        size = stream.seek(0, 2)
        if size < len(MAGIC) + FOOTER_BYTES:
            return False
        stream.seek(size - FOOTER_BYTES)
        tail = stream.read()
    return tail.endswith(MAGIC) and tail[:9] == _RECORD.pack(_FOOTER, 20)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open('rb')
    except FileNotFoundError:
        if path.suffix != ACTIVE:
            raise
        return path.with_suffix('').open('rb')  # closed since it was listed


def _open_chunk(body: bytes) -> bytes:
    """Decompress a chunk and hold it against its size and checksum; ValueError if they differ."""
    _, _, size, checksum = _CHUNK_HEAD.unpack_from(body)
    compression, at = _text(body, _CHUNK_HEAD.size)
    packed = body[at + 8 :]
    if _U64.unpack_from(body, at)[0] != len(packed):
        raise ValueError('the chunk is shorter than it says')
    if size > 1 << 32:
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
        raise ValueError(f'the chunk does not decompress ({error})') from error
    if len(data) != size:
        raise ValueError(f'a chunk of {len(data)} bytes, {size} announced')
    if checksum and zlib.crc32(data) != checksum:
        raise ValueError('checksum mismatch')
    return data


def _text(data: bytes, at: int) -> tuple[str, int]:
    stop = at + 4 + _U32.unpack_from(data, at)[0]
    if stop > len(data):
        raise ValueError('a string reaches over the end')
    return data[at + 4 : stop].decode(), stop


def _text_map(data: bytes, at: int) -> tuple[dict[str, str], int]:
    end = at + 4 + _U32.unpack_from(data, at)[0]
    at += 4
    fields: dict[str, str] = {}
    while at < end:
        key, at = _text(data, at)
        fields[key], at = _text(data, at)
    return fields, end
