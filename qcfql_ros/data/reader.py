# SPDX-License-Identifier: Apache-2.0
"""A recording read back: every message in the order it was received, without deserialising."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from qcfql_ros.data.bag_metadata import (
    ACTIVE,
    CONTRACT,
    CONTRACT_HASH,
    NAMESPACE,
    RECORD,
    read_metadata,
)
from qcfql_ros.data.split_file import Message, SplitFile
from qcfql_ros.errors import BagError

_receive = attrgetter('receive_ns')


@dataclass(frozen=True)
class BagInfo:
    """What a recording holds, by reading every message of it (metadata.yaml may be wrong).

    Attributes:
        counts: messages by topic.
        types: type by topic.
        custom: contract name and hash, namespace; empty for the bags of others.
        torn_bytes: bytes at the end of the last file that hold no whole record.
    """

    counts: Mapping[str, int]
    types: Mapping[str, str]
    custom: Mapping[str, str]
    start_ns: int
    end_ns: int
    torn_bytes: int

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


def split_paths(folder: Path) -> list[Path]:
    """Return the bag's files in order, the one that a killed recorder left unlisted included.

    Raises:
        BagError: no such folder, no MCAP file in it, or one is missing.
    """
    if folder.is_file() and folder.suffix == '.mcap':
        return [folder]
    if not folder.is_dir():
        raise BagError(f'no recording at {folder}; want a rosbag2 folder')
    metadata = read_metadata(folder)
    listed = [folder / entry.name for entry in metadata.files] if metadata else []
    for path in listed:
        if not path.is_file():
            raise BagError(f'{path} is missing; {folder}/metadata.yaml lists it')
    last = max((split_number(path) for path in listed), default=-1)
    # The file being written first: it may be closed, and so renamed, between the two.
    active = list(folder.glob(f'*.mcap{ACTIVE}'))
    found = {*folder.glob('*.mcap')}
    found |= {path for path in active if path.with_suffix('') not in found}
    others = [path for path in found if split_number(path) > last]
    paths = listed + sorted(others, key=lambda path: (split_number(path), path.name))
    if not paths:
        raise BagError(f'{folder} holds no .mcap file; want a rosbag2 folder stored as mcap')
    return paths


def split_number(path: Path) -> int:
    """Return N of ``name_N.mcap`` or ``name_N.mcap.active``, 0 for a file that is not numbered."""
    found = re.search(rf'_(\d+)\.mcap(?:{ACTIVE})?$', path.name)
    return int(found.group(1)) if found else 0


def read_bag(
    folder: str | Path, topics: Iterable[str] | None = None
) -> Iterator[tuple[str, int, bytes]]:
    """Yield (topic, receive stamp in ns, CDR bytes) in the order of receipt, file by file.

    The torn end of the last file (a killed recorder, or one still at work) is left out.

    Args:
        folder: a rosbag2 folder, or one .mcap file.
        topics: only these; all when None.

    Raises:
        BagError: missing or damaged.
    """
    wanted = None if topics is None else frozenset(topics)
    for part in read_splits(split_paths(Path(folder))):
        for topic, receive_ns, _, data in part.messages:
            if wanted is None or topic in wanted:
                yield topic, receive_ns, data


@dataclass(frozen=True)
class Part:
    """Some messages of a bag, and how many bytes of its files were read so far."""

    messages: list[Message]
    bytes_read: int


def read_splits(paths: list[Path]) -> Iterator[Part]:
    """Yield the messages of the files in the order of receipt, a chunk or so at a time.

    Raises:
        BagError: a file is missing, damaged, or torn and not the last.
    """
    before = 0
    for path in paths:
        split = SplitFile(path)
        for messages in in_receive_order(split.chunks()):
            yield Part(messages, before + split.bytes_read)
        if split.torn_bytes and path != paths[-1]:
            raise BagError(f'{path} is torn: {split.torn_bytes} bytes after its last whole record')
        before += split.bytes_read


def in_receive_order(chunks: Iterable[list[Message]]) -> Iterator[list[Message]]:
    """Yield the messages of chunks ordered by receive stamp, equal stamps as written.

    Our recorder writes them in order; rosbag2's cache swaps neighbours, across chunks too.
    """
    held: list[Message] = []
    for chunk in chunks:
        held += chunk
        held.sort(key=_receive)
        # A later chunk may begin before this one's end: keep what is younger than its start.
        ready = bisect_left(held, min(map(_receive, chunk)), key=_receive)
        yield held[:ready]
        del held[:ready]
    yield held


def bag_info(folder: str | Path) -> BagInfo:
    """Read the whole bag and say what is in it.

    Raises:
        BagError: missing or damaged.
    """
    path = Path(folder)
    counts: dict[str, int] = {}
    types: dict[str, str] = {}
    metadata = read_metadata(path) if path.is_dir() else None
    custom = dict(metadata.custom) if metadata else {}
    start, end, torn = 0, 0, 0
    for split_path in split_paths(path):
        split = SplitFile(split_path)
        for chunk in split.chunks():
            for message in chunk:
                counts[message.topic] = counts.get(message.topic, 0) + 1
            first, last = min(map(_receive, chunk)), max(map(_receive, chunk))
            start, end = min(start or first, first), max(end, last)
        types |= {channel.topic: channel.type_name for channel in split.channels.values()}
        for key, text in split.metadata.get(RECORD, {}).items():
            custom.setdefault(key, text)
        torn = split.torn_bytes
    return BagInfo(counts, types, custom, start, end, torn)


def bag_custom_data(folder: str | Path) -> dict[str, str]:
    """Return contract name, hash and namespace of a recording, from its first readable part.

    Raises:
        BagError: missing or damaged.
    """
    path = Path(folder)
    metadata = read_metadata(path) if path.is_dir() else None
    if metadata and metadata.custom:
        return dict(metadata.custom)
    split = SplitFile(split_paths(path)[0])
    next(iter(split.chunks()), None)
    return dict(split.metadata.get(RECORD, {}))
