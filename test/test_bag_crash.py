# SPDX-License-Identifier: Apache-2.0
"""A recorder that dies between any two steps leaves a bag that every reader can read."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

import pytest
from test_bag_recorder import SECOND, open_recorder, rosbags_messages, text

from qcfql_ros.data.bag_metadata import read_metadata
from qcfql_ros.data.reader import bag_info, read_bag
from qcfql_ros.data.retention import first_needed, surplus
from qcfql_ros.nodes.recording_gap import RecordingGap

STEPS = ('open', 'write', 'fdatasync', 'fsync', 'rename', 'replace', 'unlink', 'close')
DIED = 9
MESSAGES = 60


def message(number: int) -> bytes:
    return text(f'{number:06d}' + os.urandom(40).hex())


def number_of(data: bytes) -> int:
    return int(data[8:14])


def record(folder: Path, committed: mmap.mmap) -> None:
    """Record 60 messages in several files, of which the oldest are deleted."""
    recorder = open_recorder(folder, split_bytes=2500, keep_bytes=7000)
    recorder.first_needed = 2**62
    for number in range(MESSAGES):
        recorder.write('/r/text', (number + 1) * SECOND, 0, message(number))
        if number % 5 == 4:
            recorder.custom['test.count'] = str(number)
            recorder.flush()
            committed[:8] = struct.pack('<q', recorder.committed)
    recorder.close()
    committed[:8] = struct.pack('<q', MESSAGES)


def die_before(step: int, folder: Path, committed: mmap.mmap) -> bool:
    """Record in a child that dies before its `step`-th call to the system; False if it lived."""
    child = os.fork()
    if child == 0:
        left = [step]

        def counted(call):
            def wrapper(*arguments, **options):
                if left[0] == 0:
                    os._exit(DIED)
                left[0] -= 1
                return call(*arguments, **options)

            return wrapper

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            record(folder, committed)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, DIED)
    return status == DIED


def numbers(folder: Path) -> list[int]:
    """Read the bag, its open end included."""
    if not any(folder.glob('*.mcap*')):
        return []
    found = [number_of(data) for _, _, data in read_bag(folder, include_open=True)]
    assert found == list(range(found[0], found[-1] + 1)) if found else True, 'a hole in the bag'
    return found


def test_a_recorder_that_dies_before_any_step_leaves_a_consistent_bag(tmp_path):
    committed = mmap.mmap(-1, 8)
    step, deleted = 0, 0
    while True:
        folder = tmp_path / str(step) / 'bag'
        committed[:8] = bytes(8)
        died = die_before(step, folder, committed)
        (safe,) = struct.unpack('<q', committed[:8])
        if folder.is_dir():
            found = numbers(folder)
            assert len(found) == 0 == safe or found[-1] + 1 >= safe
            listed = read_metadata(folder)
            for entry in listed.files if listed else []:
                assert bag_info(folder / entry.name).messages == entry.messages, (
                    'listed, not whole'
                )
            recorder = open_recorder(folder)
            recorder.write('/r/text', (MESSAGES + 1) * SECOND, 0, message(MESSAGES))
            recorder.close()
            again = [number_of(data) for _, _, data in read_bag(folder)]
            assert again[:-1][-len(found) :] == found, 'recovery keeps what could be read'
            assert [number_of(data) for _, _, data in rosbags_messages(folder)] == again
            assert sum(read_metadata(folder).totals.values()) == len(again)
            assert not list(folder.glob('*.active')) and not list(folder.glob('.*.part'))
            deleted += found[0] > 0 if found else 0
        if not died:
            break
        step += 1
    assert step > 60, 'so many steps there are at least'
    assert deleted > 5, 'some of them after retention had deleted a file'


def test_retention_deletes_the_oldest_files_and_keeps_the_list_right(tmp_path):
    folder = tmp_path / 'bag'
    first = open_recorder(folder, split_bytes=2500)
    for number in range(30):
        first.write('/r/text', (number + 1) * SECOND, 0, message(number))
        first.commit()
    first.close()
    files = len(list(folder.glob('*.mcap')))
    size = sum(path.stat().st_size for path in folder.glob('*.mcap'))
    second = open_recorder(folder, split_bytes=2500, keep_bytes=size // 2)
    for number in range(30, 60):
        second.write('/r/text', (number + 1) * SECOND, 0, message(number))
        second.commit()
    assert not second.deleted, 'nobody said that they may go'
    second.first_needed = files
    second.write('/r/text', 100 * SECOND, 0, text('x' * 6000 + os.urandom(3000).hex()))
    second.close()
    assert [name for name, _ in second.deleted] == [f'bag_{n}.mcap' for n in range(files)]
    assert len(second.notes) == files and 'bag_0.mcap' in second.notes[0]
    left = list(read_bag(folder))
    assert left == rosbags_messages(folder) and number_of(left[0][2]) == 30
    assert read_metadata(folder).totals['/r/text'] == len(left) == 31
    third = open_recorder(folder)
    third.write('/r/text', 200 * SECOND, 0, text('more'))
    third.close()
    assert len({path.name for path in folder.glob('*.mcap')}) == len(read_metadata(folder).files)


@pytest.mark.parametrize(
    ('steps', 'capacity', 'first'),
    [
        ({}, 10, 0),
        ({0: 5, 1: 5, 2: 5}, 10, 0),
        ({0: 5, 1: 5, 2: 5, 3: 5}, 10, 1),
        ({0: 5, 1: 5, 2: 100}, 10, 1),
        ({5: 10, 6: 10, 7: 0}, 10, 5),
    ],
)
def test_files_are_needed_until_those_from_the_next_but_one_on_fill_the_replay(
    steps, capacity, first
):
    assert first_needed(steps, capacity) == first


def test_what_is_needed_and_the_newest_stay_whatever_the_limit():
    sizes = [(0, 10), (1, 10), (2, 10)]
    assert surplus(sizes, 0, 99) == 0
    assert surplus(sizes, 1, 99) == 2
    assert surplus(sizes, 1, 1) == 1
    assert surplus(sizes, 20, 99) == 1
    assert surplus(sizes, 30, 99) == 0
    assert surplus(sizes, 29, 99) == 1


def test_what_was_on_its_way_when_a_recorder_was_killed_is_said_in_seconds(tmp_path):
    recorder = open_recorder(tmp_path / 'bag')
    for number in range(100):
        # Published by another machine, an hour ahead; received 2 ms later, and at last 700 ms.
        received = (number + 1) * SECOND // 10
        delay = 2_000_000 if number < 90 else 700_000_000
        recorder.write('/r/text', received, received - delay + 3600 * SECOND, message(number))
    recorder.commit()
    recorder._file.abandon()
    recorder._lock.release()
    again = open_recorder(tmp_path / 'bag')
    assert again.recovery.late_s == pytest.approx(0.698)
    gap = RecordingGap(again.last_ns, again.recovery, 11 * SECOND)
    assert gap.heard(12 * SECOND)
    assert gap.gap_s == pytest.approx(2.698), '2 s since the last, and what was on its way'
    again.close()
