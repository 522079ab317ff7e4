# SPDX-License-Identifier: Apache-2.0
"""Closing what a killed recorder left open."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from mcap.writer import CompressionType, Writer

from qcfql_ros.data.bag_file import Message
from qcfql_ros.data.bag_folder import split_number
from qcfql_ros.data.bag_metadata import (
    ACTIVE,
    METADATA,
    RECORD,
    BagMetadata,
    FileEntry,
    Topic,
    read_metadata,
    sync_folder,
    topic_of,
)
from qcfql_ros.data.damage import Damage, Skip
from qcfql_ros.data.mcap_file import McapFile
from qcfql_ros.data.mcap_records import is_closed, is_mcap
from qcfql_ros.errors import BagError

_PART, _DAMAGED = '.part', '.damaged'
_OURS = ('.mcap', f'.mcap{ACTIVE}')


@dataclass(frozen=True)
class Recovery:
    """What `recover_bag` found.

    Attributes:
        files: names of the files that were open.
        kept: messages read from them.
        salvaged: of these, from chunks that are cut off, not covered by a checksum.
        torn_bytes: left out at the end of the files. How many messages that was cannot be known.
        damage: everything that was left out.
        missing: files that ``metadata.yaml`` listed and that are gone.
        late_s: how much longer than at best the last messages were on their way to the recorder;
            what was sent since was on its way when the recorder was killed.
    """

    files: tuple[str, ...]
    kept: int
    salvaged: int
    torn_bytes: int
    damage: Damage = field(default_factory=Damage)
    missing: tuple[str, ...] = ()
    late_s: float = 0.0

    def __str__(self) -> str:
        gone = f'; gone: {", ".join(self.missing)}' if self.missing else ''
        left_out = f'; {self.damage}' if self.damage else ''
        return (
            f'recovered {", ".join(self.files) or METADATA}: {self.kept} messages kept, '
            f'{self.salvaged} of them from {self.torn_bytes} torn bytes at the end'
            f'{left_out}{gone}'
        )


def recover_bag(folder: str | Path) -> Recovery | None:
    """Rewrite the readable part of every file without a footer, and ``metadata.yaml``.

    A recovered file replaces the torn one in one step. One with no message in it is removed. A
    file that is damaged elsewhere than at its end is kept beside it, as ``<name>.damaged``, which
    no reader takes. Closed files are not touched. The caller holds the buffer's lock.

    Returns:
        what was found, None when nothing was open.

    Raises:
        BagError: not a recording in MCAP, or the disk refused.
    """
    folder = Path(folder)
    old = read_metadata(folder)
    if old is not None and old.storage != 'mcap':
        raise BagError(f'{folder} is stored as {old.storage!r}; only mcap can be recorded to')
    try:
        paths = sorted(
            (path for path in folder.glob('[!.]*') if path.name.endswith(_OURS)),
            key=lambda path: (split_number(path), path.name),
        )
        listed = {entry.name for entry in old.files} if old else set()
        if listed == {path.name for path in paths} and all(map(is_closed, paths)):
            return None
        for part in folder.glob(f'.*{_PART}'):
            part.unlink()
        return _recover(folder, paths, old or BagMetadata())
    except OSError as error:
        raise BagError(f'cannot recover {folder}: {error.strerror or error}') from error


def _recover(folder: Path, paths: list[Path], old: BagMetadata) -> Recovery:
    metadata = BagMetadata(topics=dict(old.topics), custom=dict(old.custom))
    listed = {entry.name for entry in old.files}
    names, kept, salvaged = [], 0, 0
    damage, late_ns = Damage(), 0
    for path in paths:
        target = path.with_name(path.name.removesuffix(ACTIVE))
        closed = is_closed(path)
        if not is_mcap(path):
            damage.add(_set_aside(path, target))
            continue
        with path.open('rb') as stream:
            file = McapFile(path, stream)
            entry, on_their_way_ns = (_count(file), 0) if closed else _rewrite(file, target)
        late_ns = max(late_ns, on_their_way_ns)
        if closed:
            path.replace(target)  # killed between its last byte and its name
        else:
            names.append(target.name)
            kept += entry.messages
            salvaged += file.salvaged
            damage.add(file.damage)
        for channel in file.channels.values():
            metadata.topics.setdefault(
                channel.topic, _as_topic(channel.topic, channel.type_name, dict(channel.metadata))
            )
        if path.name not in listed:  # newer than what metadata.yaml says
            metadata.custom.update(file.metadata.get(RECORD, {}))
        if target.exists():
            metadata.add(FileEntry(target.name, entry.start_ns, entry.end_ns, entry.counts))
    metadata.write(folder)
    present = {path.name.removesuffix(ACTIVE) for path in paths}
    missing = tuple(entry.name for entry in old.files if entry.name not in present)
    torn = sum(skip.size for skip in damage.skips if skip.at_end)
    return Recovery(tuple(names), kept, salvaged, torn, damage, missing, late_ns * 1e-9)


def _set_aside(path: Path, target: Path) -> Damage:
    """Put away a file whose first bytes are gone, and with them what the rest means."""
    damage, size = Damage(), path.stat().st_size
    damage.skip(Skip(path.name, 0, size, 'not an MCAP file any more'))
    path.replace(target.with_name(f'{target.name}{_DAMAGED}'))
    return damage


def _rewrite(file: McapFile, target: Path) -> tuple[FileEntry, int]:
    """Make `target` of the file's readable part; remove the file when that is nothing.

    Returns:
        what is in it, and how late the last messages came, in ns.
    """
    part = target.with_name(f'.{target.name}{_PART}')
    late = _Lateness()
    channels: dict[str, int] = {}
    with part.open('wb') as stream:
        writer = Writer(stream, compression=CompressionType.ZSTD)
        writer.start(profile='ros2', library='qcfql_ros')

        def copy(chunk: list[Message]) -> None:
            if RECORD in file.metadata and not channels:
                writer.add_metadata(RECORD, file.metadata[RECORD])
            for channel in file.channels.values():
                if channel.topic not in channels:
                    schema = writer.register_schema(
                        channel.type_name, channel.encoding, channel.definition
                    )
                    channels[channel.topic] = writer.register_channel(
                        channel.topic, channel.serialization, schema, dict(channel.metadata)
                    )
            for topic, receive_ns, publish_ns, data in chunk:
                writer.add_message(channels[topic], receive_ns, data, publish_ns)
                if publish_ns:
                    late.add(topic, receive_ns - publish_ns)

        entry = _count(file, copy)
        writer.finish()
        stream.flush()
        os.fsync(stream.fileno())
    damaged = target.with_name(f'{target.name}{_DAMAGED}')
    if any(not skip.at_end for skip in file.damage.skips):
        with suppress(FileExistsError):
            os.link(file.path, damaged)
    if entry.messages:
        part.replace(target)
    else:
        part.unlink()
    if file.path != target or not entry.messages:
        file.path.unlink()
    sync_folder(target.parent)
    return entry, late.last_ns


class _Lateness:
    """How long messages were on their way, which their clocks do not say, against the best."""

    def __init__(self) -> None:
        self._best: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def add(self, topic: str, delay_ns: int) -> None:
        self._last[topic] = delay_ns
        if delay_ns < self._best.setdefault(topic, delay_ns):
            self._best[topic] = delay_ns

    @property
    def last_ns(self) -> int:
        """Of the last message of each topic, the largest."""
        return max((last - self._best[topic] for topic, last in self._last.items()), default=0)


def _count(file: McapFile, visit=lambda chunk: None) -> FileEntry:  # type: ignore[no-untyped-def]
    """Read a file through and say what is in it."""
    counts: Counter[str] = Counter()
    start = end = 0
    for chunk in file.chunks():
        visit(chunk)
        counts.update(message.topic for message in chunk)
        start = min(start or chunk[0].receive_ns, chunk[0].receive_ns)
        end = max(end, chunk[-1].receive_ns)
    return FileEntry(file.path.name, start, end, dict(counts))


def _as_topic(name: str, type_name: str, fields: dict[str, str]) -> Topic:
    try:
        offered = yaml.safe_load(fields.get('offered_qos_profiles') or '[]')
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError):
        offered = []  # what others wrote there is no reason to lose a recording
    return topic_of(name, type_name, offered, fields.get('topic_type_hash', ''))
