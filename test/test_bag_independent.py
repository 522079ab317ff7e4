# SPDX-License-Identifier: Apache-2.0
"""Our recordings, as two libraries that share no code with us read them, and as ROS means them.

What `rosbags` and `mcap` find is held against what was recorded, not against what ours finds.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from mcap.reader import NonSeekingReader, make_reader
from mcap.records import Channel, Chunk, ChunkIndex, Message, MessageIndex, Schema
from mcap.stream_reader import StreamReader
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosHistory, QosLiveliness, QosReliability
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from test_recording import files_of_at_most

from qcfql_ros.contract.message_types import message_class
from qcfql_ros.data.bag_metadata import Topic
from qcfql_ros.data.reader import BagReader
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.errors import BagError
from qcfql_ros.nodes.recorded_topics import as_rosbag2

STORE = get_typestore(Stores.ROS2_JAZZY)
START, MS = 1_700_000_000_000_000_000, 1_000_000
TYPES = (
    'sensor_msgs/msg/JointState',
    'sensor_msgs/msg/Imu',
    'sensor_msgs/msg/Image',
    'sensor_msgs/msg/CompressedImage',
    'trajectory_msgs/msg/JointTrajectory',
    'geometry_msgs/msg/PoseStamped',
    'geometry_msgs/msg/Pose',
    'geometry_msgs/msg/TwistStamped',
    'geometry_msgs/msg/Twist',
    'geometry_msgs/msg/WrenchStamped',
    'geometry_msgs/msg/Wrench',
    'std_msgs/msg/Float32',
    'std_msgs/msg/Float64',
    'std_msgs/msg/Float32MultiArray',
    'std_msgs/msg/Float64MultiArray',
    'std_msgs/msg/Bool',
    'std_msgs/msg/Int32',
    'std_msgs/msg/String',
)
FOREVER = Duration(nanoseconds=2**63 - 1)


def offer(reliability, durability, depth) -> QoSProfile:
    """A profile as the graph gives it."""
    return QoSProfile(
        depth=depth,
        reliability=reliability,
        durability=durability,
        deadline=FOREVER,
        lifespan=FOREVER,
        liveliness=LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=FOREVER,
    )


LATCHED = offer(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL, 3)
BEST = offer(ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE, 7)
OFFERED = {'std_msgs/msg/String': [LATCHED], 'sensor_msgs/msg/Imu': [BEST, LATCHED]}
NEVER_HEARD = 'std_msgs/msg/UInt64'
Sent = tuple[str, int, int, bytes]  # topic, received, published, CDR


def topic_of(type_name: str) -> str:
    return '/robot/' + type_name.replace('/', '_').lower()


def recorder(folder: Path, **options) -> BagRecorder:
    topics = [
        Topic(topic_of(t), t, offered=tuple(map(as_rosbag2, OFFERED.get(t, ()))))
        for t in (*TYPES, NEVER_HEARD)
    ]
    return BagRecorder(folder, topics, contract_name='c', contract_hash='h' * 64, **options)


def messages(count: int, first: int = 0) -> list[Sent]:
    """Messages of all types, each with numbers of its own; published 3 ms before receipt."""
    made = []
    for number in range(first, first + count):
        type_name = TYPES[number % len(TYPES)]
        data = bytes(STORE.serialize_cdr(example(type_name, number), type_name))
        received = START + number * MS
        made.append((topic_of(type_name), received, received - 3 * MS, data))
    return made


def example(type_name: str, number: int):
    """A message whose first field that is text or a number says which one it is."""
    fields = STORE.get_msgdef(type_name).fields
    values = [_value(node, number) for _, node in fields]
    return STORE.types[type_name](*values)


def _value(node, number: int):
    kind, of = int(node[0]), node[1]
    if kind == 1:  # a number, text or truth
        name = of[0]
        return (
            f'text {number}'
            if name == 'string'
            else bool(number % 2)
            if name == 'bool'
            else number % 100
        )
    if kind == 2:  # another message
        return example(of, number)
    inner, size = of
    length = size if kind == 3 and size else number % 4
    if int(inner[0]) == 1 and inner[1][0] != 'string':
        kinds = {'bool': bool, 'byte': np.uint8, 'char': np.uint8}
        dtype = kinds.get(inner[1][0]) or np.dtype(inner[1][0])
        return np.full(length, number % 100, dtype)
    return [_value(inner, number + n) for n in range(length)]


def write(to: BagRecorder, sent: list[Sent], commit_every: int = 25) -> None:
    for number, (topic, received, published, data) in enumerate(sent):
        assert to.write(topic, received, published, data) == received
        if number % commit_every == 0:
            to.flush()


# How a recording came to be: each leaves a folder and returns what must be in it.


def plain(folder: Path) -> list[Sent]:
    sent = messages(500)
    one = recorder(folder)
    write(one, sent)
    one.close()
    return sent


def split_by_size(folder: Path) -> list[Sent]:
    sent = messages(1500)
    one = recorder(folder, split_bytes=15_000, chunk_bytes=2000)
    write(one, sent)
    one.close()
    return sent


def split_by_time_and_two_sessions(folder: Path) -> list[Sent]:
    for first in (0, 700):
        one = recorder(folder, split_s=0.2)
        write(one, messages(600, first))
        one.close()
    return messages(600) + messages(600, 700)


def killed(folder: Path) -> list[Sent]:
    """Three sessions; the second is killed between two commits, when it has closed two files."""
    first = messages(300)
    one = recorder(folder, split_bytes=15_000)
    write(one, first)
    one.close()
    second = messages(600, 300)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            two = recorder(folder, split_bytes=15_000)
            write(two, second)
            two.commit()
            for message in messages(20, 900):
                two.write(*message)
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert list(folder.glob('*.active'))
    third = messages(100, 1000)
    three = recorder(folder)
    assert three.recovery is not None and not three.recovery.damage
    write(three, third)
    three.close()
    return first + second + third


def torn(folder: Path) -> list[Sent]:
    """As a power cut leaves it: the open file ends in the middle of a chunk."""
    sent = messages(400)
    one = recorder(folder)
    write(one, sent, commit_every=50)
    one.commit()
    one._file.abandon()
    one._lock.release()
    (path,) = folder.glob('*.active')
    path.write_bytes(path.read_bytes()[:-3000])
    two = recorder(folder)
    kept = two.recovery.kept
    assert 300 < kept < 400
    two.close()
    return sent[:kept]


def on_a_disk_that_was_full(folder: Path) -> list[Sent]:
    first, second = messages(3000), messages(200, 4000)
    one = recorder(folder)
    with files_of_at_most(40_000), pytest.raises(BagError, match='File too large'):
        write(one, first)
    kept = one.committed
    one.resume()
    write(one, second)
    one.close()
    return first[:kept] + second


MADE = (
    plain,
    split_by_size,
    split_by_time_and_two_sessions,
    killed,
    torn,
    on_a_disk_that_was_full,
)


@pytest.fixture(params=MADE, ids=lambda how: how.__name__, scope='module')
def bag(request, tmp_path_factory):
    """Return (folder, what is in it, types that it names)."""
    folder = tmp_path_factory.mktemp(request.param.__name__) / 'bag'
    sent = request.param(folder)
    assert sent
    # What was torn off had no word yet of a topic of which nothing was heard.
    return folder, sent, {*TYPES} if request.param is torn else {*TYPES, NEVER_HEARD}


def files(folder: Path) -> list[Path]:
    listed = document(folder)['relative_file_paths']
    assert sorted(listed) == sorted(path.name for path in folder.glob('*.mcap*'))
    return [folder / name for name in listed]


def document(folder: Path) -> dict:
    return yaml.safe_load((folder / 'metadata.yaml').read_text())['rosbag2_bagfile_information']


def test_all_readers_find_what_was_recorded_with_both_times(bag):
    folder, sent, _ = bag
    assert [tuple(message) for message in BagReader(folder)] == sent
    by_index, by_stream, without_index = [], [], []
    for path in files(folder):
        with path.open('rb') as stream:
            for _, channel, m in make_reader(stream, validate_crcs=True).iter_messages():
                by_index.append((channel.topic, m.log_time, m.publish_time, m.data))
        with path.open('rb') as stream:
            for _, channel, m in NonSeekingReader(stream, validate_crcs=True).iter_messages():
                without_index.append((channel.topic, m.log_time, m.publish_time, m.data))
        with path.open('rb') as stream:
            topics = {}
            for record in StreamReader(stream, validate_crcs=True).records:
                if isinstance(record, Channel):
                    topics[record.id] = record.topic
                elif isinstance(record, Message):
                    row = (topics[record.channel_id], record.log_time, record.publish_time)
                    by_stream.append((*row, record.data))
    assert by_index == sent
    assert by_stream == sent
    assert without_index == sent
    with AnyReader([folder]) as reader:
        found = [(link.topic, stamp, bytes(data)) for link, stamp, data in reader.messages()]
    assert found == [(topic, received, data) for topic, received, _, data in sent]


def test_metadata_counts_and_times_are_exact_for_the_bag_and_each_file(bag):
    folder, sent, types = bag
    info = document(folder)
    counts = Counter(topic for topic, *_ in sent)
    assert info['message_count'] == len(sent)
    rows = {row['topic_metadata']['name']: row for row in info['topics_with_message_count']}
    assert {name: row['message_count'] for name, row in rows.items()} == {
        topic_of(t): counts[topic_of(t)] for t in types
    }
    assert info['starting_time']['nanoseconds_since_epoch'] == sent[0][1]
    assert info['duration']['nanoseconds'] == sent[-1][1] - sent[0][1]
    at = 0
    for row in info['files']:
        inside = sent[at : at + row['message_count']]
        at += len(inside)
        assert row['starting_time']['nanoseconds_since_epoch'] == inside[0][1]
        assert row['duration']['nanoseconds'] == inside[-1][1] - inside[0][1]
        with (folder / row['path']).open('rb') as stream:
            summary = make_reader(stream).get_summary()
        statistics = summary.statistics
        assert statistics.message_count == len(inside)
        assert (statistics.message_start_time, statistics.message_end_time) == (
            inside[0][1],
            inside[-1][1],
        )
        named = {
            summary.channels[channel].topic: count
            for channel, count in statistics.channel_message_counts.items()
        }
        assert {name: n for name, n in named.items() if n} == Counter(m[0] for m in inside)
        assert statistics.channel_count == len(summary.channels)
        assert statistics.schema_count == len(summary.schemas)
    assert at == len(sent)
    with Reader(folder) as reader:
        assert reader.message_count == len(sent)
        assert reader.start_time == sent[0][1] and reader.end_time == sent[-1][1] + 1
        assert {name: topic.msgcount for name, topic in reader.topics.items()} == {
            topic_of(t): counts[topic_of(t)] for t in types
        }


def test_indexes_name_the_place_of_every_chunk_and_message(bag):
    folder, *_ = bag
    for path in files(folder):
        data = path.read_bytes()
        with path.open('rb') as stream:
            indexes = make_reader(stream).get_summary().chunk_indexes
        with path.open('rb') as stream:
            records = [*StreamReader(stream, emit_chunks=True, validate_crcs=True).records]
        chunks = [record for record in records if isinstance(record, Chunk)]
        written = [record for record in records if isinstance(record, ChunkIndex)]
        assert len(chunks) == len(indexes) == len(written) > 0
        for index, chunk in zip(indexes, chunks, strict=True):
            assert data[index.chunk_start_offset] == 0x06
            assert index.compression == chunk.compression == 'zstd'
            assert index.uncompressed_size == chunk.uncompressed_size
            assert index.message_start_time == chunk.message_start_time
            assert index.message_end_time == chunk.message_end_time
            end = index.chunk_start_offset + index.chunk_length
            assert min(index.message_index_offsets.values()) == end
            assert all(data[place] == 0x07 for place in index.message_index_offsets.values())
        entries = sum(len(r.records) for r in records if isinstance(r, MessageIndex))
        with path.open('rb') as stream:
            assert entries == make_reader(stream).get_summary().statistics.message_count


def ros_hash(type_name: str) -> str:
    """Return the hash that the type's generator wrote beside the type ROS has installed."""
    package, _, name = type_name.split('/')
    inside = Path(importlib.import_module(package).__file__)
    path = next(
        path
        for above in inside.parents
        if (path := above / 'share' / package / 'msg' / f'{name}.json').exists()
    )
    (found,) = (
        row['hash_string']
        for row in json.loads(path.read_text())['type_hashes']
        if row['type_name'] == type_name
    )
    return found


