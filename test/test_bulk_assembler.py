# SPDX-License-Identifier: Apache-2.0
"""Many messages at once give what message after message gives, bit for bit, whatever happens."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from random_recordings import Trouble, recording
from recorded_ticks import CONTRACT, JOINTS, PERIOD, STORE, Ticks, vector

from qcfql_ros.contract import find_contract, load_contract
from qcfql_ros.data import bulk_assembler
from qcfql_ros.data.assembler import Assembler
from qcfql_ros.data.bag_file import Message
from qcfql_ros.data.bulk_assembler import BulkAssembler
from qcfql_ros.data.reader import read_bag
from qcfql_ros.data.session_mark import session_mark, session_topic
from qcfql_ros.data.steps import SegmentEnd, step_digest
from qcfql_ros.data.stream_buffer import CAPACITY

S0 = 1_000_000_000_000
KINDS = [entry.name for entry in dataclasses.fields(Trouble)]


@pytest.fixture(scope='module')
def with_previous(tmp_path_factory):
    """point_reach with the action executed before in the observation, and no price of failure."""
    data = yaml.safe_load(find_contract('point_reach').read_text())
    data['features']['observation.state'].insert(1, {'previous': 'action'})
    del data['outcome']['failure_reward']
    path = tmp_path_factory.mktemp('contract') / 'point.yaml'
    path.write_text(yaml.safe_dump(data))
    return load_contract(path)


@pytest.fixture
def short(monkeypatch):
    """Stretches begin and end all the time."""
    monkeypatch.setattr(bulk_assembler, '_SINGLE', 2)
    monkeypatch.setattr(bulk_assembler, '_MOST_SINGLE', 4)
    monkeypatch.setattr(bulk_assembler, '_SHORTEST', 16)


def plain(event):
    """An event as something that can be compared."""
    if isinstance(event, SegmentEnd):
        final = event.final_observation.tobytes()
        return final, event.truncated, event.reason, event.episode_end
    return step_digest(event), event.reward


def one_by_one(contract, log):
    assembler = Assembler(contract)
    events = [event for message in log for event in assembler.push(*message)]
    return assembler, [plain(event) for event in events + assembler.finish()]


def at_once(contract, log, sizes):
    """Return the assembler, its events, and how many of its steps came from stretches."""
    assembler = BulkAssembler(contract)
    messages = [Message(topic, receive_ns, 0, data) for topic, receive_ns, data in log]
    blocks, first, number = [], 0, 0
    stretches = Counter()
    emit = assembler._emit_all

    def counted(stretch):
        stretches['steps'] += stretch.count
        yield from emit(stretch)

    assembler._emit_all = counted
    while first < len(messages):
        blocks += assembler.push_all(messages[first : first + sizes[number % len(sizes)]])
        first += sizes[number % len(sizes)]
        number += 1
    blocks += assembler.finish_all()
    return assembler, [plain(e) for block in blocks for e in block.events()], stretches['steps']


def check(contract, log, sizes):
    """Compare the two; returns the share of steps that stretches gave."""
    slow, wanted = one_by_one(contract, log)
    fast, got, from_stretches = at_once(contract, log, sizes)
    assert got == wanted
    assert dict(fast.counters) == dict(slow.counters)
    assert fast.last_tick == slow.last_tick
    assert (fast.last_chunk is None) == (slow.last_chunk is None)
    if slow.last_chunk is not None:
        assert fast.last_chunk.chunk == slow.last_chunk.chunk
    return from_stretches / max(1, slow.counters['steps'])


@pytest.mark.usefixtures('short')
@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kinds=st.sets(st.sampled_from(KINDS), max_size=5),
    share=st.sampled_from([0.003, 0.02, 0.1]),
    lockstep=st.booleans(),
    previous=st.booleans(),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=4),
)
def test_any_recording(with_previous, seed, kinds, share, lockstep, previous, sizes):
    random = np.random.default_rng(seed)
    trouble = Trouble(**dict.fromkeys(kinds, share))
    log = recording(random, trouble, 40, lockstep, observed=not previous)
    check(with_previous if previous else CONTRACT, log, sizes)


@pytest.mark.parametrize('lockstep', [True, False])
def test_where_nothing_goes_wrong_the_stretches_give_nearly_all_steps(with_previous, lockstep):
    for contract in (CONTRACT, with_previous):
        observed = not contract.wants_previous
        log = recording(np.random.default_rng(7), Trouble(), 2000, lockstep, observed)
        assert check(contract, log, [len(log)]) > 0.85
        assert check(contract, log, [5000]) > 0.8


def test_a_receive_stamp_that_fits_no_array_is_left_to_the_assembler():
    log = recording(np.random.default_rng(7), Trouble(), 50, True)
    log.append((log[-1][0], 2**63 + 5, log[-1][2]))
    check(CONTRACT, log, [len(log)])


def test_the_demonstrations_that_are_shipped():
    contract = load_contract('ur5e_cube')
    bag = Path(__file__).parent.parent / 'models' / 'ur5e_cube_offline' / 'demonstrations'
    log = list(read_bag(bag, contract.recorded_topics()))
    assert check(contract, log, [1 << 15]) == 1.0


def test_the_buffers_of_the_assembler_run_over_as_they_do_one_by_one():
    """Silent for long, and then a step that would look at what was let go of."""
    for ticks in (CAPACITY - 10, CAPACITY + 10):
        log = Ticks()
        for number in range(ticks):
            log.sensors(S0 + number * PERIOD, float(number))
        for number in range(ticks // 3, ticks // 3 + 300):
            log.step(S0 + number * PERIOD)
            log.outcome(S0 + number * PERIOD)
        check(CONTRACT, log.log, [len(log.log)])
        check(CONTRACT, log.log, [5000])


def test_a_session_that_begins_while_steps_wait():
    log = Ticks()
    stamp = S0
    for number in range(20):
        stamp = log.run(stamp, 30, episode=number) + PERIOD
        log.step(stamp)
        log.add(session_topic(), session_mark('c', 'h', 1))
    assert check(CONTRACT, log.log, [len(log.log)]) > 0.5


@pytest.mark.parametrize('what', ['stamps', 'receipt'])
def test_what_goes_back_at_the_first_message_of_a_block(what):
    log, again = Ticks(), Ticks()
    log.run(S0, 60)
    again.now_ns = log.now_ns - 1_000_000_000 * (what == 'receipt')
    again.run(S0 if what == 'stamps' else S0 + 61 * PERIOD, 60)
    whole = log.log + again.log
    slow, _ = one_by_one(CONTRACT, whole)
    assert slow.counters['stamps_went_back' if what == 'stamps' else 'clock_set_back'] == 1
    check(CONTRACT, whole, [len(log.log)])
    check(CONTRACT, whole, [len(whole)])


def test_a_message_that_is_there_again_at_the_beginning_of_a_block():
    log = Ticks()
    stamp = log.run(S0, 60)
    first = len(log.log)
    log.add(*log.log[-2][::2])
    log.run(stamp + PERIOD, 60)
    counters = one_by_one(CONTRACT, log.log)[0].counters
    assert counters['duplicate'] == 1
    assert check(CONTRACT, log.log, [first]) > 0.5


def test_a_stream_that_was_silent_for_longer_than_a_step_waits():
    log = Ticks(lockstep=False)
    for number in range(200):
        log.now_ns = 1_700_000_000_000_000_000 + number * PERIOD
        log.joints(log.now_ns - PERIOD // 4, float(number))
        if not 20 < number < 76:
            log.goal(log.now_ns - PERIOD // 4)
        if number >= 45:
            log.step(log.now_ns)
            log.outcome(log.now_ns - 1_000_000)
    slow, _ = one_by_one(CONTRACT, log.log)
    assert slow.counters['dropped_missing_observation'] > 10
    assert check(CONTRACT, log.log, [len(log.log)]) > 0.3


def test_the_row_of_another_episode_is_no_previous_action(with_previous):
    log = Ticks()
    stamp = S0
    log.sensors(stamp, 0.0)
    for number in range(200):
        log.step(stamp, (number / 200, 0.5), episode=number // 7)
        log.outcome(stamp)
        stamp += PERIOD
        log.sensors(stamp, number + 1.0)
    assert check(with_previous, log.log, [len(log.log)]) > 0.8


def test_an_outcome_that_does_not_say_whether_the_episode_ended():
    log = Ticks()
    log.sensors(S0, 0.0)
    for number in range(200):
        log.step(S0 + number * PERIOD, episode=log.robot_episode)
        ends = {'terminated': number % 50 == 49, 'truncated': number % 50 == 24}
        log.outcome(S0 + number * PERIOD, **ends)
        log.robot_episode += any(ends.values())
        log.sensors(S0 + (number + 1) * PERIOD, number + 1.0)
    short = []
    for topic, receive_ns, data in log.log:
        if topic == '/outcome':
            whole = STORE.deserialize_cdr(data, JOINTS)
            assert whole.name[-1] == 'ended'
            stamp = whole.header.stamp
            stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
            data = vector(stamp_ns, whole.name[:-1], whole.position[:-1])
        short.append((topic, receive_ns, data))
    assert one_by_one(CONTRACT, short)[0].counters['episodes'] == 8
    assert check(CONTRACT, short, [len(short)]) > 0.9
