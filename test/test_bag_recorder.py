# SPDX-License-Identifier: Apache-2.0
"""The recorder and the reader: what was accepted is what any reader finds."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from qcfql_ros.data.bag_metadata import read_metadata
from qcfql_ros.data.reader import bag_info, read_bag
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.recovery import recover_bag
from qcfql_ros.errors import BagError, BufferBusyError

TOPICS = {'/r/joints': 'sensor_msgs/msg/JointState', '/r/text': 'std_msgs/msg/String'}
STORE = get_typestore(Stores.ROS2_JAZZY)
SECOND = 1_000_000_000


def text(value: str) -> bytes:
    message = STORE.types['std_msgs/msg/String'](value)
    return bytes(STORE.serialize_cdr(message, 'std_msgs/msg/String'))


def open_recorder(folder: Path, **options) -> BagRecorder:
    options = {'contract_name': 'c', 'contract_hash': 'h' * 64, 'namespace': 'r'} | options
    return BagRecorder(folder, TOPICS, **options)


def write(recorder: BagRecorder, first: int, count: int) -> list[tuple[str, int, bytes]]:
    sent = []
    for number in range(first, first + count):
        stamp = recorder.write('/r/text', number * 1000, number, text(f'message {number}'))
        sent.append(('/r/text', stamp, text(f'message {number}')))
    return sent


def rosbags_messages(folder: Path) -> list[tuple[str, int, bytes]]:
    with AnyReader([folder]) as reader:
        return [(link.topic, stamp, bytes(raw)) for link, stamp, raw in reader.messages()]


def test_rosbags_reads_every_message_back_with_definitions_and_counts(tmp_path):
    folder = tmp_path / 'bag'
    recorder = open_recorder(folder)
    sent = write(recorder, 1, 500)
    recorder.close()
    assert list(read_bag(folder)) == sent
    assert rosbags_messages(folder) == sent
    with AnyReader([folder]) as reader:
        assert reader.message_count == 500
        assert reader.topics['/r/text'].msgcount == 500
        assert reader.topics['/r/joints'].msgtype == 'sensor_msgs/msg/JointState'
        link = next(item for item in reader.connections if item.topic == '/r/text')
        assert link.digest == STORE.hash_rihs01('std_msgs/msg/String')
        assert 'string data' in link.msgdef.data
        assert reader.deserialize(sent[0][2], link.msgtype).data == 'message 1'


def test_custom_data_names_contract_hash_and_namespace(tmp_path):
    recorder = open_recorder(tmp_path / 'bag')
    write(recorder, 1, 1)
    recorder.close()
    info = bag_info(tmp_path / 'bag')
    assert (info.contract, info.contract_hash, info.namespace) == ('c', 'h' * 64, 'r')
    assert info.counts == {'/r/text': 1}


def test_a_full_file_is_closed_and_the_next_begun(tmp_path):
    folder = tmp_path / 'bag'
    recorder = open_recorder(folder, split_bytes=20_000)
    sent = []
    for part in range(6):
        for number in range(20):
            stamp = (part * 20 + number + 1) * 1000
            data = text(os.urandom(300).hex())
            sent.append(('/r/text', recorder.write('/r/text', stamp, 0, data), data))
        recorder.flush()
    recorder.close()
    assert len(list(folder.glob('*.mcap'))) > 1
    assert list(read_bag(folder)) == sent == rosbags_messages(folder)


def test_a_second_session_adds_a_file_and_leaves_the_first_untouched(tmp_path):
    folder = tmp_path / 'bag'
    first = open_recorder(folder)
    sent = write(first, 1, 10)
    first.close()
    before = (folder / 'bag_0.mcap').read_bytes()
    second = open_recorder(folder)
    assert second.recovery is None
    sent += write(second, 100, 10)
    second.close()
    assert (folder / 'bag_0.mcap').read_bytes() == before
    assert list(read_bag(folder)) == sent == rosbags_messages(folder)


def test_receive_stamps_rise_strictly_within_a_file(tmp_path):
    recorder = open_recorder(tmp_path / 'bag')
    stamps = [recorder.write('/r/text', 5 * SECOND, 0, text('x')) for _ in range(3)]
    assert stamps == [5 * SECOND, 5 * SECOND + 1, 5 * SECOND + 2]
    assert recorder.write('/r/text', 1 * SECOND, 0, text('clock set back')) == SECOND
    recorder.close()
    order = [stamp for _, stamp, _ in read_bag(tmp_path / 'bag')]
    assert order == [5 * SECOND, 5 * SECOND + 1, 5 * SECOND + 2, SECOND]


def test_a_second_writer_is_refused_with_the_holder_and_the_folder(tmp_path):
    recorder = open_recorder(tmp_path / 'bag')
    with pytest.raises(BufferBusyError, match=f'{tmp_path}.*process {os.getpid()}'):
        open_recorder(tmp_path / 'bag')
    recorder.close()
    open_recorder(tmp_path / 'bag').close()


def test_a_bag_of_another_contract_is_refused(tmp_path):
    recorder = open_recorder(tmp_path / 'bag')
    write(recorder, 1, 1)
    recorder.close()
    with pytest.raises(BagError, match='another folder'):
        open_recorder(tmp_path / 'bag', contract_hash='g' * 64)


def test_an_unknown_type_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BagError, match='my_msgs/msg/Thing'):
        BagRecorder(
            tmp_path / 'bag',
            {'/x': 'my_msgs/msg/Thing'},
            contract_name='c',
            contract_hash='h',
        )
    assert not (tmp_path / 'bag').exists()


def test_nothing_is_lost_of_what_was_flushed_before_a_kill(tmp_path):
    folder = tmp_path / 'bag'
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_bag_recorder import *
recorder = open_recorder(Path({str(folder)!r}))
write(recorder, 1, 300)
recorder.flush()
write(recorder, 301, 50)
print('ready', flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b'ready\n'
        child.send_signal(signal.SIGKILL)
    assert len(list(read_bag(folder, include_open=True))) == 300, (
        'readable even before it is recovered'
    )
    recorder = open_recorder(folder)
    assert recorder.recovery.kept == 300
    sent = write(recorder, 1000, 5)
    recorder.close()
    assert [message[1] for message in read_bag(folder)][-5:] == [item[1] for item in sent]
    assert len(rosbags_messages(folder)) == 305
    assert bag_info(folder).contract_hash == 'h' * 64
    assert recover_bag(folder) is None


@pytest.mark.parametrize('cut', [1, 30, 200, 3000])
def test_a_file_torn_anywhere_gives_a_prefix_and_recovers(tmp_path, cut):
    folder = tmp_path / 'bag'
    recorder = open_recorder(folder)
    sent = []
    for number in range(5):
        sent += write(recorder, 1 + number * 100, 100)
        recorder.flush()
    recorder.close()
    path = folder / 'bag_0.mcap'
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    recovery = recover_bag(folder)
    read = list(read_bag(folder))
    assert read == sent[: len(read)]
    assert len(read) >= 300
    assert recovery.kept == len(read)
    assert rosbags_messages(folder) == read
    assert sum(read_metadata(folder).totals.values()) == len(read)


def test_a_recorder_killed_before_its_first_message_leaves_nothing_behind(tmp_path):
    folder = tmp_path / 'bag'
    folder.mkdir()
    (folder / 'bag_0.mcap.active').write_bytes(b'\x89MC')
    recorder = open_recorder(folder)
    assert recorder.recovery.kept == 0
    sent = write(recorder, 1, 3)
    recorder.close()
    assert rosbags_messages(folder) == sent


def test_damage_in_the_middle_leaves_out_its_chunk_and_says_so(tmp_path):
    folder = tmp_path / 'bag'
    recorder = open_recorder(folder)
    for number in range(3):
        write(recorder, 1 + number * 100, 100)
        recorder.flush()
    recorder.close()
    path = folder / 'bag_0.mcap'
    data = bytearray(path.read_bytes())
    middle = data.index(b'zstd', len(data) // 4) + 40
    data[middle : middle + 8] = b'\xff' * 8
    path.write_bytes(data)
    info = bag_info(folder)
    assert 100 <= info.messages < 300
    assert info.messages + info.damage.messages == 300
    assert re.search(r'1 stretch: \d+ messages, .* bytes \(bag_0\.mcap at', str(info.damage))


def test_a_missing_bag_is_one_line(tmp_path):
    with pytest.raises(BagError, match='no recording at'):
        list(read_bag(tmp_path / 'nothing'))
    with pytest.raises(BagError, match=r'no \.mcap or \.db3 file'):
        list(read_bag(tmp_path))


def test_a_disk_that_refuses_stops_the_recording_with_one_line(tmp_path):
    import resource

    folder = tmp_path / 'bag'
    recorder = open_recorder(folder)
    write(recorder, 1, 100)
    recorder.flush()
    kept = len(list(read_bag(folder, include_open=True)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(BagError, match=r'recording to .* stopped'):
            for number in range(1000):
                data = text(os.urandom(2000).hex())
                recorder.write('/r/text', SECOND + number, 0, data)
                recorder.flush()
        with pytest.raises(BagError, match='stopped'):
            recorder.write('/r/text', 2 * SECOND, 0, text('more'))
    finally:
        signal.signal(signal.SIGXFSZ, handler)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        recorder.close()
    open_recorder(folder).close()
    assert len(list(read_bag(folder))) > kept
    assert len(rosbags_messages(folder)) == len(list(read_bag(folder)))


def test_many_messages_are_read_quickly(tmp_path):
    recorder = open_recorder(tmp_path / 'bag')
    data = text('x' * 200)
    for number in range(50_000):
        recorder.write('/r/text', number + 1, 0, data)
    recorder.close()
    start = time.perf_counter()
    assert sum(1 for _ in read_bag(tmp_path / 'bag')) == 50_000
    assert time.perf_counter() - start < 1.5  # 0.1 s on an idle core
