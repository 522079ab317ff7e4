# SPDX-License-Identifier: Apache-2.0
"""Closing what a killed recorder left open."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from mcap.writer import CompressionType, Writer

from qcfql_ros.data.bag_metadata import (
    ACTIVE,
    RECORD,
    BagMetadata,
    FileEntry,
    Topic,
    read_metadata,
    sync_folder,
)
from qcfql_ros.data.reader import split_number
from qcfql_ros.data.split_file import Message, SplitFile, is_closed
from qcfql_ros.errors import BagError

_PART = '.part'


@dataclass(frozen=True)
class Recovery:
    """What `recover_bag` found.

    Attributes:
        files: names of the files that were open.
        kept: messages read from them.
        salvaged: of these, from the torn record at the end, not covered by a checksum.
        torn_bytes: size of the torn record at the end. What it held beyond `salvaged` is lost;
            how many messages that was cannot be known.
    """

    files: tuple[str, ...]
    kept: int
    salvaged: int
    torn_bytes: int

    def __str__(self) -> str:
        return (
            f'recovered {", ".join(self.files) or "metadata.yaml"}: {self.kept} messages kept, '
            f'{self.salvaged} of them from {self.torn_bytes} torn bytes at the end'
        )


def recover_bag(folder: str | Path) -> Recovery | None:
    """Rewrite the readable part of every file without a footer, and ``metadata.yaml``.

    A recovered file replaces the torn one in one step. One with no message in it is removed.
    Closed files are not touched. The caller holds the buffer's lock.

    Returns:
        what was found, None when nothing was open.

    Raises:
        BagError: a file is damaged before its end, or the disk refused.
    """
    folder = Path(folder)
    found = [*folder.glob('[!.]*.mcap'), *folder.glob(f'[!.]*.mcap{ACTIVE}')]
    paths = sorted(found, key=lambda path: (split_number(path), path.name))
    old = read_metadata(folder)
    listed = {entry.name for entry in old.files} if old else set()
    if all(path.name in listed and is_closed(path) for path in paths):
        return None
    try:
        for part in folder.glob(f'.*{_PART}'):
            part.unlink()
        return _recover(folder, paths, old or BagMetadata())
    except OSError as error:
        raise BagError(f'cannot recover {folder}: {error.strerror or error}') from error


def _recover(folder: Path, paths: list[Path], old: BagMetadata) -> Recovery:
    metadata = BagMetadata(topics=dict(old.topics), custom=dict(old.custom))
    listed = {entry.name for entry in old.files}
    names, kept, salvaged, torn = [], 0, 0, 0
    for path in paths:
        split = SplitFile(path)
        if is_closed(path):
            entry = _count(split)
        else:
            entry = _rewrite(split)
            names.append(path.name)
            kept += entry.messages
            salvaged += split.salvaged
            torn += split.torn_bytes
        for channel in split.channels.values():
            metadata.topics.setdefault(
                channel.topic, _as_topic(channel.topic, channel.type_name, channel.metadata)
            )
        if path.name not in listed:  # newer than what metadata.yaml says
            metadata.custom.update(split.metadata.get(RECORD, {}))
        if path.suffix == ACTIVE and path.exists():
            path = path.rename(path.with_suffix(''))
        if path.exists():
            metadata.add(replace(entry, name=path.name))
    metadata.write(folder)
    return Recovery(tuple(names), kept, salvaged, torn)


def _rewrite(split: SplitFile) -> FileEntry:
    """Replace a torn file by its readable part; remove it when that is nothing."""
    part = split.path.with_name(f'.{split.path.name}{_PART}')
    channels: dict[str, int] = {}
    with part.open('wb') as stream:
        writer = Writer(stream, compression=CompressionType.ZSTD)
        writer.start(profile='ros2', library='qcfql_ros')

        def copy(chunk: list[Message]) -> None:
            if RECORD in split.metadata and not channels:
                writer.add_metadata(RECORD, split.metadata[RECORD])
            for channel in split.channels.values():
                if channel.topic not in channels:
                    schema = writer.register_schema(
                        channel.type_name, channel.encoding, channel.definition
                    )
                    channels[channel.topic] = writer.register_channel(
                        channel.topic, 'cdr', schema, channel.metadata
                    )
            for topic, receive_ns, publish_ns, data in chunk:
                writer.add_message(channels[topic], receive_ns, data, publish_ns)

        entry = _count(split, copy)
        writer.finish()
        stream.flush()
        os.fsync(stream.fileno())
    if entry.messages:
        part.replace(split.path)
    else:
        part.unlink()
        split.path.unlink()
    sync_folder(split.path.parent)
    return entry


def _count(split: SplitFile, visit=lambda chunk: None) -> FileEntry:  # type: ignore[no-untyped-def]
    """Read a file through and say what is in it."""
    counts: dict[str, int] = {}
    start = end = 0
    for chunk in split.chunks():
        visit(chunk)
        for topic, receive_ns, _, _ in chunk:
            counts[topic] = counts.get(topic, 0) + 1
            start = min(start or receive_ns, receive_ns)
            end = max(end, receive_ns)
    return FileEntry(split.path.name, start, end, counts)


def _as_topic(name: str, type_name: str, fields: dict[str, str]) -> Topic:
    try:
        offered = yaml.safe_load(fields.get('offered_qos_profiles') or '[{}]') or [{}]
        first = dict(offered[0])
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError):
        first = {}  # what others wrote there is no reason to lose a recording
    return Topic(
        name,
        type_name,
        str(first.get('reliability', 'reliable')),
        str(first.get('durability', 'volatile')),
        fields.get('topic_type_hash', ''),
    )
