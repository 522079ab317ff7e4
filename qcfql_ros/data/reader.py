# SPDX-License-Identifier: Apache-2.0
"""A recording read back: every message in the order it was received, without deserialising.

Any rosbag2 folder, or one file of it: MCAP and sqlite3, splits, compressed as rosbag2 does it,
with or without metadata.yaml, whole or damaged. What cannot be trusted is left out, and said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from qcfql_ros.data.bag_file import Channel, Message, open_bag_file
from qcfql_ros.data.bag_folder import split_number, split_paths
from qcfql_ros.data.bag_metadata import (
    CONTRACT,
    CONTRACT_HASH,
    METADATA,
    NAMESPACE,
    RECORD,
    BagMetadata,
    read_metadata,
)
from qcfql_ros.data.bag_types import check_channels
from qcfql_ros.data.damage import Damage

__all__ = [
    'BagInfo',
    'BagReader',
    'Part',
    'bag_custom_data',
    'bag_info',
    'read_bag',
    'read_splits',
    'split_number',
    'split_paths',
]

_topic, _receive = itemgetter(0), itemgetter(1)


@dataclass(frozen=True)
class Part:
    """Some messages of a bag, and how many bytes of its files were read so far."""

    messages: list[Message]
    bytes_read: int


class BagReader:
    """Reads one recording.

    Args:
        path: a rosbag2 folder, or one of its files.
        topics: only these; a mapping gives the type each must have. All when None.
        include_open: also what a recorder is writing at this moment, up to its torn end.
        splits: only these files, in order.

    Attributes:
        paths: the files it reads.
        damage: what was left out; complete after the last message.

    Raises:
        BagError: nothing to read, or a file of it is missing.
    """

    def __init__(
        self,
        path: str | Path,
        topics: Mapping[str, str] | Iterable[str] | None = None,
        *,
        include_open: bool = False,
        splits: slice = slice(None),
    ) -> None:
        self.path = Path(path)
        self.metadata = read_metadata(self.path) if self.path.is_dir() else None
        paths = split_paths(self.path, include_open=include_open, metadata=self.metadata)
        self.paths = paths[splits]
        self.damage = Damage()
        self._types = dict(topics) if isinstance(topics, Mapping) else {}
        self._topics = None if topics is None else frozenset(topics)
        self._counted = {
            entry.name: entry.messages for entry in (self.metadata or BagMetadata()).files
        }

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.paths if path.exists())

    def channels(self) -> dict[str, Channel]:
        """Return every topic in the files, with its type and definition.

        Reads no more of them than that takes.

        Raises:
            BagError: a file cannot be read, or a wanted topic has another type.
        """
        found: dict[str, Channel] = {}
        for path in self.paths:
            with open_bag_file(path) as file:
                file.learn()
                check_channels(self.path, file.channels.values(), self._types)
                for channel in file.channels.values():
                    found.setdefault(channel.topic, channel)
        return found

    def __iter__(self) -> Iterator[Message]:
        """Yield every message: topic, receive stamp, publish stamp, CDR bytes."""
        for part in self.parts():
            yield from part.messages

    def parts(self) -> Iterator[Part]:
        """Yield the messages file by file, in the order of receipt, many at a time.

        Raises:
            BagError: a file cannot be read at all, or a wanted topic has another type.
        """
        wanted = self._types or self._topics
        yield from read_splits(self.paths, wanted, self.damage, self._counted, self.path)


def read_splits(
    paths: Iterable[Path],
    topics: Mapping[str, str] | Iterable[str] | None = None,
    damage: Damage | None = None,
    counted: Mapping[str, int] | None = None,
    bag: Path | None = None,
) -> Iterator[Part]:
    """Yield the messages of files one after the other, in the order of receipt, many at a time.

    Args:
        paths: the files.
        topics: only these; a mapping gives the type each must have. All when None.
        damage: what was left out is added to it after each file.
        counted: messages by file name, as metadata.yaml has them.
        bag: named in errors.

    Raises:
        BagError: a file cannot be read at all, or a wanted topic has another type.
    """
    types = topics if isinstance(topics, Mapping) else {}
    wanted = None if topics is None else frozenset(topics)
    before = 0
    for path in paths:
        with open_bag_file(path) as file:
            if types:
                file.learn()
                check_channels(bag or path, file.channels.values(), types)
            count = 0
            for messages in file.chunks(wanted):
                count += len(messages)
                yield Part(messages, before + file.bytes_read * file.stored // max(1, file.size))
            expected = (counted or {}).get(path.name, 0)
            if wanted is None and expected and not file.damage.settled(file.path):
                file.damage.settle(file.path, {'': expected}, {'': count}, METADATA)
            if damage is not None:
                damage.add(file.damage)
            before += file.stored


def read_bag(
    folder: str | Path,
    topics: Mapping[str, str] | Iterable[str] | None = None,
    *,
    include_open: bool = False,
) -> Iterator[tuple[str, int, bytes]]:
    """Yield (topic, receive stamp in ns, CDR bytes) in the order of receipt, file by file.

    Args:
        folder: a rosbag2 folder, or one of its files.
        topics: only these; a mapping gives the type each must have. All when None.
        include_open: also what a recorder is writing at this moment.

    Raises:
        BagError: nothing there that can be read.
    """
    for part in BagReader(folder, topics, include_open=include_open).parts():
        for topic, receive_ns, _, data in part.messages:
            yield topic, receive_ns, data


@dataclass(frozen=True)
class BagInfo:
    """What a recording holds, by reading every message of it (metadata.yaml may be wrong).

    Attributes:
        counts: messages by topic.
        types: type by topic.
        custom: contract name and hash, namespace; empty for the bags of others.
        start_ns: receive stamp of the first message.
        end_ns: of the last.
        damage: what was left out.
    """

    counts: Mapping[str, int]
    types: Mapping[str, str]
    custom: Mapping[str, str]
    start_ns: int
    end_ns: int
    damage: Damage = field(default_factory=Damage)

    @property
    def messages(self) -> int:
        """All messages."""
        return sum(self.counts.values())

    @property
    def contract_hash(self) -> str:
        """Hash of the contract it was recorded under; empty if it says none."""
        return self.custom.get(CONTRACT_HASH, '')

    @property
    def contract(self) -> str:
        """Name of the contract it was recorded under; empty if it says none."""
        return self.custom.get(CONTRACT, '')

    @property
    def namespace(self) -> str:
        """ROS namespace of the robot, without slashes at its ends."""
        return self.custom.get(NAMESPACE, '').strip('/')


def bag_info(folder: str | Path, *, include_open: bool = False) -> BagInfo:
    """Read the whole bag and say what is in it.

    Raises:
        BagError: nothing there that can be read.
    """
    reader = BagReader(folder, include_open=include_open)
    counts: Counter[str] = Counter()
    start = end = 0
    for part in reader.parts():
        if part.messages:
            counts.update(map(_topic, part.messages))
            first, last = part.messages[0].receive_ns, part.messages[-1].receive_ns
            start, end = min(start or first, first), max(end, last)
    types = {topic: channel.type_name for topic, channel in reader.channels().items()}
    custom = bag_custom_data(folder)
    return BagInfo(dict(counts), types, custom, start, end, reader.damage)


def bag_custom_data(folder: str | Path, *, include_open: bool = True) -> dict[str, str]:
    """Return contract name, hash and namespace of a recording; empty where it has none.

    Raises:
        BagError: nothing there that can be read.
    """
    path = Path(folder)
    metadata = read_metadata(path) if path.is_dir() else None
    if metadata and metadata.custom:
        return dict(metadata.custom)
    for split in split_paths(path, include_open=include_open, metadata=metadata)[:1]:
        with open_bag_file(split) as file:
            file.learn()
            return dict(file.metadata.get(RECORD, {}))
    return {}
