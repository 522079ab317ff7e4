# SPDX-License-Identifier: Apache-2.0
"""The MCAP file being written: ``<bag>_<n>.mcap.active`` until it is closed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from qcfql_ros.data.bag_metadata import (
    ACTIVE,
    RECORD,
    FileEntry,
    Topic,
    sync_folder,
    type_definition,
)
from qcfql_ros.data.mcap_writer import McapWriter


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
        OSError: the disk refused; of every method. The file then ends with the last commit, and
            can be closed all the same once the disk is back.
    """

    def __init__(self, path: Path, custom: Mapping[str, str], chunk_bytes: int) -> None:
        self._path = path
        self._active = path.with_name(path.name + ACTIVE)
        self._chunk_bytes = chunk_bytes
        self.committed = self.messages = 0
        self.start_ns = self.end_ns = 0
        self._counts: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._marked: tuple[int, dict[str, int]] = (0, {})  # end_ns and counts of the last commit
        self._ended = False
        self._sink = _Sink(self._active)
        try:
            self._writer = McapWriter()
            self._sink.write(self._writer.begin('ros2', 'qcfql_ros'))
            self.note(custom)
            self.commit()
            sync_folder(path.parent)
        except OSError:
            self.abandon()
            with contextlib.suppress(OSError):
                self._active.unlink()  # nothing is in it
            raise

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._sink.size

    def write(self, topic: Topic, receive_ns: int, publish_ns: int, data: bytes) -> None:
        """Take one message for the next `commit`."""
        channel = self._channels.get(topic.name)
        if channel is None:
            channel = self._register(topic)
        if self._writer.add(channel, receive_ns, publish_ns, data) >= self._chunk_bytes:
            self._sink.write(self._writer.chunk())
        self._counts[topic.name] = self._counts.get(topic.name, 0) + 1
        self.start_ns = self.start_ns or receive_ns
        self.end_ns = receive_ns
        self.messages += 1

    def note(self, custom: Mapping[str, str]) -> None:
        """Say what the file says of itself anew; a reader takes the last."""
        self._sink.write(self._writer.chunk())
        self._sink.write(self._writer.metadata(RECORD, custom))

    def commit(self) -> None:
        """Hand what was taken to the operating system: it outlives this process."""
        self._sink.write(self._writer.chunk())
        try:
            self._sink.commit()
        except OSError:
            self._back()
            raise
        self._writer.mark()
        self._marked = (self.end_ns, dict(self._counts))
        self.committed = self.messages

    def sync(self) -> None:
        """Put what was committed on the disk: it outlives a power cut."""
        os.fdatasync(self._sink.handle)

    def close(self, topics: Iterable[Topic]) -> FileEntry:
        """Finish the file, on disk and under its own name when this returns.

        May be called again when the disk refused.

        Args:
            topics: all of the bag; those without a message are named too.
        """
        if not self._ended:
            self.commit()
            for topic in topics:
                if topic.name not in self._channels:
                    self._register(topic)
            self._sink.write(self._writer.end())
            try:
                self._sink.commit()
            except OSError:
                self._back()
                raise
            self._ended = True
        os.fsync(self._sink.handle)
        if not self._path.exists():
            os.rename(self._active, self._path)
        sync_folder(self._path.parent)
        self.abandon()
        return FileEntry(self._path.name, self.start_ns, self.end_ns, self._counts)

    def abandon(self) -> None:
        """Let go of the file as it is; recovery closes it."""
        self._sink.close()

    def _back(self) -> None:
        """Be what the file is: it ends with the last commit."""
        self._writer.back()
        self.messages = self.committed
        self.end_ns, counts = self._marked
        self._counts = dict(counts)
        self.start_ns = self.start_ns if self.messages else 0
        self._channels = {name: n for name, n in self._channels.items() if name in counts}
        known = self._writer.schemas
        self._schemas = {name: n for name, n in self._schemas.items() if n <= known}

    def _register(self, topic: Topic) -> int:
        """Announce a topic with its definition and what is offered, as rosbag2 does."""
        definition, type_hash = type_definition(topic.type_name)
        if topic.type_name not in self._schemas:
            self._schemas[topic.type_name] = self._writer.schema(
                topic.type_name, 'ros2msg', definition.encode()
            )
        offered = yaml.safe_dump(topic.qos(), sort_keys=False).strip()
        self._channels[topic.name] = self._writer.channel(
            topic.name,
            self._schemas[topic.type_name],
            'cdr',
            {'offered_qos_profiles': offered, 'topic_type_hash': type_hash},
        )
        return self._channels[topic.name]


class _Sink:
    """A file that holds whole commits: one that the disk refuses half-way is cut off again."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.handle = os.open(path, flags, 0o644)
        self.size = 0
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        if data:
            self._waiting.append(data)

    def commit(self) -> None:
        data = memoryview(b''.join(self._waiting))
        self._waiting.clear()
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
