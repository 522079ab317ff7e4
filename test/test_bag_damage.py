# SPDX-License-Identifier: Apache-2.0
"""Damaged recordings: what comes out is true and in order, what does not is counted and said."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType, Writer

from qcfql_ros.data.bag_file import Message
from qcfql_ros.data.damage import Damage, Skip
from qcfql_ros.data.reader import BagReader, bag_info, read_bag
from qcfql_ros.data.recovery import recover_bag
from qcfql_ros.errors import BagError

BAGS = Path(__file__).parent / 'data' / 'rosbag2'
KINDS = [
    ('zstd', CompressionType.ZSTD, True),
    ('lz4', CompressionType.LZ4, True),
    ('none', CompressionType.NONE, True),
    ('zstd unindexed', CompressionType.ZSTD, False),
]


def make(path: Path, kind: CompressionType, index: bool, finish: bool = True) -> list[Message]:
    """Write an MCAP file of about 20 chunks with checksums; return what is in it."""
    draw, sent = random.Random(5), []
    with path.open('wb') as stream:
        writer = Writer(
            stream,
            chunk_size=3000,
            compression=kind,
            index_types=IndexType.ALL if index else IndexType.NONE,
            repeat_channels=index,
            use_statistics=index,
        )
        writer.start(profile='ros2', library='test')
        schema = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'string data')
        channels = {name: writer.register_channel(name, 'cdr', schema) for name in ('/a', '/b')}
        for number in range(600):
            topic, stamp = ('/a', '/b')[number % 3 == 0], 10**9 + number * 10**7
            data = b'\0\1\0\0' + draw.randbytes(60) + bytes(number % 30)
            writer.add_message(channels[topic], stamp, data, stamp - 5, number)
            sent.append(Message(topic, stamp, stamp - 5, data))
        writer.flush()
        if finish:
            writer.finish()
        stream.flush()
    return sent


def is_part_of(some: list[Message], every: list[Message]) -> bool:
    """Say whether `some` are among `every`, in the same order, none twice."""
    rest = iter(every)
    return all(any(message == one for one in rest) for message in some)


def read(path: Path) -> tuple[list[Message], Damage]:
    """Read; a BagError is as good as no message, and as an error no silent loss."""
    reader = BagReader(path)
    try:
        return list(reader), reader.damage
    except BagError as error:
        damage = Damage()
        damage.skip(Skip(path.name, 0, path.stat().st_size, str(error)))
        return [], damage


def hurt(data: bytes, draw: random.Random) -> bytes:
    """Return the bytes with one of the damages that disks and crashes do."""
    changed, at = bytearray(data), draw.randrange(len(data))
    size = draw.choice([1, 8, 300, 5000])
    way = draw.choice(['cut', 'zero page', 'zero tail', 'noise', 'flip', 'missing'])
    if way == 'cut':
        return data[:at]
    if way == 'zero page':
        start = at // 512 * 512
        stop = min(len(data), start + 512)
        changed[start:stop] = bytes(stop - start)
    elif way == 'zero tail':
        start = at // 512 * 512
        changed[start:] = bytes(len(data) - start)
    elif way == 'noise':
        stop = min(len(data), at + size)
        changed[at:stop] = draw.randbytes(stop - at)
    elif way == 'flip':
        changed[at] ^= 1 << draw.randrange(8)
    else:
        del changed[at : at + size]
    return bytes(changed)


@pytest.mark.parametrize(('kind', 'index'), [k[1:] for k in KINDS], ids=[k[0] for k in KINDS])
def test_of_a_damaged_mcap_file_only_true_messages_come_out_and_no_loss_is_silent(
    tmp_path, kind, index
):
    path = tmp_path / 'bag_0.mcap'
    sent = make(path, kind, index)
    whole, draw = path.read_bytes(), random.Random(f'{kind}{index}')
    kept = 0
    for _ in range(120):
        path.write_bytes(hurt(whole, draw))
        got, damage = read(path)
        assert is_part_of(got, sent), 'something came out that was never recorded'
        if len(got) < len(sent):
            assert damage, f'{len(sent) - len(got)} messages are gone and nobody says so'
            assert damage.size or damage.messages
            lost = len(sent) - len(got)
            assert damage.uncounted or damage.messages == lost, str(damage)
            assert '\n' not in str(damage)
        kept += len(got)
    assert kept > 60 * len(sent), 'most damages are small'


@pytest.mark.parametrize('name', ['mcap_default_0', 'mcap_killed_0', 'sqlite3_0'])
def test_of_a_damaged_file_without_checksums_nothing_comes_out_twice_or_from_nowhere(
    tmp_path, name
):
    """A changed number inside a message goes unseen there: topics and stamps do not."""
    source = next(BAGS.glob(f'*/{name}.*'))
    true = Counter((m.topic, m.receive_ns) for m in BagReader(source))
    whole, draw = source.read_bytes(), random.Random(name)
    path = tmp_path / source.name
    strange = kept = 0
    for _ in range(40):
        path.write_bytes(hurt(whole, draw))
        got, damage = read(path)
        found = Counter((m.topic, m.receive_ns) for m in got)
        extra = (found - true).total()
        assert extra <= 40, 'as many as fit into the damage'
        strange += extra
        kept += len(got)
        assert damage or len(got) >= true.total() - 40
    assert strange < 100
    assert kept > 15 * true.total()


def test_a_chunk_with_a_bad_checksum_is_left_out_and_the_next_one_read(tmp_path):
    path = tmp_path / 'bag_0.mcap'
    sent = make(path, CompressionType.NONE, True)
    whole = bytearray(path.read_bytes())
    at = whole.index(sent[200].data)
    whole[at + 10] ^= 0xFF
    path.write_bytes(whole)
    got, damage = read(path)
    stamps = {m.receive_ns for m in got}
    gone = [m.receive_ns for m in sent if m.receive_ns not in stamps]
    assert sent[200].receive_ns in gone
    assert len(gone) == damage.messages < 60
    assert not damage.uncounted
    assert damage.seconds == pytest.approx((gone[-1] - gone[0]) / 1e9 + 0.02)
    assert damage.size == damage.skips[0].size > 1000
    assert 'checksum' in str(damage)
    some, filtered = list(BagReader(path, ['/b'])), BagReader(path, ['/b'])
    assert some == [m for m in got if m.topic == '/b']
    list(filtered)
    assert filtered.damage.messages == sum(sent[i].topic == '/b' for i in range(600)) - len(some)


def test_without_checksums_the_index_leads_over_a_broken_record(tmp_path):
    """As rosbag2 writes it: chunks that are neither compressed nor checked, with an index."""
    folder = tmp_path / 'bag'
    shutil.copytree(BAGS / 'mcap_default', folder)
    path = folder / 'mcap_default_0.mcap'
    every = [*BagReader(folder)]
    data = bytearray(path.read_bytes())
    at = data.index(every[1000].data) - 31
    data[at : at + 500] = bytes(500)
    path.write_bytes(data)
    reader = BagReader(folder)
    got = list(reader)
    assert len(every) - 6 <= len(got) < len(every)
    assert is_part_of(got, every)
    assert reader.damage.messages == len(every) - len(got)


@pytest.mark.parametrize('chunks', [True, False])
@pytest.mark.parametrize('checked', [True, False])
def test_stamps_that_no_clock_can_show_are_left_out(chunks, checked, tmp_path):
    path, sent = tmp_path / 'bag_0.mcap', []
    with path.open('wb') as stream:
        writer = Writer(stream, 500, use_chunking=chunks, enable_crcs=checked)
        writer.start(profile='ros2', library='test')
        schema = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'string data')
        channel = writer.register_channel('/a', 'cdr', schema)
        for number in range(1, 100):
            stamp = number | (number in (40, 41, 90)) << 63
            sent.append(Message('/a', stamp, 0, bytes([0, 1, 0, 0, number]) * 10))
            writer.add_message(channel, stamp, sent[-1].data, 0)
        writer.finish()
    got, damage = read(path)
    assert got == [message for message in sent if message.receive_ns < 2**63]
    assert damage.messages == 3 and damage.seconds < 1.0
    assert all('beyond the year 2262' in skip.why for skip in damage.skips)


def test_zeros_that_were_recorded_are_no_hole(tmp_path):
    path, sent = tmp_path / 'bag_0.mcap', []
    with path.open('wb') as stream:
        writer = Writer(stream, compression=CompressionType.NONE)
        writer.start(profile='ros2', library='test')
        schema = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'string data')
        channel = writer.register_channel('/a', 'cdr', schema)
        for number in range(1, 10):
            sent.append(Message('/a', number, 0, bytes([0, 1, 0, 0, number]) * 10 + bytes(2000)))
            writer.add_message(channel, number, sent[-1].data, 0)
        writer.finish()
    assert read(path)[0] == sent
    data = bytearray(path.read_bytes())
    data[data.index(sent[3].data) + 20] ^= 1
    path.write_bytes(data)
    got, damage = read(path)
    assert not got
    assert damage.messages == 9


@pytest.mark.parametrize('kind', list(CompressionType))
def test_a_broken_length_is_passed_over_by_the_summary(tmp_path, kind):
    path = tmp_path / 'bag_0.mcap'
    sent = make(path, kind, True)
    with path.open('rb') as stream:
        chunks = make_reader(stream).get_summary().chunk_indexes
    data = bytearray(path.read_bytes())
    at = chunks[4].chunk_start_offset
    data[at + 2] ^= 0x5A
    path.write_bytes(data)
    got, damage = read(path)
    first, last = chunks[4].message_start_time, chunks[4].message_end_time
    assert got == [m for m in sent if not first <= m.receive_ns <= last]
    assert damage.messages == len(sent) - len(got)
    assert len(damage.skips) == 1


def test_a_closed_file_whose_beginning_is_gone_is_read_by_its_end(tmp_path):
    path = tmp_path / 'bag_0.mcap'
    sent = make(path, CompressionType.ZSTD, True)
    data = path.read_bytes()
    path.write_bytes(bytes(4096) + data[4096:])
    got, damage = read(path)
    assert 500 < len(got) == 600 - damage.messages
    assert is_part_of(got, sent)


@pytest.mark.parametrize('kind', list(CompressionType))
def test_every_cut_of_a_file_gives_a_prefix(tmp_path, kind):
    path = tmp_path / 'bag_0.mcap'
    sent = make(path, kind, True, finish=False)
    whole, draw, before = path.read_bytes(), random.Random(3), 0
    for size in sorted(draw.randrange(len(whole)) for _ in range(60)):
        path.write_bytes(whole[:size])
        got, _ = read(path)
        assert got == sent[: len(got)]
        assert len(got) >= before, 'more bytes, no fewer messages'
        before = len(got)
    path.write_bytes(whole)
    assert read(path) == (sent, Damage(_missing={}))


def test_zeroed_pages_in_an_open_file_are_recovered_around(tmp_path):
    folder = tmp_path / 'bag'
    folder.mkdir()
    path = folder / 'bag_0.mcap.active'
    sent = make(path, CompressionType.ZSTD, True, finish=False)
    data = bytearray(path.read_bytes())
    torn = bytes(data)
    data[20 * 512 : 22 * 512] = bytes(1024)
    data[-700:] = bytes(700)
    path.write_bytes(data)
    recovery = recover_bag(folder)
    got = list(BagReader(folder))
    assert is_part_of(got, sent)
    assert 480 < len(got) == recovery.kept < 600
    assert recovery.damage
    assert recovery.files == ('bag_0.mcap',)
    assert 'left out' in str(recovery)
    assert not path.exists()
    assert (folder / 'bag_0.mcap.damaged').read_bytes() == bytes(data) != torn
    assert recover_bag(folder) is None
    assert bag_info(folder).messages == len(got)


def test_a_file_that_is_no_longer_mcap_does_not_stop_the_next_recording(tmp_path):
    folder = tmp_path / 'bag'
    folder.mkdir()
    make(folder / 'bag_0.mcap', CompressionType.ZSTD, True)
    (folder / 'bag_1.mcap.active').write_bytes(bytes(4096) + b'rest')
    recovery = recover_bag(folder)
    assert 'not an MCAP file' in str(recovery)
    assert (folder / 'bag_1.mcap.damaged').stat().st_size == 4100
    assert bag_info(folder).messages == 600
    assert recover_bag(folder) is None


def test_a_closed_file_under_its_open_name_is_renamed_and_listed(tmp_path):
    folder = tmp_path / 'bag'
    folder.mkdir()
    sent = make(folder / 'bag_3.mcap.active', CompressionType.ZSTD, True)
    before = (folder / 'bag_3.mcap.active').read_bytes()
    recovery = recover_bag(folder)
    assert (recovery.files, bool(recovery.damage)) == ((), False)
    assert (folder / 'bag_3.mcap').read_bytes() == before
    assert list(BagReader(folder)) == sent
    (folder / 'bag_3.mcap').unlink()
    assert recover_bag(folder).missing == ('bag_3.mcap',)


def test_a_cut_database_gives_a_prefix_and_counts_the_rest(tmp_path):
    folder = tmp_path / 'bag'
    shutil.copytree(BAGS / 'sqlite3', folder)
    path = folder / 'sqlite3_0.db3'
    every = list(read_bag(folder))
    path.write_bytes(path.read_bytes()[: 250 * 4096 + 100])
    reader = BagReader(folder)
    got = [(m.topic, m.receive_ns, m.data) for m in reader]
    assert set(got) <= set(every)
    assert got == sorted(got, key=lambda m: m[1])
    assert 2500 < len(got) < 5000
    assert reader.damage.messages == len(every) - len(got)
    assert reader.damage.size > 0


def test_a_lost_page_of_a_database_costs_its_own_messages(tmp_path):
    folder = tmp_path / 'bag'
    shutil.copytree(BAGS / 'sqlite3', folder)
    path = folder / 'sqlite3_0.db3'
    every = list(read_bag(folder))
    data = bytearray(path.read_bytes())
    leaf = next(at for at in range(200 * 4096, len(data), 4096) if data[at] == 13)
    data[leaf : leaf + 4096] = b'\xff' * 4096
    path.write_bytes(data)
    reader = BagReader(folder)
    got = [(m.topic, m.receive_ns, m.data) for m in reader]
    lost = len(every) - len(got)
    assert 1 <= lost < 40
    assert is_part_of(got, every)
    assert reader.damage.messages == lost
    (folder / 'metadata.yaml').unlink()
    unlisted = BagReader(folder)
    assert len(list(unlisted)) == len(got)
    assert unlisted.damage.messages == lost, 'ids count up: a hole in them is what is lost'


def test_rows_that_are_no_messages_are_left_out(tmp_path):
    path = tmp_path / 'a.db3'
    shutil.copy(BAGS / 'sqlite3' / 'sqlite3_0.db3', path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE messages SET data = 'text' WHERE id = 100")
    connection.execute('UPDATE messages SET topic_id = 77 WHERE id = 200')
    connection.commit()
    connection.close()
    reader = BagReader(path)
    assert len(list(reader)) == 6375
    assert reader.damage.messages == 2


def test_metadata_that_counts_more_than_there_is_is_said(tmp_path):
    folder = tmp_path / 'bag'
    shutil.copytree(BAGS / 'sqlite3', folder)
    connection = sqlite3.connect(folder / 'sqlite3_0.db3')
    connection.execute('DELETE FROM messages WHERE id > 6370')
    connection.commit()
    connection.close()
    assert bag_info(folder).damage.messages == 7
    assert 'metadata.yaml counts more' in str(bag_info(folder).damage)


def test_a_damaged_message_that_was_compressed_alone_is_left_out(tmp_path):
    path = tmp_path / 'a.db3'
    shutil.copy(BAGS / 'sqlite3_zstd_message' / 'sqlite3_zstd_message_0.db3', path)
    every = list(read_bag(path))
    bad = zstandard.ZstdCompressor().compress(b'x' * 300)[:-4]
    connection = sqlite3.connect(path)
    connection.execute('UPDATE messages SET data = ? WHERE id = 500', (bad,))
    connection.commit()
    connection.close()
    reader = BagReader(path)
    got = [(m.topic, m.receive_ns, m.data) for m in reader]
    assert len(got) == len(every) - 1
    assert is_part_of(got, every)
    assert reader.damage.messages == 1


def test_damage_in_words():
    damage = Damage()
    assert not damage
    assert str(damage) == 'nothing was left out'
    damage.skip(Skip('a_0.mcap', 100, 50, 'checksum mismatch', 7, 10**9, 3 * 10**9))
    damage.skip(Skip('a_0.mcap', 150, 50, 'does not decompress', 3, 10**9, 4 * 10**9))
    damage.skip(Skip('a_0.mcap', 300, 50, 'cut off', None, 10**9, 0, at_end=True))
    damage.skip(Skip('a_1.mcap', 10, 5, 'no record', 1, 10**9, 10**9 + 1))
    assert len(damage.skips) == 3, 'stretches that touch are one'
    assert (damage.size, damage.messages, damage.uncounted) == (155, 11, 1)
    assert (damage.seconds, damage.untimed) == (pytest.approx(3.0, abs=1e-6), 1)
    assert str(damage).startswith('left out 3 stretches: 11 messages and an unknown number in 1')
    damage.settle(Path('a_0.mcap'), {'/a': 20}, {'/a': 8}, 'metadata.yaml')
    assert (damage.messages, damage.uncounted) == (13, 0)
