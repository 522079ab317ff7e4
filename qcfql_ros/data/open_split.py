# SPDX-License-Identifier: Apache-2.0
"""The MCAP file being written: ``<bag>_<n>.mcap.active`` until it is closed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from mcap.writer import CompressionType, Writer

from qcfql_ros.data.bag_metadata import (
    ACTIVE,
    RECORD,
    FileEntry,
    Topic,
    sync_folder,
    type_definition,
)


class OpenSplit:
    """One file; nothing reaches it but by `commit`, and that as a whole or not at all.

    Args:
        path: its name once closed.
        custom: what the file says of itself before its first message.
        chunk_bytes: messages compressed together, at most.

    Attributes:
        committed: messages in the file.
        messages: these, and those that the next `commit` puts there.
        start_ns, end_ns: receive stamps of the first and last message.

    Raises:
        OSError: the disk refused; of every method. The file then ends with the last commit.
    """

    def __init__(self, path: Path, custom: Mapping[str, str], chunk_bytes: int) -> None:
        self._path = path
        self._active = path.with_name(path.name + ACTIVE)
        self.committed = self.messages = 0
        self.start_ns = self.end_ns = 0
        self._counts: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._sink = _Sink(self._active)
        self._writer = Writer(
            self._sink,  # type: ignore[arg-type]  # all it asks of a stream
            chunk_size=chunk_bytes,
            compression=CompressionType.ZSTD,
        )
        self._writer.start(profile='ros2', library='qcfql_ros')
        self.note(custom)
        self.commit()
        sync_folder(path.parent)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._sink.size

    def write(self, topic: Topic, receive_ns: int, publish_ns: int, data: bytes) -> None:
        """Take one message for the next `commit`."""
        channel = self._channels.get(topic.name)
        if channel is None:
            channel = self._register(topic)
        count = self._counts.get(topic.name, 0)
        self._writer.add_message(channel, receive_ns, data, publish_ns, count & 0xFFFFFFFF)
        self._counts[topic.name] = count + 1
        self.start_ns = self.start_ns or receive_ns
        self.end_ns = receive_ns
        self.messages += 1

    def note(self, custom: Mapping[str, str]) -> None:
        """Say what the file says of itself anew; a reader takes the last."""
        self._writer.add_metadata(RECORD, dict(custom))

    def commit(self) -> None:
        """Hand what was taken to the operating system: it outlives this process."""
        self._writer.flush()
        self._sink.commit()
        self.committed = self.messages

    def sync(self) -> None:
        """Put what was committed on the disk: it outlives a power cut."""
        os.fdatasync(self._sink.handle)

    def close(self, topics: Iterable[Topic]) -> FileEntry:
        """Finish the file, on disk and under its own name when this returns.

        Args:
            topics: all of the bag; those without a message are named too.
        """
        for topic in topics:
            if topic.name not in self._channels:
                self._register(topic)
        self.commit()
        self._writer.finish()
        self._sink.commit()
        os.fsync(self._sink.handle)
        os.rename(self._active, self._path)
        sync_folder(self._path.parent)
        self.abandon()
        return FileEntry(self._path.name, self.start_ns, self.end_ns, self._counts)

    def abandon(self) -> None:
        """Let go of the file as it is; recovery closes it."""
        self._sink.close()

    def _register(self, topic: Topic) -> int:
        """Announce a topic with its definition and what is offered, as rosbag2 does."""
        definition, type_hash = type_definition(topic.type_name)
        if topic.type_name not in self._schemas:
            self._schemas[topic.type_name] = self._writer.register_schema(
                topic.type_name, 'ros2msg', definition.encode()
            )
        offered = yaml.safe_dump(topic.qos(), sort_keys=False).strip()
        self._channels[topic.name] = self._writer.register_channel(
            topic.name,
            'cdr',
            self._schemas[topic.type_name],
            {'offered_qos_profiles': offered, 'topic_type_hash': type_hash},
        )
        return self._channels[topic.name]


class _Sink:
    """A file that holds whole commits: one that the disk refuses half-way is cut off again."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self.size = 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def write(self, data: bytes) -> int:
        if data:
            self._waiting.append(bytes(data))
            self._waiting_bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size + self._waiting_bytes

    def flush(self) -> None:
        """Nothing: `commit` does it."""

    def commit(self) -> None:
        data = memoryview(b''.join(self._waiting))
        self._waiting.clear()
        self._waiting_bytes = 0
        try:
            done = 0
            while done < len(data):
                done += os.write(self.handle, data[done:])
        except OSError:
            # What a reader would find of it beyond the last commit was never given to anybody.
            with contextlib.suppress(OSError):
                os.ftruncate(self.handle, self.size)
            raise
        self.size += len(data)

    def close(self) -> None:
        if self.handle >= 0:
            with contextlib.suppress(OSError):
                os.close(self.handle)
            self.handle = -1