def test_every_schema_parses_and_hashes_to_what_ros_says(bag):
    folder, _, types = bag
    hashes = {t: ros_hash(t) for t in types}
    for row in document(folder)['topics_with_message_count']:
        about = row['topic_metadata']
        assert about['type_description_hash'] == hashes[about['type']]
        assert about['serialization_format'] == 'cdr'
    heard = set()
    for path in files(folder):
        schemas: dict[int, Schema] = {}
        with path.open('rb') as stream:
            for record in StreamReader(stream).records:
                if isinstance(record, Schema):
                    assert schemas.setdefault(record.id, record) == record
                elif isinstance(record, Channel):
                    schema = schemas[record.schema_id]
                    heard.add(schema.name)
                    assert record.message_encoding == 'cdr' and schema.encoding == 'ros2msg'
                    assert record.metadata['topic_type_hash'] == hashes[schema.name]
        for schema in schemas.values():
            store = get_typestore(Stores.EMPTY)
            store.register(get_types_from_msg(schema.data.decode(), schema.name))
            assert store.hash_rihs01(schema.name) == hashes[schema.name]
            assert store.get_msgdef(schema.name).fields == STORE.get_msgdef(schema.name).fields
    assert heard == types


def test_ros_deserialises_every_message_as_its_sender_meant_it(bag):
    folder, sent, _ = bag
    types = {topic_of(t): t for t in TYPES}
    with AnyReader([folder]) as reader:
        for (link, _, data), (topic, *_, cdr) in zip(reader.messages(), sent, strict=True):
            ours = deserialize_message(bytes(data), message_class(types[topic]))
            theirs = reader.deserialize(data, link.msgtype)
            assert same(ours, theirs), topic
            assert bytes(data) == cdr


