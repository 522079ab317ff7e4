# SPDX-License-Identifier: Apache-2.0
"""Any sequence: against a dumb model, and live against reread from a real bag."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_ticks import CONTRACT, PERIOD, Ticks

from qcfql_ros.data.assembler import Assembler
from qcfql_ros.data.dataset import load_dataset
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.recovery import recover_bag
from qcfql_ros.data.session_mark import SESSION_TYPE, session_mark, session_topic
from qcfql_ros.data.steps import SegmentEnd, Step, step_digest
from qcfql_ros.errors import BagError

S0 = 1_000_000_000_000
START = 1_700_000_000_000_000_000
NEEDED = ('/joint_states', '/goal_pose', '/outcome', '/policy/step')


@st.composite
def disturbed(draw):
    """An episode of n ticks, messages of a topic in order, topics mixed, some lost or doubled."""
    count = draw(st.integers(1, 8))
    ticks = Ticks()
    ticks.run(S0, count)
    queues: dict[str, list[tuple[int, bytes]]] = {topic: [] for topic in NEEDED}
    for topic, _, data in ticks.log:
        queues[topic].append((len(queues[topic]), data))
    there = {topic: set() for topic in NEEDED}
    for topic, queue in queues.items():
        kept = []
        for number, data in queue:
            copies = draw(st.sampled_from((1, 1, 1, 1, 1, 1, 2, 0)))
            kept += [(number, data)] * copies
            if copies:
                there[topic].add(number)
        queues[topic] = kept
    log = []
    while any(queues.values()):
        topic = draw(st.sampled_from([name for name, queue in queues.items() if queue]))
        log.append((topic, START + len(log) * 1_000_000, queues[topic].pop(0)[1]))
    return count, there, log


@settings(max_examples=300, deadline=None)
@given(disturbed())
def test_the_steps_are_those_whose_messages_are_all_there(sequence):
    count, there, log = sequence
    wanted = [
        i
        for i in range(count)
        if i in there['/policy/step']
        and i in there['/outcome']
        and {i, i + 1} <= there['/joint_states']
        and {i, i + 1} <= there['/goal_pose']
    ]
    assembler = Assembler(CONTRACT)
    events = [event for message in log for event in assembler.push(*message)]
    events += assembler.finish()
    groups, group = [], []
    for event in events:
        if isinstance(event, Step):
            group.append((event.stamp_ns - S0) // PERIOD)
            last = event
        else:
            assert event.truncated
            assert event.final_observation[0] == last.observation[0] + 1
            groups.append(group)
            group = []
    assert not group, 'every segment is closed'
    assert [i for group in groups for i in group] == wanted
    for group in groups:
        assert group == list(range(group[0], group[-1] + 1)), 'no gap inside a segment'
    dropped = sum(n for name, n in assembler.counters.items() if name.startswith('dropped_'))
    assert dropped + len(wanted) == len(there['/policy/step'])


def fingerprint(events) -> list[str]:
    """All but the reasons: live a session says `shutdown`, read again the next mark ends it."""
    return [
        f'{event.truncated} {event.episode_end} {event.final_observation.tobytes().hex()}'
        if isinstance(event, SegmentEnd)
        else step_digest(event)
        for event in events
    ]


def record(folder, logs, finish=True):
    """Record sessions as the learner does and return what the live assemblers gave."""
    live = []
    for log in logs:
        topics = CONTRACT.recorded_topics() | {session_topic(): SESSION_TYPE}
        recorder = BagRecorder(
            folder, topics, contract_name=CONTRACT.name, contract_hash=CONTRACT.hash
        )
        assembler = Assembler(CONTRACT)
        mark = (session_topic(), log[0][1] - 1, session_mark(CONTRACT.name, CONTRACT.hash, 0))
        for topic, receive_ns, data in [mark, *log]:
            stamp = recorder.write(topic, receive_ns, 0, data)
            live += assembler.push(topic, stamp, data)
        if finish:
            live += assembler.finish()
        recorder.close()
    return live


@settings(max_examples=25, deadline=None)
@given(st.lists(disturbed(), min_size=1, max_size=3))
def test_reading_the_bag_gives_the_steps_of_the_live_learner(tmp_path_factory, sequences):
    folder = tmp_path_factory.mktemp('bags') / 'bag'
    live = record(folder, [log for _, _, log in sequences])
    counters = Assembler(CONTRACT).counters
    again = list(load_dataset(folder, CONTRACT, counters=counters))
    assert fingerprint(again) == fingerprint(live)
    assert counters['steps'] == sum(isinstance(event, Step) for event in live)


def test_a_recovered_copy_gives_the_same_steps_as_far_as_it_goes(tmp_path):
    ticks = Ticks()
    ticks.run(S0, 2000)
    live = fingerprint(record(tmp_path / 'bag', [ticks.log]))
    path = tmp_path / 'bag' / 'bag_0.mcap'
    data = path.read_bytes()
    for part in (0.4, 0.8, 0.97):
        path.write_bytes(data[: int(len(data) * part)])
        torn = fingerprint(load_dataset(tmp_path / 'bag', CONTRACT))
        assert 100 < len(torn) <= len(live)
        assert torn[:-1] == live[: len(torn) - 1]
        recover_bag(tmp_path / 'bag')
        assert fingerprint(load_dataset(tmp_path / 'bag', CONTRACT)) == torn


def test_a_bag_of_another_contract_is_refused_with_both_hashes(tmp_path):
    from qcfql_ros.contract import load_contract

    ticks = Ticks()
    ticks.run(S0, 2)
    record(tmp_path / 'bag', [ticks.log])
    other = load_contract('ur5e_cube')
    with pytest.raises(BagError, match=f'{CONTRACT.hash}.*{other.hash}'):
        load_dataset(tmp_path / 'bag', other)
    assert not list(load_dataset(tmp_path / 'bag', other, any_contract=True))


def test_progress_rises_to_one(tmp_path):
    ticks = Ticks()
    ticks.run(S0, 50)
    record(tmp_path / 'bag', [ticks.log])
    seen = []
    assert len(list(load_dataset(tmp_path / 'bag', CONTRACT, seen.append))) == 51
    assert seen[-1] == 1.0 and seen == sorted(seen)
