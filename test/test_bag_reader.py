# SPDX-License-Identifier: Apache-2.0
"""The reader on bags of the real rosbag2, against the reader of the rosbags library."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
import yaml
import zstandard
from mcap.writer import CompressionType, Writer
from rosbags.highlevel import AnyReader

from qcfql_ros.data import mcap_file
from qcfql_ros.data.bag_folder import find_bags, split_paths
from qcfql_ros.data.bag_types import definition_of, type_hash
from qcfql_ros.data.reader import BagReader, bag_info, read_bag
from qcfql_ros.errors import BagError

BAGS = Path(__file__).parent / 'data' / 'rosbag2'
WHOLE = ['mcap_default', 'mcap_zstd_split', 'sqlite3', 'sqlite3_zstd_message']
JOINTS, POSE = '/joint_states', '/tool_pose'
TYPES = {JOINTS: 'sensor_msgs/msg/JointState', POSE: 'geometry_msgs/msg/PoseStamped'}


def by_rosbags(path: Path) -> list[tuple[str, int, bytes]]:
    with AnyReader([path]) as reader:
        return [(link.topic, stamp, bytes(raw)) for link, stamp, raw in reader.messages()]


def change_metadata(folder: Path, **values) -> None:
    path = folder / 'metadata.yaml'
    document = yaml.safe_load(path.read_text())
    document['rosbag2_bagfile_information'] |= values
    path.write_text(yaml.safe_dump(document))


@pytest.mark.parametrize('name', WHOLE)
def test_every_message_of_a_rosbag2_recording_is_read_as_rosbags_reads_it(name):
    reader = BagReader(BAGS / name)
    messages = list(reader)
    assert [(m.topic, m.receive_ns, m.data) for m in messages] == by_rosbags(BAGS / name)
    assert not reader.damage
    assert [m.receive_ns for m in messages] == sorted(m.receive_ns for m in messages)
    document = yaml.safe_load((BAGS / name / 'metadata.yaml').read_text())
    listed = document['rosbag2_bagfile_information']['topics_with_message_count']
    counts = {row['topic_metadata']['name']: row['message_count'] for row in listed}
    assert Counter(m.topic for m in messages) == Counter(counts)
    assert bag_info(BAGS / name).messages == sum(counts.values())


def test_publish_stamps_come_with_mcap_and_precede_receipt():
    messages = list(BagReader(BAGS / 'mcap_default', [JOINTS]))
    assert all(0 < m.publish_ns <= m.receive_ns < m.publish_ns + 10**9 for m in messages)


def test_the_killed_recording_gives_what_is_in_the_file():
    killed = BagReader(BAGS / 'mcap_killed')
    messages = list(killed)
    with AnyReader([BAGS / 'mcap_default']) as reader:
        sent = Counter(
            (link.topic, bytes(raw))
            for link, _, raw in reader.messages()
            if not link.topic.startswith('/episode')
        )
    got = Counter((m.topic, m.data) for m in messages if not m.topic.startswith('/episode'))
    assert got <= sent, 'of another recording of the same messages'
    assert len(messages) == 3417
    assert messages == sorted(messages, key=lambda m: m.receive_ns)
    # The chunk is whole; what is cut off is the message index behind it.
    assert (killed.damage.size, killed.damage.messages, killed.damage.uncounted) == (24584, 0, 1)
    assert 'in the middle of a message index' in str(killed.damage)


@pytest.mark.parametrize('name', WHOLE)
def test_only_the_wanted_topics_come_out(name):
    every = list(read_bag(BAGS / name))
    some = list(read_bag(BAGS / name, [POSE, '/not/there']))
    assert some == [message for message in every if message[0] == POSE]
    assert list(read_bag(BAGS / name, TYPES)) == [m for m in every if m[0] in TYPES]
    assert not list(read_bag(BAGS / name, []))


def test_chunks_without_a_wanted_topic_are_not_opened(tmp_path, monkeypatch):
    path = tmp_path / 'a.mcap'
    with path.open('wb') as stream:
        writer = Writer(stream, chunk_size=500, compression=CompressionType.ZSTD)
        writer.start(profile='ros2', library='test')
        schema = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'string data')
        channels = [writer.register_channel(name, 'cdr', schema) for name in ('/a', '/b')]
        for number in range(200):
            writer.add_message(channels[number >= 190], 1000 + number, bytes(50), 1000 + number)
        writer.finish()
    opened = []

    def spy(body):
        opened.append(len(body))
        return real(body)

    real = mcap_file.open_chunk
    monkeypatch.setattr(mcap_file, 'open_chunk', spy)
    assert len(list(read_bag(path, ['/b']))) == 10
    few = len(opened)
    assert len(list(read_bag(path))) == 200
    assert few <= 3 < 10 < len(opened) - few


@pytest.mark.parametrize('name', [*WHOLE, 'mcap_killed'])
def test_types_and_definitions_come_from_the_bag(name):
    channels = BagReader(BAGS / name).channels()
    assert len(channels) == 7
    assert channels[JOINTS].type_name == TYPES[JOINTS]
    for channel in channels.values():
        assert channel.definition
        assert definition_of(channel) == channel.definition.decode()
        hashed = type_hash(channel)
        channel.metadata.pop('topic_type_hash')
        assert type_hash(channel) == hashed, 'the definition has the hash that the bag names'


@pytest.mark.parametrize('name', ['mcap_default', 'sqlite3'])
def test_another_type_is_an_error_before_the_first_message(name):
    wanted = TYPES | {POSE: 'geometry_msgs/msg/TwistStamped'}
    with pytest.raises(BagError) as caught:
        next(iter(BagReader(BAGS / name, wanted)))
    for part in (str(BAGS / name), POSE, 'geometry_msgs/msg/PoseStamped', 'TwistStamped'):
        assert part in str(caught.value)
    with pytest.raises(BagError, match='want geometry_msgs/msg/TwistStamped'):
        BagReader(BAGS / name, wanted).channels()


def test_a_type_with_other_fields_is_an_error(tmp_path):
    path = tmp_path / 'a.mcap'
    with path.open('wb') as stream:
        writer = Writer(stream)
        writer.start(profile='ros2', library='test')
        schema = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'int32 data\n')
        channel = writer.register_channel('/a', 'cdr', schema)
        writer.add_message(channel, 1, b'\0\1\0\0abcd', 1)
        writer.finish()
    assert len(list(BagReader(path))) == 1
    with pytest.raises(BagError, match=r'/a has a std_msgs/msg/String with other fields'):
        list(BagReader(path, {'/a': 'std_msgs/msg/String'}))


@pytest.mark.parametrize('name', WHOLE)
def test_a_bag_is_read_without_metadata_and_file_by_file(name, tmp_path):
    folder = tmp_path / 'bag'
    shutil.copytree(BAGS / name, folder)
    (folder / 'metadata.yaml').unlink()
    every = list(read_bag(BAGS / name))
    assert list(read_bag(folder)) == every
    assert [m for path in split_paths(folder) for m in read_bag(path)] == every


@pytest.mark.parametrize('name', ['mcap_zstd_split', 'sqlite3'])
@pytest.mark.parametrize('listed', [True, False])
def test_files_compressed_as_a_whole_are_read(name, listed, tmp_path):
    folder = tmp_path / 'bag'
    shutil.copytree(BAGS / name, folder)
    names = []
    for path in split_paths(folder):
        packed = path.with_name(f'{path.name}.zstd')
        packed.write_bytes(zstandard.ZstdCompressor().compress(path.read_bytes()))
        path.unlink()
        names.append(packed.name)
    if listed:
        change_metadata(folder, compression_mode='FILE', compression_format='zstd')
        change_metadata(folder, relative_file_paths=names)
    else:
        (folder / 'metadata.yaml').unlink()
    assert list(read_bag(folder)) == list(read_bag(BAGS / name))
    cut = folder / names[-1]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    reader = BagReader(folder)
    got = [(m.topic, m.receive_ns, m.data) for m in reader]
    assert got == list(read_bag(BAGS / name))[: len(got)]
    assert reader.damage


def test_messages_compressed_one_by_one_in_mcap_are_read(tmp_path):
    path, sent = tmp_path / 'a.mcap', []
    with path.open('wb') as stream:
        writer = Writer(stream)
        writer.start(profile='ros2', library='test')
        schema = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'string data')
        channel = writer.register_channel('/a', 'cdr', schema)
        for number in range(20):
            data = b'\0\1\0\0' + bytes([number]) * 40
            sent.append(('/a', number + 1, data))
            packed = zstandard.ZstdCompressor().compress(data)
            packed = packed[:-5] if number == 7 else packed
            writer.add_message(channel, number + 1, packed, number)
        writer.finish()
    reader = BagReader(path)
    assert [(m.topic, m.receive_ns, m.data) for m in reader] == sent[:7] + sent[8:]
    assert reader.damage.messages == 1


@pytest.mark.parametrize('chunked', [True, False])
@pytest.mark.parametrize('index', [True, False])
@pytest.mark.parametrize('kind', list(CompressionType))
def test_mcap_of_every_kind_is_read_in_the_order_of_receipt(tmp_path, kind, index, chunked):
    from mcap.writer import IndexType

    path, sent = tmp_path / 'a.mcap', []
    with path.open('wb') as stream:
        writer = Writer(
            stream,
            chunk_size=400,
            compression=kind,
            use_chunking=chunked,
            index_types=IndexType.ALL if index else IndexType.NONE,
            use_statistics=index,
        )
        writer.start(profile='ros2', library='test')
        schema = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'string data')
        for topic in ('/a', '/b'):  # a chunk for each topic, over the same time
            channel = writer.register_channel(topic, 'cdr', schema)
            for number in range(30):
                stamp = 10 * number + (topic == '/b')
                writer.add_message(channel, 1000 + stamp, bytes([number]) * 20, 0)
                sent.append((topic, 1000 + stamp, bytes([number]) * 20))
            writer.flush()
        writer.finish()
    sent.sort(key=lambda message: message[1])
    got = list(read_bag(path))
    assert sorted(got, key=lambda message: message[1]) == sent
    if chunked:
        assert got == sent


def test_sqlite_with_a_journal_beside_it_is_read_from_a_copy(tmp_path):
    folder = tmp_path / 'bag'
    shutil.copytree(BAGS / 'sqlite3', folder)
    (folder / 'metadata.yaml').unlink()
    path = folder / 'sqlite3_0.db3'
    connection = sqlite3.connect(path)
    connection.execute('PRAGMA journal_mode=wal')
    connection.execute('PRAGMA wal_autocheckpoint=0')
    connection.execute(
        'INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)', (2**61, b'\0\1\0\0')
    )
    connection.commit()
    crashed = tmp_path / 'crashed'
    shutil.copytree(folder, crashed)
    connection.close()
    before = {p.name: p.read_bytes() for p in crashed.iterdir()}
    assert (crashed / 'sqlite3_0.db3-wal').stat().st_size
    got = list(read_bag(crashed))
    assert len(got) == 6378
    assert got[-1][1] == 2**61
    assert {p.name: p.read_bytes() for p in crashed.iterdir()} == before


def test_what_is_no_recording_is_one_line(tmp_path):
    other = tmp_path / 'other.db3'
    connection = sqlite3.connect(other)
    connection.execute('CREATE TABLE a (b)')
    connection.commit()
    connection.close()
    with pytest.raises(BagError, match=r'not of rosbag2: it has the tables'):
        list(read_bag(other))
    (tmp_path / 'text.mcap').write_text('hello, hello')
    with pytest.raises(BagError, match='not an MCAP file'):
        list(read_bag(tmp_path / 'text.mcap'))
    with pytest.raises(BagError, match=r'x\.mcap'):
        list(read_bag(tmp_path / 'x.mcap'))


def test_the_file_being_written_is_read_only_when_asked_for(tmp_path):
    folder = tmp_path / 'bag'
    shutil.copytree(BAGS / 'mcap_zstd_split', folder)
    (folder / 'metadata.yaml').unlink()
    last = folder / 'mcap_zstd_split_3.mcap'
    last.rename(folder / f'{last.name}.active')
    every = list(read_bag(BAGS / 'mcap_zstd_split'))
    assert list(read_bag(folder)) == every[:-18]
    assert list(read_bag(folder, include_open=True)) == every
    for path in folder.glob('*.mcap'):
        path.unlink()
    with pytest.raises(BagError, match=r'nothing but mcap_zstd_split_3\.mcap\.active'):
        list(read_bag(folder))
    reader = BagReader(folder, include_open=True)
    (folder / f'{last.name}.active').rename(last)
    assert len(list(reader)) == 18, 'closed after it was listed'


def test_a_folder_of_bags_is_all_of_them_in_order():
    names = ['mcap_default', 'mcap_killed', 'mcap_zstd_split', 'sqlite3', 'sqlite3_zstd_message']
    assert find_bags(BAGS) == [BAGS / name for name in names]
    assert find_bags([BAGS / 'sqlite3', BAGS / 'mcap_killed']) == [
        BAGS / 'sqlite3',
        BAGS / 'mcap_killed',
    ]
