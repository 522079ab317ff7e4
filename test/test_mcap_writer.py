# SPDX-License-Identifier: Apache-2.0
"""What we write as MCAP is what others read, and a damaged chunk takes only itself with it."""

from __future__ import annotations

import io
import os
import random
import re
from itertools import pairwise

import pytest
from mcap.reader import make_reader
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from test_bag_recorder import SECOND, open_recorder, text

from qcfql_ros.data.mcap_writer import McapWriter
from qcfql_ros.data.open_split import OpenSplit
from qcfql_ros.data.reader import BagReader, read_bag
from qcfql_ros.data.recovery import recover_bag


def recorded(folder, chunks: int, each: int = 40) -> list[int]:
    """Leave a file open with `chunks` chunks; return where each of them begins."""
    recorder = open_recorder(folder)
    draw = random.Random(3)
    for chunk in range(chunks):
        for number in range(each):
            stamp = (chunk * each + number + 1) * SECOND // 100
            topic = '/r/text' if number % 2 else '/r/joints'
            recorder.write(topic, stamp, 0, text(draw.randbytes(30).hex()))
        recorder.commit()
    path = folder / 'bag_0.mcap.active'
    data = path.read_bytes()
    recorder._file.abandon()
    recorder._lock.release()
    return [match.start() for match in re.finditer(rb'\x04\0\0\0zstd', data)]


@pytest.mark.parametrize(('chunks', 'damaged'), [(2, 0), (2, 1), (20, 0), (20, 1), (20, 19)])
def test_any_one_chunk_may_be_lost_and_no_message_outside_of_it(tmp_path, chunks, damaged):
    folder = tmp_path / 'bag'
    places = recorded(folder, chunks)
    assert len(places) == chunks
    path = folder / 'bag_0.mcap.active'
    data = bytearray(path.read_bytes())
    data[places[damaged] + 40 : places[damaged] + 48] = b'\xff' * 8
    path.write_bytes(data)
    reader = BagReader(folder, include_open=True)
    stamps = [message.receive_ns * 100 // SECOND - 1 for message in reader]
    assert stamps == [n for n in range(chunks * 40) if n // 40 != damaged]
    assert reader.damage.messages == 40
    recovery = recover_bag(folder)
    assert recovery.kept == (chunks - 1) * 40 and recovery.damage.messages == 40
    assert [stamp * 100 // SECOND - 1 for _, stamp, _ in read_bag(folder)] == stamps


def test_topics_are_told_again_each_time_the_file_has_doubled(tmp_path):
    folder = tmp_path / 'bag'
    recorder = open_recorder(folder, chunk_bytes=8000)
    for number in range(4000):
        recorder.write('/r/text', number + 1, 0, text(random.Random(number).randbytes(60).hex()))
    recorder.close()
    told, seen, at = [], {}, 0
    with (folder / 'bag_0.mcap').open('rb') as stream:
        for record in StreamReader(stream, validate_crcs=True).records:
            if isinstance(record, Message):
                at += len(record.data)
            elif isinstance(record, Schema | Channel):
                kept = seen.setdefault((type(record), record.id), record)
                assert record == kept, 'what is told again is the same'
                told.append(at)
    copies = sorted(set(told))
    assert 6 <= len(copies) <= 12 and copies[0] == 0
    assert all(b >= 1.5 * a for a, b in pairwise(copies[2:-1]))


def test_what_was_not_written_is_forgotten_and_the_file_can_still_be_closed():
    writer, file = McapWriter(), io.BytesIO()
    file.write(writer.begin('ros2', 'test'))
    schema = writer.schema('a/msg/A', 'ros2msg', b'int32 a')
    channel = writer.channel('/a', schema, 'cdr', {'x': 'y'})
    writer.add(channel, 5, 4, b'one')
    file.write(writer.chunk() + writer.metadata('m', {'k': 'v'}))
    writer.mark()
    other = writer.channel('/b', writer.schema('b/msg/B', 'ros2msg', b'int32 b'), 'cdr', {})
    for number in range(10):
        writer.add(other, number, 0, b'lost')
        writer.add(channel, number, 0, b'lost')
        writer.chunk()
    writer.metadata('m', {'k': 'lost'})
    writer.back()
    file.write(writer.end())

    reader = make_reader(io.BytesIO(file.getvalue()), validate_crcs=True)
    summary = reader.get_summary()
    assert [c.topic for c in summary.channels.values()] == ['/a']
    assert summary.statistics.channel_message_counts == {channel: 1}
    assert (summary.statistics.message_start_time, summary.statistics.message_end_time) == (5, 5)
    assert [(m.log_time, m.publish_time, m.data) for _, _, m in reader.iter_messages()] == [
        (5, 4, b'one')
    ]
    assert [m.metadata for m in reader.iter_metadata()] == [{'k': 'v'}]


@pytest.mark.parametrize('refused', range(1, 5))
def test_a_file_that_could_not_be_closed_is_closed_at_the_next_try(tmp_path, monkeypatch, refused):
    folder = tmp_path / 'bag'
    recorder = open_recorder(folder)
    for number in range(100):
        recorder.write('/r/text', number + 1, 0, text(str(number)))
    recorder.commit()
    calls = [0]

    def may_fail(name, call):
        def wrapper(*arguments, **options):
            calls[0] += 1
            if calls[0] == refused:
                raise OSError(28, f'no space left for {name}')
            return call(*arguments, **options)

        return wrapper

    for name in ('write', 'fsync', 'rename'):
        monkeypatch.setattr(os, name, may_fail(name, getattr(os, name)))
    split: OpenSplit = recorder._file
    with pytest.raises(OSError, match='no space left'):
        split.close(recorder.topics.values())
    monkeypatch.undo()
    recorder.close()
    assert calls[0] == refused
    assert [data for _, _, data in read_bag(folder)] == [text(str(n)) for n in range(100)]
    assert recover_bag(folder) is None
