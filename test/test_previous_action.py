# SPDX-License-Identifier: Apache-2.0
"""The previous action in the observation: the same for the policy and for who learns from it."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from contract_examples import example
from recorded_ticks import PERIOD, Ticks
from test_control_lockstep import Rig
from wall_rig import MS, OFFSET_NS, WallRig

from qcfql_ros.contract import find_contract, load_contract
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.previous import NO_ROW, previous_ticks
from qcfql_ros.contract.topics import STEP_TOPIC
from qcfql_ros.control.executed import ExecutedRows
from qcfql_ros.data.assembler import Assembler
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.errors import ContractError

START = 1_000_000_000_000


@pytest.fixture
def make(tmp_path):
    """Return a function that loads point_reach with the previous action as a feature."""

    def make(change=None, entry=None):
        data = yaml.safe_load(find_contract('point_reach').read_text())
        data['features']['observation.state'].insert(1, entry or {'previous': 'action'})
        if change is not None:
            change(data)
        path = tmp_path / 'point.yaml'
        path.write_text(yaml.safe_dump(data))
        return load_contract(path)

    return make


def play(contract, ticks):
    assembler = Assembler(contract)
    events = [event for message in ticks.log for event in assembler.push(*message)]
    events += assembler.finish()
    return [e for e in events if isinstance(e, Step)], events, assembler.counters


def previous(step):
    return step.observation[2:4].tolist()


def test_the_entry_has_the_numbers_of_the_row_by_name(make):
    contract = make()
    assert contract.wants_previous
    assert contract.state_dim == 8
    assert contract.state_names[2:4] == ('previous.vx', 'previous.vy')
    values = {'joint_states': np.arange(4.0), 'goal': np.array([4.0, 5.0])}
    row = np.array([0.25, -0.75], dtype=np.float32)
    state = Decoder(contract).observation(values, row)
    assert state.tolist() == [0.0, 1.0, 0.25, -0.75, 2.0, 3.0, 4.0, 5.0]
    one = make(entry={'previous': 'action', 'names': ['vy']})
    assert Decoder(one).observation(values, row).tolist()[:3] == [0.0, 1.0, -0.75]


def test_nothing_is_made_up_where_nobody_says_what_was_before(make):
    values = {'joint_states': np.arange(4.0), 'goal': np.array([4.0, 5.0])}
    with pytest.raises(ContractError, match='previous action, which is not known here'):
        Decoder(make()).observation(values)


def test_where_there_was_none_the_hold_row_stands_for_it(make):
    contract = make(lambda data: data['action'].update(hold=[0.0, 0.5]))
    values = {'joint_states': np.arange(4.0), 'goal': np.array([4.0, 5.0])}
    assert Decoder(contract).observation(values, NO_ROW).tolist()[2:4] == [0.0, 0.5]


def test_where_there_was_none_an_absolute_position_is_where_it_is(tmp_path):
    def change(data):
        state = data['features']['observation.state']
        state[0]['offset'] = 0.01
        state.append({'previous': 'action'})

    contract = example(tmp_path, 'hand', change)
    measured = (np.array([0.06, 0.04]) + 0.01) * 10.0
    state = Decoder(contract).observation({'joints': measured}, NO_ROW)
    assert state[2:] == pytest.approx([0.5, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ({'previous': 'state'}, r"\[1\].previous: got 'state', wanted one of action"),
        ({'previous': 'action', 'names': ['vq']}, r"names: got \['vq'\], wanted some of vx, vy"),
        ({'previous': 'action', 'scale': 2.0}, r'scale: got 2.0, wanted nothing'),
        (
            {'previous': 'action', 'stream': 'goal', 'field': 'position'},
            r'nothing beside a stream',
        ),
        ({'field': 'position'}, r'stream: got None, wanted a stream and its field, or {previous'),
    ],
)
def test_a_wrong_entry_is_refused(make, entry, message):
    with pytest.raises(ContractError, match=message):
        make(entry=entry)


def test_it_is_in_the_hash_and_so_is_the_hold_row_then(make):
    plain = load_contract('point_reach')
    hashes = {plain.hash, make().hash, make(entry={'previous': 'action', 'names': ['vx']}).hash}
    hashes.add(make(lambda data: data['action'].update(hold=[0.0, 0.5])).hash)
    assert len(hashes) == 4


def test_each_step_has_the_row_of_the_step_before_and_its_next_observation_its_own(make):
    ticks = Ticks()
    ticks.run(START, 5, terminated=True)
    steps, events, counters = play(make(), ticks)
    # What was executed before the first message is not known.
    assert counters['dropped_unknown_previous'] == 1
    assert [step.action[0] for step in steps] == pytest.approx([0.01, 0.02, 0.03, 0.04])
    assert [previous(step)[0] for step in steps] == pytest.approx([0.0, 0.01, 0.02, 0.03])
    (end,) = [e for e in events if isinstance(e, SegmentEnd)]
    assert end.final_observation[2:4] == pytest.approx([0.04, -0.5])
    assert steps[0].action.dtype == steps[0].observation.dtype == np.float32


def test_an_episode_begins_with_the_hold_row_and_so_does_what_follows_a_gap(make):
    ticks = Ticks()
    stamp = ticks.run(START, 3, terminated=True) + PERIOD
    stamp = ticks.run(stamp, 3, episode=1)
    ticks.run(stamp + PERIOD, 3, episode=1)  # a tick was left out
    steps, _, _ = play(make(), ticks)
    assert [previous(step)[0] for step in steps] == pytest.approx(
        [0.0, 0.01, 0.0, 0.0, 0.01, 0.0, 0.0, 0.01]
    )
    assert [previous(step)[1] for step in steps] == [-0.5, -0.5, 0, -0.5, -0.5, 0, -0.5, -0.5]


def test_a_row_of_another_episode_is_none_even_one_period_before(make):
    contract = make()
    ticks = Ticks()
    stamp = ticks.run(START, 3)
    ticks.run(stamp, 2, episode=1)
    steps, _, _ = play(contract, ticks)
    assert [previous(step)[1] for step in steps] == [-0.5, -0.5, 0.0, -0.5]
    rows = ExecutedRows(contract, lockstep=True)
    rows.add(START, 0, np.array([0.25, 0.5], np.float32))
    assert rows.before(START + PERIOD, 1) == (NO_ROW, {})
    row, stamps = rows.before(START + PERIOD, 0)
    assert row.tolist() == [0.25, 0.5]
    assert stamps == {STEP_TOPIC: START}
    assert ExecutedRows(load_contract('point_reach'), True).before(START, 0) == (None, {})


@pytest.mark.parametrize(
    ('lead', 'commands', 'lockstep', 'wanted'),
    [
        (0.0, 1, True, 1),
        (0.0, 1, False, 1),
        (0.01, 1, False, 1),
        (0.05, 1, False, 2),
        (0.12, 1, False, 3),
        (0.0, 5, True, 1),
        (0.0, 5, False, 1),
        (0.009, 5, False, 1),
        (0.01, 5, False, 2),
    ],
)
def test_only_a_row_whose_last_command_was_sent_is_known(make, lead, commands, lockstep, wanted):
    contract = make(lambda data: data['control'].update(command_rate_hz=20.0 * commands))
    assert previous_ticks(contract, round(lead * 1e9), lockstep) == wanted


def test_at_wall_pacing_a_long_lead_makes_it_an_older_row(make):
    ticks = Ticks(lockstep=False, lead_ns=PERIOD)
    start = ticks.now_ns
    ticks.sensors(start - PERIOD, 0.0)
    for i in range(6):
        stamp = start + i * PERIOD
        ticks.sensors(stamp, float(i))
        ticks.step(stamp, (i / 10, -0.5))
        ticks.outcome(stamp)
    ticks.sensors(start + 6 * PERIOD, 6.0)
    steps, _, counters = play(make(), ticks)
    assert counters['dropped_unknown_previous'] == 2
    assert [step.action[0] for step in steps] == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert [previous(step)[0] for step in steps] == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_a_chunk_planned_after_another_row_is_a_mismatch(make):
    for stamps, dropped in (
        ({STEP_TOPIC: START}, 0),
        ({STEP_TOPIC: START - PERIOD}, 1),
        ({}, 1),
    ):
        ticks = Ticks()
        stamp = ticks.run(START, 1)
        ticks.chunk(stamp, 3, {'joint_states': stamp, 'goal': stamp, **stamps})
        ticks.step(stamp, (0.3, -0.5), chunk=3)
        ticks.outcome(stamp)
        ticks.sensors(stamp + PERIOD, 2.0)
        steps, _, counters = play(make(), ticks)
        assert counters['dropped_observation_mismatch'] == dropped
        assert len(steps) == 1 - dropped


def recorded(sent, sensor_stamps, ended=(), lockstep=True, lead_ns=0):
    """Return the log of what a rig sent, each message at the time of its stamp."""
    ticks = Ticks(lockstep=lockstep, lead_ns=lead_ns)
    due = [(stamp, 0, lambda s=stamp: ticks.sensors(s, s % 997 * 1.0)) for stamp in sensor_stamps]
    for record in sent.steps:
        about = {'episode': record.episode, 'chunk': record.chunk, 'index': record.index}

        def step(record=record, about=about):
            ticks.step(record.stamp_ns, record.action, source=int(record.source), **about)
            ticks.outcome(record.stamp_ns, terminated=record.stamp_ns in ended)
            ticks.robot_episode += record.stamp_ns in ended

        due.append((record.stamp_ns, 2, step))
    for chunk in sent.chunks:
        due.append(
            (
                chunk.stamp_ns,
                1,
                lambda c=chunk: ticks.chunk(c.stamp_ns, c.chunk, c.observation_stamps),
            )
        )
    for at_ns, _, add in sorted(due, key=lambda one: one[:2]):
        ticks.now_ns = max(ticks.now_ns, at_ns)
        add()
    return ticks


def planned_and_learned(contract, policy, sent, ticks):
    """Return the previous rows by stamp that the policy saw, and that the assembler gives."""
    seen = {
        chunk.stamp_ns: observation[2:4].tolist()
        for chunk, observation in zip(sent.chunks, policy.observations, strict=False)
    }
    steps, _, counters = play(contract, ticks)
    assert counters['dropped_observation_mismatch'] == 0
    return seen, {step.stamp_ns: previous(step) for step in steps}


def test_in_lockstep_the_policy_sees_what_is_learned_from(make):
    contract = make()
    rig = Rig(contract=contract)
    rig.ticks(0, 6)
    rig.sensors(6)
    rig.outcome(6, ended=True)
    rig.sensors(7)  # the final observation
    rig.ticks(8, 14)
    rig.sensors(14)
    ticks = recorded(rig.sent, [rig.stamp(i) for i in range(15)], ended={rig.stamp(6)})
    seen, learned = planned_and_learned(contract, rig.policy, rig.sent, ticks)
    assert list(seen) == [rig.stamp(i) for i in (0, 4, 8, 12)]
    assert [seen[rig.stamp(i)] for i in (0, 8)] == [[0.0, 0.0]] * 2  # episodes begin
    assert seen[rig.stamp(4)] == seen[rig.stamp(12)] == pytest.approx([0.01, 0.03])
    for tick in (4, 8, 12):
        assert learned[rig.stamp(tick)] == seen[rig.stamp(tick)]


@pytest.mark.parametrize('lead_ms', [10, 60, 110])
def test_at_wall_pacing_the_policy_sees_what_is_learned_from(make, lead_ms):
    contract = make()
    rig = WallRig(contract=contract, lead_ns=lead_ms * MS)
    rig.run_until(1_000 * MS)
    stamps = range(7 * MS + OFFSET_NS, 1_000 * MS + OFFSET_NS, PERIOD)
    ticks = recorded(rig.sent, stamps, lockstep=False, lead_ns=lead_ms * MS)
    seen, learned = planned_and_learned(contract, rig.policy, rig.sent, ticks)
    both = [stamp for stamp in seen if stamp in learned]
    assert len(both) >= 3
    # Rows are (0.01, index / 100); the chunk has 4 of them.
    row = {10: 0.03, 60: 0.02, 110: 0.01}[lead_ms]
    for stamp in both:
        assert learned[stamp] == seen[stamp] == pytest.approx([0.01, row])