def same(ours, theirs) -> bool:
    """Whether a message of rclpy and one of rosbags say the same."""
    if hasattr(ours, 'get_fields_and_field_types'):
        return all(
            same(getattr(ours, name), getattr(theirs, name))
            for name in ours.get_fields_and_field_types()
        )
    if isinstance(ours, str | bool | int | float):
        return ours == theirs
    return len(ours) == len(theirs) and all(same(a, b) for a, b in zip(ours, theirs, strict=True))


def test_offered_profiles_are_written_as_rosbag2_writes_them(bag):
    folder, *_ = bag
    real = yaml.safe_load(
        (Path(__file__).parent / 'data/rosbag2/mcap_default/metadata.yaml').read_text()
    )
    real = real['rosbag2_bagfile_information']
    info = document(folder)
    assert list(info) == list(real)
    assert list(info['files'][0]) == list(real['files'][0])
    about = real['topics_with_message_count'][0]['topic_metadata']
    by_topic = {}
    for row in info['topics_with_message_count']:
        assert list(row['topic_metadata']) == list(about)
        for profile in row['topic_metadata']['offered_qos_profiles']:
            assert list(profile) == list(about['offered_qos_profiles'][0])
        by_topic[row['topic_metadata']['name']] = row['topic_metadata']['offered_qos_profiles']
    for path in files(folder)[-1:]:
        with path.open('rb') as stream:
            for channel in make_reader(stream).get_summary().channels.values():
                text = channel.metadata['offered_qos_profiles']
                assert yaml.safe_load(text) == by_topic[channel.topic]
                for qos in parse_qos(text):
                    assert qos.reliability in (QosReliability.RELIABLE, QosReliability.BEST_EFFORT)
                    assert qos.liveliness == QosLiveliness.AUTOMATIC
                    assert qos.deadline == qos.lifespan == (9223372036, 854775807)
    default = topic_of('std_msgs/msg/Bool')
    assert by_topic[default] == about['offered_qos_profiles']
    string, imu = (parse_qos(by_topic[topic_of(t)]) for t in OFFERED)
    assert [(q.durability, q.depth) for q in string] == [(QosDurability.TRANSIENT_LOCAL, 3)]
    assert [(q.reliability, q.history) for q in imu] == [
        (QosReliability.BEST_EFFORT, QosHistory.KEEP_LAST),
        (QosReliability.RELIABLE, QosHistory.KEEP_LAST),
    ]


def test_each_file_says_the_contract_it_was_recorded_under(bag):
    folder, *_ = bag
    assert document(folder)['custom_data']['qcfql.contract_hash'] == 'h' * 64
    for path in files(folder):
        with path.open('rb') as stream:
            reader = make_reader(stream)
            assert reader.get_header().profile == 'ros2'
            texts = [record.metadata for record in reader.iter_metadata()]
        assert texts and all(text['qcfql.contract_hash'] == 'h' * 64 for text in texts)
