# SPDX-License-Identifier: Apache-2.0
"""``metadata.yaml`` of a rosbag2 folder, version 9, and the definitions of the types in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from qcfql_ros.errors import BagError

VERSION = 9
METADATA = 'metadata.yaml'
INFORMATION = 'rosbag2_bagfile_information'  # its one key
STORAGES = ('mcap', 'sqlite3')
ACTIVE = '.active'  # ends the name of the file being written
# Keys of custom_data, and of the MCAP metadata record that repeats them in each file.
CONTRACT, CONTRACT_HASH, NAMESPACE = 'qcfql.contract', 'qcfql.contract_hash', 'qcfql.namespace'
RECORD = 'qcfql_ros'

_FOREVER = {'sec': 9223372036, 'nsec': 854775807}
_NEVER = 2**63 - 1  # what rosbag2 writes as the starting time of an empty bag


@dataclass(frozen=True)
class Topic:
    """A recorded topic: absolute name, type as ``package/msg/Name``, and what was offered."""

    name: str
    type_name: str
    reliability: str = 'reliable'
    durability: str = 'volatile'
    type_hash: str = ''  # RIHS01; of the bags of others, whose types we may not know
    offered: tuple[Mapping[str, Any], ...] = ()  # a profile a publisher, as rosbag2 writes them

    def __post_init__(self) -> None:
        if not self.name.startswith('/'):
            raise BagError(
                f'topic {self.name!r} of a recording must be absolute; got no leading /'
            )
        if self.type_name.count('/') != 2:
            raise BagError(f'type {self.type_name!r} of {self.name}; want package/msg/Name')

    def qos(self) -> list[dict[str, Any]]:
        """Return the offered profiles as rosbag2 writes them."""
        if self.offered:
            return [dict(profile) for profile in self.offered]
        return [
            {
                'history': 'unknown',
                'depth': 0,
                'reliability': self.reliability,
                'durability': self.durability,
                'deadline': dict(_FOREVER),
                'lifespan': dict(_FOREVER),
                'liveliness': 'automatic',
                'liveliness_lease_duration': dict(_FOREVER),
                'avoid_ros_namespace_conventions': False,
            }
        ]


@dataclass(frozen=True)
class FileEntry:
    """What one file of the bag holds; times in ns, `counts` by topic name."""

    name: str
    start_ns: int
    end_ns: int
    counts: Mapping[str, int]

    @property
    def messages(self) -> int:
        """All messages in the file."""
        return sum(self.counts.values())


@dataclass
class BagMetadata:
    """The content of ``metadata.yaml``.

    `totals` are the counts by topic over all files. We write MCAP alone; `storage` is what a bag
    that was read is stored as.
    """

    topics: dict[str, Topic] = field(default_factory=dict)
    files: list[FileEntry] = field(default_factory=list)
    custom: dict[str, str] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    storage: str = 'mcap'

    def add(self, entry: FileEntry) -> None:
        """Append a file and its counts."""
        self.files.append(entry)
        for topic, count in entry.counts.items():
            self.totals[topic] = self.totals.get(topic, 0) + count

    def write(self, folder: Path) -> None:
        """Replace the folder's ``metadata.yaml`` in one step, and on disk when this returns."""
        text = yaml.dump(
            {INFORMATION: self._document()},
            Dumper=_Dumper,
            sort_keys=False,
            width=1000,
        )
        part = folder / f'.{METADATA}.part'
        with part.open('w') as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(folder / METADATA)
        sync_folder(folder)

    def _document(self) -> dict[str, Any]:
        starts = [entry.start_ns for entry in self.files if entry.messages]
        ends = [entry.end_ns for entry in self.files if entry.messages]
        start = min(starts, default=_NEVER)
        return {
            'version': VERSION,
            'storage_identifier': 'mcap',
            'duration': {'nanoseconds': max(ends, default=start) - start},
            'starting_time': {'nanoseconds_since_epoch': start},
            'message_count': sum(self.totals.values()),
            'topics_with_message_count': [
                {
                    'topic_metadata': {
                        'name': topic.name,
                        'type': topic.type_name,
                        'serialization_format': 'cdr',
                        'offered_qos_profiles': topic.qos(),
                        'type_description_hash': topic.type_hash
                        or type_definition(topic.type_name)[1],
                    },
                    'message_count': self.totals.get(topic.name, 0),
                }
                for topic in self.topics.values()
            ],
            'compression_format': '',
            'compression_mode': '',
            'relative_file_paths': [entry.name for entry in self.files],
            'files': [
                {
                    'path': entry.name,
                    'starting_time': {'nanoseconds_since_epoch': entry.start_ns},
                    'duration': {'nanoseconds': entry.end_ns - entry.start_ns},
                    'message_count': entry.messages,
                }
                for entry in self.files
            ],
            'custom_data': dict(self.custom) or None,
            'ros_distro': os.environ.get('ROS_DISTRO') or 'jazzy',
        }


