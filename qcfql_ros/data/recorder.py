# SPDX-License-Identifier: Apache-2.0
"""The recorder: what it accepted is the buffer.

A folder as rosbag2 writes it::

    bag/
    ├── .lock            one writer at a time; holds its process id
    ├── metadata.yaml    replaced whole when a file is closed
    ├── bag_0.mcap       closed: never touched again
    └── bag_1.mcap       being written; zstd chunks, on disk at least once a flush_s

Killed at any moment, all but the last `flush_s` is there; `recovery.recover_bag` closes the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from mcap.writer import CompressionType, Writer

from qcfql_ros.data.bag_metadata import (
    CONTRACT,
    CONTRACT_HASH,
    NAMESPACE,
    RECORD,
    BagMetadata,
    FileEntry,
    Topic,
    read_metadata,
    register_topics,
    sync_folder,
    type_definition,
)
from qcfql_ros.data.buffer_lock import BufferLock
from qcfql_ros.data.reader import split_number
from qcfql_ros.data.recovery import Recovery, recover_bag
from qcfql_ros.errors import BagError

SECOND_NS = 1_000_000_000


class BagRecorder:
    """Appends a session to the recording in `folder`, making the folder if need be.

    Args:
        folder: the rosbag2 folder; what an earlier recorder left open is recovered first.
        topics: absolute topic name to type (``package/msg/Name``), or `Topic`s.
        contract_name: goes to the bag's custom data, with the next two.
        contract_hash: an existing bag must have the same.
        namespace: of the robot.
        split_bytes: a file is closed and the next begun at this size.
        chunk_bytes: messages compressed together, at most.
        flush_s: how much time a kill may lose.

    Attributes:
        recovery: what was recovered at the start, None when all was closed.
        messages: accepted by this recorder.

    Raises:
        BufferBusyError: another process records here.
        BagError: the bag was recorded under another contract, or cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        topics: Mapping[str, str] | Iterable[Topic],
        *,
        contract_name: str,
        contract_hash: str,
        namespace: str = '',
        split_bytes: int = 512 * 1024 * 1024,
        chunk_bytes: int = 1024 * 1024,
        flush_s: float = 1.0,
    ) -> None:
        self.folder = Path(folder)
        self.messages = 0
        self._topics = _as_topics(topics)
        for topic in self._topics.values():
            type_definition(topic.type_name)  # refuse unknown types before anything is written
        self._custom = {
            CONTRACT: contract_name,
            CONTRACT_HASH: contract_hash,
            NAMESPACE: namespace.strip('/'),
        }
        self._split_bytes, self._chunk_bytes = split_bytes, chunk_bytes
        self._flush_ns = int(flush_s * SECOND_NS)
        self._last_ns = 0
        self._flushed_ns = 0
        self._failure = ''
        self._file: _OpenFile | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BagError(f'cannot record to {self.folder}: {error.strerror}') from error
        self._lock = BufferLock(self.folder)
        try:
            self.recovery: Recovery | None = recover_bag(self.folder)
            self._metadata = read_metadata(self.folder) or BagMetadata()
            self._check_contract(contract_hash)
        except BaseException:
            self._lock.release()
            raise
        self._metadata.custom.update(self._custom)
        self._metadata.topics.update(self._topics)

    def write(self, topic: str, receive_ns: int, publish_ns: int, data: bytes) -> int:
        """Accept one message and return its receive stamp as recorded.

        Stamps in a file rise strictly, so that every reader sees the order of receipt: one that
        does not is moved up, and a clock that was set back by a second or more begins a new file.

        Args:
            topic: absolute name, one of those given at the start.
            receive_ns: ROS or system time of receipt.
            publish_ns: time at the source; 0 when unknown.
            data: the CDR bytes with their 4-byte head.

        Raises:
            BagError: the disk refused; nothing more is accepted.
        """
        if receive_ns <= self._last_ns:
            if self._last_ns - receive_ns < SECOND_NS:
                receive_ns = self._last_ns + 1
            else:
                self._guard(self._close_file)
        self._guard(self._write, topic, receive_ns, publish_ns, data)
        self._last_ns = receive_ns
        self.messages += 1
        return receive_ns

    def maybe_flush(self, now_ns: int) -> bool:
        """Flush when `flush_s` has passed since the last time; call it several times a second.

        Raises:
            BagError: the disk refused; nothing more is accepted.
        """
        if abs(now_ns - self._flushed_ns) < self._flush_ns:
            return False
        self._flushed_ns = now_ns
        self.flush()
        return True

    def flush(self) -> None:
        """Put everything accepted on the disk, and begin a new file if this one is full.

        Raises:
            BagError: the disk refused; nothing more is accepted.
        """
        if self._file is not None:
            self._guard(self._file.flush)
            if self._file.size >= self._split_bytes:
                self._guard(self._close_file)

    def close(self) -> None:
        """Close the file and release the folder. Safe to call twice.

        Raises:
            BagError: the disk refused; what was flushed is recovered at the next start.
        """
        try:
            if not self._failure:
                self._guard(self._close_file)
        finally:
            if self._file is not None:
                self._file.abandon()
            self._lock.release()

    @property
    def closed_files(self) -> int:
        """How many files of the bag are closed; at first, those of the sessions before."""
        return len(self._metadata.files)

    @property
    def bytes_written(self) -> int:
        """Size of the file being written, as of the last flush."""
        return self._file.size if self._file else 0

    def _write(self, topic: str, receive_ns: int, publish_ns: int, data: bytes) -> None:
        if self._file is None:
            number = 1 + max(
                (split_number(Path(entry.name)) for entry in self._metadata.files), default=-1
            )
            path = self.folder / f'{self.folder.resolve().name}_{number}.mcap'
            self._file = _OpenFile(path, self._topics, self._custom, self._chunk_bytes)
        self._file.write(topic, receive_ns, publish_ns, data)

    def _close_file(self) -> None:
        if self._file is None:
            return
        self._metadata.add(self._file.close())
        self._file = None
        self._metadata.write(self.folder)

    def _guard(self, action, *arguments) -> None:  # type: ignore[no-untyped-def]
        if self._failure:
            raise BagError(self._failure)
        try:
            action(*arguments)
        except OSError as error:
            self._failure = f'recording to {self.folder} stopped: {error.strerror or error}'
            raise BagError(self._failure) from error

    def _check_contract(self, wanted: str) -> None:
        found = self._metadata.custom.get(CONTRACT_HASH, wanted)
        if found != wanted:
            raise BagError(
                f'{self.folder} was recorded under contract {found[:12]}, this one is '
                f'{wanted[:12]}; give another folder or the contract it was recorded under'
            )


