# SPDX-License-Identifier: Apache-2.0
"""One file of a recording, whatever it is stored in: the same messages out of each.

Which storage it is, its first bytes say, not its name. A file that was compressed as a whole
(``.mcap.zstd``, ``.db3.zstd``) is decompressed into the temporary folder while it is read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import zstandard

from qcfql_ros.data.bag_metadata import ACTIVE
from qcfql_ros.data.damage import Damage, Skip
from qcfql_ros.errors import BagError

ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
MCAP_MAGIC = b'\x89MCAP0\r\n'
SQLITE_MAGIC = b'SQLite format 3\0'
LARGEST = 1 << 30  # no message and no chunk decompresses to more

_BLOCK = 1 << 14


class Message(NamedTuple):
    """One recorded message; times in ns, `publish_ns` 0 where the storage does not keep it."""

    topic: str
    receive_ns: int
    publish_ns: int
    data: bytes


@dataclass(frozen=True)
class Channel:
    """One topic of a file.

    Attributes:
        topic: absolute name.
        type_name: ``package/msg/Name``.
        definition: the type's full definition as the bag has it; empty if it has none.
        encoding: of the definition, ``ros2msg`` or ``ros2idl``.
        metadata: offered QoS and type hash, under the keys that rosbag2 uses in MCAP.
        serialization: of the messages; ``cdr`` is what we read.
    """

    topic: str
    type_name: str
    definition: bytes
    encoding: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    serialization: str = 'cdr'

    @property
    def type_hash(self) -> str:
        """RIHS01 hash of the type; empty if the bag has none."""
        return self.metadata.get('topic_type_hash', '')


class BagFile(Protocol):
    """Reads one file, once; after `chunks` has run out, the attributes say what was found.

    Attributes:
        path: of the file.
        channels: by the file's own number.
        metadata: the text records of the file, by name; MCAP only.
        damage: what was left out.
        bytes_read: how far it is read, of `size`.
        stored: bytes on disk: fewer than `size` where the file is compressed as a whole.
    """

    path: Path
    channels: dict[int, Channel]
    metadata: dict[str, dict[str, str]]
    damage: Damage
    bytes_read: int
    size: int
    stored: int

    def learn(self) -> None:
        """Fill in `channels` and `metadata` without reading more messages than that takes.

        Raises:
            BagError: the file cannot be read.
        """

    def chunks(self, topics: frozenset[str] | None = None) -> Iterator[list[Message]]:
        """Yield the messages by receive stamp, equal ones as written, many at a time.

        Args:
            topics: only these; all when None.

        Raises:
            BagError: the file cannot be read at all.
        """


@contextmanager
def open_bag_file(path: Path) -> Iterator[BagFile]:
    """Open one file, and let go of it at the end.

    Raises:
        BagError: it is missing, or neither MCAP nor sqlite3.
    """
    from qcfql_ros.data.mcap_file import McapFile
    from qcfql_ros.data.sqlite_file import SqliteFile

    def opened(where: Path, stream: BinaryIO) -> BagFile:
        head = stream.read(len(SQLITE_MAGIC))
        blank = not head.strip(b'\0') and '.db3' in where.suffixes
        return SqliteFile(where) if head == SQLITE_MAGIC or blank else McapFile(where, stream)

    try:
        with _open(path) as stream:
            if stream.read(len(ZSTD_MAGIC)) != ZSTD_MAGIC:
                stream.seek(0)
                yield opened(Path(stream.name), stream)
                return
            stream.seek(0)
            with tempfile.TemporaryDirectory(prefix='qcfql_bag_') as folder:
                inner = Path(folder) / path.name.removesuffix('.zstd')
                trouble = _decompress_file(path, stream, inner)
                with inner.open('rb') as inside:
                    file = opened(inner, inside)
                    file.path, file.stored = path, path.stat().st_size
                    if trouble is not None:
                        file.damage.skip(trouble)
                    yield file
    except OSError as error:
        raise BagError(f'cannot read {path}: {error.strerror or error}') from error


def _open(path: Path) -> BinaryIO:
    try:
        return path.open('rb')
    except FileNotFoundError:
        if not path.name.endswith(ACTIVE):
            raise
        return path.with_name(path.name.removesuffix(ACTIVE)).open('rb')  # closed meanwhile


def _decompress_file(path: Path, source: BinaryIO, inner: Path) -> Skip | None:
    """Write what decompresses; return what does not."""
    size = source.seek(0, 2)
    at = source.seek(0)
    why = 'the compressed file is cut off'
    frame = zstandard.ZstdDecompressor().decompressobj()
    with inner.open('wb') as target:
        while block := source.read(_BLOCK):
            try:
                while block:
                    target.write(frame.decompress(block))
                    block = frame.unused_data if frame.eof else b''
                    if block:
                        frame = zstandard.ZstdDecompressor().decompressobj()
            except (zstandard.ZstdError, MemoryError) as error:
                why = f'the compressed file does not decompress ({error})'
                break
            at += _BLOCK
        else:
            if frame.eof:
                return None
    at = min(at, size)
    return Skip(path.name, at, size - at, why, at_end=True)


def decompress(data: bytes) -> bytes:
    """Decompress one message that rosbag2 compressed by itself.

    Raises:
        ValueError: it does not decompress.
    """
    try:
        if zstandard.frame_content_size(data) > LARGEST:
            raise ValueError('announces more than a message holds')
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=LARGEST)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(str(error)) from error


def plain(file: BagFile, messages: Sequence[Message]) -> list[Message]:
    """Decompress messages one by one; those that do not are left out and counted."""
    kept: list[Message] = []
    for message in messages:
        try:
            kept.append(message._replace(data=decompress(message.data)))
        except ValueError as error:
            before = kept[-1].receive_ns if kept else 0
            why = f'a message of {message.topic} does not decompress ({error})'
            file.damage.skip(
                Skip(file.path.name, -1, len(message.data), why, 1, before, message.receive_ns)
            )
    return kept