def read_metadata(folder: Path) -> BagMetadata | None:
    """Read the folder's ``metadata.yaml``; None when there is none (the recorder was killed).

    Raises:
        BagError: it is not what rosbag2 writes, or the bag is stored in what we cannot read.
    """
    path = folder / METADATA
    try:
        text = path.read_text()
        if not text.strip('\0 \n'):
            return None  # a power cut left the name without the content
        document = yaml.load(text, Loader=_Loader)
    except FileNotFoundError:
        return None
    # PyYAML raises whatever its constructors meet: `!!int x`, `!!timestamp x`.
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise BagError(f'cannot read {path}: {" ".join(str(error).split())}') from error
    try:
        info = document[INFORMATION]
        storage = info['storage_identifier']
        if storage not in STORAGES:
            raise BagError(
                f'{folder} is stored as {storage!r}; want mcap or sqlite3: `ros2 bag convert` '
                'writes them'
            )
        topics: dict[str, Topic] = {}
        totals: dict[str, int] = {}
        for row in info['topics_with_message_count']:
            entry = row['topic_metadata']
            topics[entry['name']] = topic_of(
                entry['name'],
                entry['type'],
                entry.get('offered_qos_profiles'),
                str(entry.get('type_description_hash') or ''),
            )
            totals[entry['name']] = int(row['message_count'])
        per_file = {row['path']: row for row in info.get('files') or []}
        files = []
        for name in info['relative_file_paths']:
            row = per_file.get(name, {})
            start = int(row.get('starting_time', {}).get('nanoseconds_since_epoch', 0))
            span = int(row.get('duration', {}).get('nanoseconds', 0))
            count = int(row.get('message_count', 0))
            files.append(FileEntry(Path(name).name, start, start + span, {'': count}))
        custom = {str(key): str(text) for key, text in (info.get('custom_data') or {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BagError(f'{path} is not what rosbag2 writes: {error!r}') from error
    return BagMetadata(topics, files, custom, totals, storage)


def topic_of(name: str, type_name: str, offered: Any, type_hash: str) -> Topic:
    """Return a topic of a bag that was read.

    Args:
        name: absolute.
        type_name: package/msg/Name.
        offered: profiles as Jazzy writes them; others are forgotten.
        type_hash: RIHS01, or empty.
    """
    profiles = offered if isinstance(offered, list) else []
    if not all(isinstance(p, dict) and isinstance(p.get('history'), str) for p in profiles):
        profiles = []
    return Topic(name, type_name, type_hash=type_hash, offered=tuple(profiles))


@lru_cache(maxsize=256)
def type_definition(type_name: str) -> tuple[str, str]:
    """Return a message type's full definition (ros2msg) and its RIHS01 hash. No ROS needed.

    Raises:
        BagError: not a message type of ROS 2 Jazzy.
    """
    store = _typestore()
    if type_name not in store.types:
        raise BagError(f'{type_name} is not a message type of ROS 2 Jazzy; it cannot be recorded')
    return store.generate_msgdef(type_name, ros_version=2)[0], store.hash_rihs01(type_name)


@cache
def _typestore() -> Any:
    # Imported late: the robot side has no rosbags, and reading a bag does not need it.
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def sync_folder(folder: Path) -> None:
    """Make names in `folder` (new files, renamed files) survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_Loader: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


class _Dumper(yaml.SafeDumper):
    """Without anchors: yaml-cpp reads them, people do not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
