# SPDX-License-Identifier: Apache-2.0
"""The numbers of an inspection against the replay, numpy, and counting one by one."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_ticks import CONTRACT, TRAJECTORY

from qcfql_ros.data.bag_file import Channel, Message
from qcfql_ros.data.cdr import peek_stamp_ns
from qcfql_ros.data.inspection_steps import SAMPLE, Numbers, StepStatistics
from qcfql_ros.data.inspection_topics import TopicLog, has_header, header_stamps, stale_share
from qcfql_ros.data.replay import Replay
from qcfql_ros.data.step_block import blocks_of_events
from qcfql_ros.data.steps import SegmentEnd, Source, Step

NOTHING = np.zeros(6, np.float32)


@st.composite
def segments(draw):
    """Events of some segments: lengths, terminated steps, successes, and how they end."""
    events, stamp = [], 0
    for number in range(draw(st.integers(1, 6))):
        count = draw(st.integers(1, 9))
        ended = draw(st.booleans())
        for i in range(count):
            stamp += 1
            last = i == count - 1
            terminated = draw(st.booleans()) if last else draw(st.integers(0, 9)) == 0
            action = np.array([draw(st.floats(-2, 2)), 0.5], np.float32)
            observation = np.full(6, stamp, np.float32)
            events.append(
                Step(
                    stamp,
                    observation,
                    action,
                    -1.0,
                    terminated,
                    source=Source(i % 3),
                    episode=number,
                )
            )
        truncated = not events[-1].terminated
        reason = 'timeout' if truncated else 'terminated'
        events.append(SegmentEnd(NOTHING, truncated, reason if ended else 'gap', ended))
    return events


@settings(max_examples=100)
@given(segments(), st.integers(1, 6), st.booleans(), st.integers(1, 8))
def test_windows_are_those_of_the_replay_and_counts_those_of_the_events(
    events, window, terminal, block_steps
):
    statistics = StepStatistics(CONTRACT, window, terminal)
    for block in blocks_of_events(events, 6, 2, block_steps):
        statistics.add(block)
    found = statistics.report()
    replay = Replay(200, 6, 2, window, 0.99, terminal_windows=terminal)
    for event in events:
        replay.append(event)
    assert found.windows == len(replay)
    assert found.short == (replay.short_segments, replay.short_segment_steps)
    steps = [event for event in events if isinstance(event, Step)]
    ends = [event for event in events if isinstance(event, SegmentEnd)]
    assert found.steps == len(steps)
    assert sum(segment.steps for segment in found.segments) == len(steps)
    assert sum(found.outcomes.values()) == sum(end.episode_end for end in ends)
    assert found.outcomes['timeout'] == sum(end.episode_end and end.truncated for end in ends)
    assert found.unfinished == sum(not end.episode_end for end in ends)
    assert found.terminated == sum(step.terminated for step in steps)
    actions = np.array([step.action for step in steps], np.float64)
    assert found.action[0].mean == pytest.approx(actions[:, 0].mean(), abs=1e-12)
    assert found.action[0].std == pytest.approx(actions[:, 0].std(), abs=1e-9)
    assert found.action[0].outside == pytest.approx((np.abs(actions[:, 0]) > 1.00002).mean())
    assert (found.action[1].low, found.action[1].constant) == (0.5, True)


def test_an_episode_that_is_cut_counts_once():
    def step(stamp, episode, success=False):
        row = np.zeros(2, np.float32)
        return Step(stamp, NOTHING, row, 0.0, False, success, episode=episode)

    cut = SegmentEnd(NOTHING, True, 'gap')
    end = SegmentEnd(NOTHING, True, 'timeout', True)
    events = [step(1, 0, True), cut, step(3, 0), end, step(4, 1), cut, step(6, 2), end]
    statistics = StepStatistics(CONTRACT, 1, True)
    for block in blocks_of_events(events, 6, 2):
        statistics.add(block)
    found = statistics.report()
    assert found.outcomes == {'success': 1, 'timeout': 1}, 'it had succeeded before the gap'
    assert found.unfinished == 1, 'episode 1 never ended'
    assert found.ends == {'gap': 2, 'timeout': 2}


@given(st.lists(st.integers(1, 7000), min_size=1, max_size=6))
@settings(max_examples=20)
def test_the_sample_is_evenly_spread_and_bounded(sizes):
    numbers, row = Numbers(('a',)), 0
    for size in sizes:
        numbers.add(np.arange(row, row + size, dtype=np.float32)[:, None])
        row += size
    sample = numbers.reports()[0].sample
    assert len(sample) <= 2 * SAMPLE
    steps = np.unique(np.diff(sample))
    assert sample[0] == 0 and len(steps) <= 1
    assert row - sample[-1] <= (steps[0] if len(steps) else 1)


@given(
    st.lists(st.integers(0, 60), max_size=20),
    st.lists(st.integers(0, 60), min_size=1, max_size=20),
    st.integers(0, 10),
)
def test_the_stale_share_is_counted_tick_by_tick(messages, ticks, age):
    stale = 0
    for tick in ticks:
        before = [message for message in messages if message <= tick]
        stale += not before or tick - max(before) > age
    got = stale_share(np.array(ticks, np.int64), np.array(messages, np.int64), age)
    assert got == pytest.approx(stale / len(ticks))


@pytest.mark.parametrize(
    ('kind', 'definition', 'headed'),
    [
        (TRAJECTORY, b'# a comment\n\nstd_msgs/Header header\nstring[] joint_names\n', True),
        (TRAJECTORY, b'', True),
        ('std_msgs/msg/String', b'', False),
        ('mine/msg/Odd', b'float64 x\nstd_msgs/Header header\n', False),
        ('mine/msg/Unknown', b'', False),
    ],
)
def test_a_header_counts_only_where_the_message_begins_with_it(kind, definition, headed):
    assert has_header(Channel('/a', kind, definition, 'ros2msg')) is headed


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b'\x00\x01', b'\x00\x00', b'\x00\x03']),
            st.integers(-3, 2**31 - 1) | st.just(0),
            st.sampled_from([0, 1, 999_999_999, 1_000_000_000, 2**32 - 1]),
            st.sampled_from([12, 40, 40, 40, 3, 0]),
        ),
        max_size=8,
    )
)
def test_header_stamps_are_those_that_a_step_is_aligned_by(heads):
    messages = []
    for number, (cdr, sec, nanosec, size) in enumerate(heads):
        data = (cdr + bytes(2) + struct.pack('<iI', sec, nanosec) + bytes(40))[:size]
        messages.append(Message('/a', 1000 + number, 0, data))
    wanted = [peek_stamp_ns(message.data) or message.receive_ns for message in messages]
    assert header_stamps(messages).tolist() == wanted


def test_reasons_that_differ_in_a_number_are_one():
    from qcfql_ros.errors import MessageError

    def check(data):
        raise MessageError(f'norm {len(data) / 7:.3g} of joint_1, wanted 1')

    log = TopicLog(Channel('/a', 'std_msgs/msg/String', b'', ''), None, check)
    log.add([Message('/a', 1000 + size, 0, bytes(size)) for size in range(5)])
    report = log.report(False, np.zeros(0, np.int64), (1000, 1004), 1.0)
    assert [(bad.count, bad.first_ns) for bad in report.bad] == [(5, 1000)]
    assert report.bad[0].reason == 'norm 0 of joint_1, wanted 1'