class _OpenFile:
    """The MCAP file being written."""

    def __init__(
        self, path: Path, topics: Mapping[str, Topic], custom: dict[str, str], chunk_bytes: int
    ) -> None:
        self._path = path
        self._stream: BinaryIO = path.open('xb')
        self._counts: dict[str, int] = {}
        self._start_ns = self._end_ns = 0
        self._writer = Writer(
            self._stream, chunk_size=chunk_bytes, compression=CompressionType.ZSTD
        )
        self._writer.start(profile='ros2', library='qcfql_ros')
        self._writer.add_metadata(RECORD, custom)
        self._channels = register_topics(self._writer, topics.values())
        self.flush()
        sync_folder(path.parent)

    def write(self, topic: str, receive_ns: int, publish_ns: int, data: bytes) -> None:
        count = self._counts.get(topic, 0)
        self._writer.add_message(
            self._channels[topic], receive_ns, data, publish_ns, sequence=count & 0xFFFFFFFF
        )
        self._counts[topic] = count + 1
        self._start_ns = self._start_ns or receive_ns
        self._end_ns = receive_ns

    def flush(self) -> None:
        self._writer.flush()
        os.fsync(self._stream.fileno())

    def abandon(self) -> None:
        """Let go of a file that cannot be finished; recovery closes it."""
        with contextlib.suppress(OSError):
            self._stream.close()

    @property
    def size(self) -> int:
        return self._stream.tell()

    def close(self) -> FileEntry:
        self._writer.finish()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return FileEntry(self._path.name, self._start_ns, self._end_ns, self._counts)


def _as_topics(topics: Mapping[str, str] | Iterable[Topic]) -> dict[str, Topic]:
    if isinstance(topics, Mapping):
        return {name: Topic(name, type_name) for name, type_name in topics.items()}
    return {topic.name: topic for topic in topics}
