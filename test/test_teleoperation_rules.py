# SPDX-License-Identifier: Apache-2.0
"""The rules of the section `recordings`, one by one, and all at once against plain loops."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from teleoperation_oracle import Recorded, Rules, expected
from teleoperation_script import MS, PERIOD, START, Script, contract_of, shape

from qcfql_ros.data.inspection_wanted import MessageChecks, wanted_topics
from qcfql_ros.data.labels import Label, Labels
from qcfql_ros.data.step_block import StepBlock
from qcfql_ros.data.steps import SegmentEnd, Step, step_digest
from qcfql_ros.data.teleoperation import types_wanted
from qcfql_ros.data.teleoperation_steps import split_block
from qcfql_ros.errors import MessageError

TOLERANCE = 12_500_000


def steps_of(events):
    return [event for event in events if isinstance(event, Step)]


def one_episode(count=6, outcome='success', begin=0.0):
    script = Script()
    script.event(-500 * MS, 'start 0')
    end = script.run(0, count, begin)
    script.joints(end - 5 * MS, 7.0)
    script.event(end - 30 * MS, outcome)
    return script


def change_recordings(**changes):
    return lambda data: data['recordings'].update(changes)


def test_an_episode_is_its_commands_with_what_was_seen_before_them(tmp_path):
    events, counters = one_episode().events_of(contract_of(tmp_path))
    steps = steps_of(events)
    assert [step.stamp_ns - START for step in steps] == [tick * PERIOD for tick in range(6)]
    numbers = np.arange(6) / 64
    assert np.array_equal([step.observation for step in steps], np.c_[numbers, -numbers])
    assert np.array_equal([step.action for step in steps], np.c_[numbers, numbers / 4])
    assert [step.reward for step in steps] == [0.0] * 5 + [1.0]
    assert [step.terminated for step in steps] == [False] * 5 + [True]
    end = events[-1]
    assert isinstance(end, SegmentEnd)
    assert (end.truncated, end.reason, end.episode_end) == (False, 'terminated', True)
    assert end.final_observation.tolist() == [7.0, 0.0]
    assert (counters['episodes'], counters['steps']) == (1, 6)


def test_an_aborted_episode_is_truncated_and_bootstraps_from_what_was_seen_next(tmp_path):
    events, _ = one_episode(outcome='abort').events_of(contract_of(tmp_path))
    assert not any(step.terminated or step.reward for step in steps_of(events))
    end = events[-1]
    assert (end.truncated, end.reason, end.episode_end) == (True, 'abort', True)
    assert end.final_observation.tolist() == [7.0, 0.0]


def test_sensors_that_fall_silent_with_the_episode_do_not_take_its_outcome(tmp_path):
    script = Script()
    script.event(-MS, 'start 0')
    script.run(0, 4)
    script.event(3 * PERIOD + 5 * MS, 'success')
    contract = contract_of(tmp_path, change_recordings(max_age_s=0.02))
    events, _ = script.events_of(contract)
    assert shape(events) == [(4, 'terminated')]
    script.messages.pop()  # without an outcome the last step has no next observation
    assert shape(script.events_of(contract)[0]) == [(3, 'missing_next_observation')]


def test_between_episodes_and_beside_them_there_are_no_steps(tmp_path):
    script = Script()
    script.run(-10 * PERIOD, 5)
    script.event(-MS, 'start')
    end = script.run(0, 4)
    script.event(end - 20 * MS, 'success')
    end = script.run(end, 7)
    script.event(end - 20 * MS, 'start')
    end = script.run(end, 5)
    script.event(end - 20 * MS, 'abort')
    events, counters = script.events_of(contract_of(tmp_path))
    assert shape(events) == [(4, 'terminated'), (5, 'abort')]
    assert [step.episode for step in steps_of(events)] == [0] * 4 + [1] * 5
    assert counters['outside_episodes'] == 12


def test_an_episode_without_an_end_is_only_broken_off(tmp_path):
    script = Script()
    script.event(-MS, 'start')
    end = script.run(0, 4)
    script.event(end - 20 * MS, 'start again')
    script.run(end, 5)
    events, _ = script.events_of(contract_of(tmp_path))
    assert shape(events) == [(4, 'restart'), (5, 'shutdown')]
    assert all(e.truncated and not e.episode_end for e in events if isinstance(e, SegmentEnd))
    assert not any(step.terminated for step in steps_of(events))


def test_a_start_that_a_recorder_is_given_again_is_no_new_one(tmp_path):
    script = one_episode()
    first = script.messages[0]._replace(publish_ns=START - 500 * MS)
    script.messages[0] = first
    again = first._replace(receive_ns=START + 2 * PERIOD)
    script.messages.append(again)
    contract = contract_of(tmp_path)
    assert shape(script.events_of(contract)[0]) == [(6, 'terminated')]
    script.messages[-1] = again._replace(publish_ns=START + 2 * PERIOD - MS)  # sent again
    assert shape(script.events_of(contract)[0]) == [(2, 'restart'), (4, 'terminated')]


def test_events_that_say_nothing_new_change_nothing(tmp_path):
    plain, _ = one_episode().events_of(contract_of(tmp_path))
    script = one_episode()
    script.event(-700 * MS, 'abort')  # a latched end of what was before
    script.event(20 * MS, 'startled')
    script.messages.append(script.messages[0])  # the same message once more
    events, counters = script.events_of(contract_of(tmp_path))
    assert shape(events) == shape(plain)
    assert (counters['stray_event'], counters['unknown_event']) == (1, 1)


def test_without_a_word_for_the_start_an_episode_begins_behind_the_one_before(tmp_path):
    rule = {'topic': 'episode', 'success': 'success', 'abort': 'abort'}
    script = Script()
    end = script.run(0, 4)
    script.event(end - 20 * MS, 'success')
    end = script.run(end, 5)
    script.event(end - 20 * MS, 'abort')
    events, _ = script.events_of(contract_of(tmp_path, change_recordings(events=rule)))
    assert shape(events) == [(4, 'terminated'), (5, 'abort')]


@pytest.mark.parametrize('shift', [13 * MS, -13 * MS, 50 * MS])
def test_a_command_that_is_not_a_period_behind_the_last_one_begins_a_segment(shift, tmp_path):
    script = Script()
    script.event(-MS, 'start')
    end = script.run(0, 4) + shift
    script.run(end, 5)
    events, _ = script.events_of(contract_of(tmp_path))
    assert shape(events) == [(4, 'gap'), (5, 'shutdown')]
    events, _ = script.events_of(contract_of(tmp_path, change_recordings(tolerance_s=0.014)))
    assert shape(events) == (
        [(4, 'gap'), (5, 'shutdown')] if shift > 14 * MS else [(9, 'shutdown')]
    )


@pytest.mark.parametrize('wrong', ['nan', 'joint', 'bytes'])
def test_neighbours_of_a_message_that_cannot_be_used_are_not_joined(wrong, tmp_path):
    script = Script()
    script.event(-MS, 'start')
    script.run(0, 9)
    places = [i for i, m in enumerate(script.messages) if m.topic == '/joint_states']
    place = places[4]
    if wrong == 'bytes':
        message = script.messages[place]
        script.messages[place] = message._replace(data=message.data[:30])
    else:
        del script.messages[place]
        at = 4 * PERIOD - 5 * MS
        if wrong == 'nan':
            script.joints(at, float('nan'))
        else:
            script.joints(at, 1.0, names=('b',))
    events, counters = script.events_of(contract_of(tmp_path))
    assert shape(events) == [(3, 'missing_next_observation'), (4, 'shutdown')]
    assert counters['bad_message'] == 1 and counters['dropped_bad_observation'] == 1
    assert [s.stamp_ns - START for s in steps_of(events)] == [
        tick * PERIOD for tick in (0, 1, 2, 5, 6, 7, 8)
    ]


def test_a_bad_command_or_reward_drops_its_tick_alone(tmp_path):
    rule = {'topic': 'reward', 'type': 'std_msgs/msg/Float64'}
    contract = contract_of(tmp_path, change_recordings(reward=rule))
    script = Script()
    script.event(-MS, 'start')
    script.run(0, 12)
    for tick in range(12):
        script.reward(tick * PERIOD + 3 * MS, float('nan') if tick == 8 else tick)
    script.messages = [m for m in script.messages if not (m.topic == '/hand' and _tick_of(m) == 2)]
    script.messages = [
        m for m in script.messages if not (m.topic == '/reward' and _tick_of(m) == 5)
    ]
    events, counters = script.events_of(contract)
    assert shape(events) == [
        (2, 'missing_command'),
        (2, 'missing_reward'),
        (2, 'bad_reward'),
        (3, 'shutdown'),
    ]
    assert [step.reward for step in steps_of(events)] == [0, 1, 3, 4, 6, 7, 9, 10, 11]
    assert counters['bad_message'] == 1


def test_a_reward_that_is_no_message_is_not_replaced_by_the_one_behind_it(tmp_path):
    rule = {'topic': 'reward', 'type': 'std_msgs/msg/Float64'}
    contract = contract_of(tmp_path, change_recordings(reward=rule))
    script = Script()
    script.event(-MS, 'start')
    script.run(0, 6)
    for tick in range(6):
        script.reward(tick * PERIOD + 3 * MS, tick)
    place = next(i for i, m in enumerate(script.messages) if m.topic == '/reward')
    torn = script.messages[place]._replace(data=b'\0\1')
    script.messages[place] = torn
    script.reward(8 * MS, 99.0)
    events, counters = script.events_of(contract)
    assert shape(events) == [(5, 'shutdown')]
    assert (counters['bad_message'], counters['dropped_bad_reward']) == (1, 1)
    wanted = wanted_topics(contract, by_others=True)['/reward']
    check = MessageChecks(contract).of(wanted)
    with pytest.raises(MessageError):
        check(torn.data)
    script.reward(0, float('inf'))
    with pytest.raises(MessageError, match='reward is inf, wanted finite'):
        check(script.messages[-1].data)


def test_what_no_tick_took_is_counted(tmp_path):
    rule = {'topic': 'reward', 'type': 'std_msgs/msg/Float64'}
    contract = contract_of(tmp_path, change_recordings(reward=rule))
    script = Script()
    script.run(-3 * PERIOD, 2)
    script.hand(-3 * PERIOD + 4 * MS, 9.0)  # outside of the episode
    script.event(-20 * MS, 'start')
    script.run(0, 6)
    for tick in range(6):
        script.reward(tick * PERIOD + 3 * MS, tick)
    before, counters = script.events_of(contract)
    assert (counters['unused_reward'], counters['unused_command']) == (0, 0)
    script.reward(2 * PERIOD + 6 * MS, 99.0)  # the second one
    script.reward(3 * PERIOD + 6 * MS, 99.0)
    script.reward(-15 * MS, 99.0)  # before the first tick
    script.hand(4 * PERIOD + 3 * MS, 99.0)
    events, counters = script.events_of(contract)
    assert [plain(event) for event in events] == [plain(event) for event in before]
    assert shape(events) == [(6, 'shutdown')]
    assert (counters['unused_reward'], counters['unused_command']) == (3, 1)
    latest = contract_of(
        tmp_path, change_recordings(reward=rule, commands={'hand': {'match': 'latest'}})
    )
    _, counters = script.events_of(latest)
    assert (counters['unused_reward'], counters['unused_command']) == (3, 0)


def test_training_reads_the_topics_that_inspection_judges_but_images(tmp_path):
    rule = {'topic': 'reward', 'type': 'std_msgs/msg/Float64'}

    def change(data):
        data['recordings']['reward'] = rule
        eye = {'topic': 'eye', 'type': 'sensor_msgs/msg/Image'}
        data['features']['observation.images.eye'] = eye

    contract = contract_of(tmp_path, change)
    judged = wanted_topics(contract, by_others=True)
    assert judged.pop('/eye').role == 'image'
    assert types_wanted(contract) == {name: topic.type for name, topic in judged.items()}
    assert set(judged) == {'/joint_states', '/twist', '/hand', '/reward', '/episode'}


def test_a_tick_does_not_take_the_command_of_a_neighbour_that_was_lost(tmp_path):
    script = Script()
    script.event(-MS, 'start')
    script.run(0, 6)
    script.messages = [
        message
        for message in script.messages
        if (message.topic, _tick_of(message)) not in {('/hand', 2), ('/twist', 3)}
    ]
    events, counters = script.events_of(contract_of(tmp_path))
    assert shape(events) == [(2, 'missing_command'), (2, 'shutdown')]
    assert [step.action[1] for step in steps_of(events)] == [0, 1 / 256, 4 / 256, 5 / 256]
    assert counters['dropped_missing_command'] == 1


def test_a_tick_does_not_take_the_reward_of_one_outside_its_episode(tmp_path):
    rule = {'topic': 'reward', 'type': 'std_msgs/msg/Float64'}
    contract = contract_of(tmp_path, change_recordings(reward=rule))
    script = Script()
    script.event(-MS, 'start')
    for tick, at in enumerate((0, 50, 100, 146)):
        script.tick(at * MS, tick / 8)
        if tick != 2:
            script.reward((at + 3) * MS, tick)  # the last one lies in the window of tick 2 too
    script.event(110 * MS, 'success')
    events, counters = script.events_of(contract)
    assert shape(events) == [(2, 'missing_reward')]
    assert (counters['dropped_missing_reward'], counters['episodes_without_end']) == (1, 1)


def test_what_is_beyond_a_float32_is_not_seen(tmp_path):
    script = one_episode()
    script.joints(2 * PERIOD - 2 * MS, 1e39)
    events, counters = script.events_of(contract_of(tmp_path))
    assert shape(events) == [(1, 'missing_next_observation'), (3, 'terminated')]
    assert counters['dropped_bad_observation'] == 1


def _tick_of(message):
    return (message.receive_ns - START) // PERIOD


def test_a_stamp_far_from_its_receipt_is_not_used(tmp_path):
    script = one_episode()
    script.joints(0 - 2 * MS, 99.0, delay=600 * MS)  # newest at tick 0 by its stamp
    script.twist(25 * MS, 99.0, delay=-600 * MS)
    events, counters = script.events_of(contract_of(tmp_path))
    assert shape(events) == [(6, 'terminated')]
    assert steps_of(events)[0].observation.tolist() == [0.0, 0.0]
    assert counters['stamp_out_of_tolerance'] == 2


def test_a_stamp_of_zero_is_the_receipt(tmp_path):
    script = Script(delay=0)
    script.event(-MS, 'start')
    for tick in range(5):
        at = tick * PERIOD
        script.joints(at - 5 * MS, 1.0, stamp=0)
        script.twist(at, 0.25, stamp=0)
        script.hand(at + MS, 0.0)
    events, _ = script.events_of(contract_of(tmp_path))
    assert [s.stamp_ns - START for s in steps_of(events)] == [t * PERIOD for t in range(5)]


def test_a_command_that_is_sent_only_when_it_changes_holds_on(tmp_path):
    rule = change_recordings(commands={'hand': {'match': 'latest'}})
    script = Script()
    script.event(-MS, 'start')
    script.hand(-5000 * MS, 0.5)
    for tick in range(6):
        script.joints(tick * PERIOD - 5 * MS, 1.0)
        script.twist(tick * PERIOD, 0.25)
    script.hand(3 * PERIOD, -0.5)
    events, _ = script.events_of(contract_of(tmp_path, rule))
    assert [step.action[1] for step in steps_of(events)] == [0.5] * 3 + [-0.5] * 3


def test_on_a_grid_of_the_period_each_tick_has_the_latest_command(tmp_path):
    """Commands at 125 Hz, the first one 3 ms behind the start."""
    contract = contract_of(tmp_path, change_recordings(grid='period'))
    script = Script()
    script.event(-2 * MS, 'start')
    for place in range(80):
        at = 3 * MS + place * 8 * MS
        if 300 * MS < at < 500 * MS:
            continue  # the person let go
        script.twist(at, 0.25 + place / 1024)
    for place in range(80):  # which goes on
        script.hand(3 * MS + place * 8 * MS, place / 256)
    for at in range(0, 700, 10):
        script.joints(at * MS, at / 1024)
    script.event(640 * MS, 'success')
    events, counters = script.events_of(contract)
    grid = [3 + 50 * tick for tick in range(13)]
    # Fresh until a period and the tolerance behind the last command, which came at 299 ms.
    kept = [at for at in grid if at <= 299 + 62 or at >= 507]
    steps = steps_of(events)
    assert [(step.stamp_ns - START) // MS for step in steps] == kept
    assert [step.action[0] for step in steps] == [
        min((at - 3) // 8, 37 if at < 500 else 99) / 512 for at in kept
    ]
    assert [step.action[1] for step in steps] == [(at - 3) // 8 / 256 for at in kept]
    assert [step.observation[0] for step in steps] == [at // 10 * 10 / 1024 for at in kept]
    assert shape(events) == [(8, 'missing_command'), (2, 'terminated')]
    assert counters['dropped_missing_command'] == 3


@pytest.mark.parametrize('grid', ['commands', 'period'])
def test_a_clock_that_is_set_forward_by_years_is_a_gap(grid, tmp_path):
    script = Script()
    script.event(-MS, 'start')
    script.run(0, 6)
    years = 13 * 365 * 86_400 * 1_000_000_000
    script.event(script.run(years, 5) - PERIOD + MS, 'success')
    events, counters = script.events_of(contract_of(tmp_path, change_recordings(grid=grid)))
    late = grid == 'period'  # the first message of the hand comes behind its tick
    assert shape(events) == [(6 - late, 'gap'), (5 - late, 'terminated')]
    assert counters['dropped_missing_command'] == 2 * late


def with_position(relative):
    """The first command is a joint's position, which is also seen."""

    def change(data):
        data['action']['commands'][0] = {
            'topic': 'twist',
            'type': 'sensor_msgs/msg/JointState',
            'fields': [
                {'field': 'position', 'name': 'a', 'action': 'vx', 'scale': 0.5, 'offset': 0.25}
                | ({'relative': relative} if relative else {})
            ],
        }
        data['action']['hold'] = [-0.5 if relative else None, 0.0]
        data['features']['observation.state'].append({'previous': 'action', 'names': ['vx']})

    return change


def position_script(values):
    script = Script()
    script.event(-MS, 'start')
    for tick, value in enumerate(values):
        at = tick * PERIOD
        script.joints(at - 5 * MS, tick / 16)
        script.joints(at, value)
        message = script.messages.pop()
        script.messages.append(message._replace(topic='/twist'))
        script.hand(at, 0.0)
    return script


@pytest.mark.parametrize('relative', ['', 'command', 'measured'])
def test_action_rows_undo_the_commands_and_are_seen_one_tick_later(relative, tmp_path):
    contract = contract_of(tmp_path, with_position(relative))
    values = [0.5, 0.75, 1.5, 1.0, 0.0]
    # The joint state is received before the command of the same topic type.
    events, _ = position_script(values).events_of(contract)
    reference = {
        '': [0.0] * 5,
        'command': [np.nan, *values[:-1]],
        'measured': [tick / 16 for tick in range(5)],
    }[relative]
    rows = ((np.array(values) - reference) - 0.25) / 0.5
    first = 1 if relative == 'command' else 0  # added to what nobody recorded
    steps = steps_of(events)
    assert np.array_equal([step.action[0] for step in steps], rows[first:].astype(np.float32))
    # Where there was no row: where it is, or the row that holds.
    measured = [(tick / 16 - 0.25) / 0.5 for tick in range(5)]
    none = [-0.5] * 5 if relative else measured
    before = [none[first], *rows[first:-1]]
    assert np.array_equal([step.observation[2] for step in steps], np.float32(before))
    assert events[-1].final_observation[2] == np.float32(rows[-1])


@pytest.mark.parametrize('relative', ['', 'measured'])
def test_behind_a_gap_there_is_no_previous_action(relative, tmp_path):
    contract = contract_of(tmp_path, with_position(relative))
    script = position_script([0.5] * 8)
    # Tick 2 has no command; what tick 6 looks at cannot be used.
    script.messages = [m for m in script.messages if (m.topic, _tick_of(m)) != ('/twist', 2)]
    script.joints(6 * PERIOD - 4 * MS, float('nan'))
    steps = steps_of(script.events_of(contract)[0])
    ticks = [(step.stamp_ns - START) // PERIOD for step in steps]
    assert ticks == [0, 1, 3, 4, 7]
    row = [(0.5 - (tick / 16 if relative else 0.0) - 0.25) / 0.5 for tick in range(8)]
    none = [-0.5 if relative else (tick / 16 - 0.25) / 0.5 for tick in range(8)]
    # A row that is added to what was measured is not known where nothing was.
    before = [none[0], row[0], none[3], row[3], none[7] if relative else row[6]]
    assert [step.observation[2] for step in steps] == [np.float32(number) for number in before]


def test_a_block_is_split_without_loss():
    generator = np.random.default_rng(0)
    ends = np.array([1, 4, 5, 9, 10])
    block = StepBlock(
        stamp_ns=np.arange(10),
        observation=generator.random((10, 3), np.float32),
        action=generator.random((10, 2), np.float32),
        reward=generator.random(10),
        terminated=generator.random(10) < 0.5,
        success=generator.random(10) < 0.5,
        source=np.ones(10, np.uint8),
        chunk=np.full(10, -1),
        index=np.zeros(10, np.int64),
        episode=np.arange(10) // 4,
        planned_row=np.zeros(0, np.int64),
        planned=np.zeros((0, 0, 2), np.float32),
        end_after=ends,
        final_observation=generator.random((5, 3), np.float32),
        truncated=generator.random(5) < 0.5,
        episode_end=generator.random(5) < 0.5,
        reason=('a', 'b', 'c', 'd', 'e'),
    )
    for most_steps in range(1, 12):
        parts = list(split_block(block, most_steps))
        assert max(map(len, parts)) <= most_steps
        again = [plain(event) for part in parts for event in part.events()]
        assert again == [plain(event) for event in block.events()]


def plain(event):
    if isinstance(event, Step):
        return step_digest(event)
    return event.final_observation.tobytes(), event.truncated, event.reason, event.episode_end


def test_a_clock_that_is_set_back_begins_anew(tmp_path):
    script = Script()
    script.event(-MS, 'start')
    script.run(0, 6)
    first = sorted(script.messages, key=lambda message: message.receive_ns)
    script.messages.clear()
    script.event(-3000 * MS, 'start')
    script.run(-2990 * MS, 5)
    events, counters = script.events_of(contract_of(tmp_path), before=first)
    assert shape(events) == [(6, 'shutdown'), (5, 'shutdown')]
    assert counters['clock_set_back'] == 1
    assert [step.episode for step in steps_of(events)] == [0] * 6 + [1] * 5


def test_labels_count_once_where_the_clock_was_set_back(tmp_path):
    before = Script()
    before.run(0, 8)
    first = sorted(before.messages, key=lambda message: message.receive_ns)
    script = Script()
    script.run(-2990 * MS, 8)
    labels = Labels(
        START - 3000 * MS,
        (
            Label(0.0, 0.25, 'success'),  # of what was recorded last
            Label(2.0, 2.25, 'failure'),  # of nothing
            Label(2.95, 3.26, 'abort'),  # of what was recorded first
        ),
    )
    events, counters = script.events_of(contract_of(tmp_path), labels, before=first)
    assert counters['clock_set_back'] == 1
    assert shape(events) == [(6, 'abort'), (5, 'terminated')]
    assert [step.episode for step in steps_of(events)] == [2] * 6 + [0] * 5
    assert (counters['episodes'], counters['episodes_without_end']) == (2, 1)


ticks = st.lists(
    st.fixed_dictionaries(
        {
            'shift': st.sampled_from([0, 0, 0, 4, -4, 30, 100]),
            'lost': st.sampled_from(['', '', '', '', '', 'twist', 'hand', 'reward', 'joints']),
            'bad': st.sampled_from(['', '', '', '', 'nan', 'joint', 'twist', 'reward']),
            'copies': st.sampled_from([1, 1, 1, 2]),
            'event': st.sampled_from(['', '', '', '', 'start', 'success', 'abort']),
        }
    ),
    min_size=1,
    max_size=40,
)


@pytest.fixture(scope='module')
def random_contract(tmp_path_factory):
    reward = {'topic': 'reward', 'type': 'std_msgs/msg/Float64'}
    return contract_of(
        tmp_path_factory.mktemp('contract'), change_recordings(reward=reward, lead_s=0.01)
    )


@given(ticks, st.integers(0, 2**32))
@settings(max_examples=200)
def test_whatever_is_lost_or_wrong_steps_are_those_of_the_plain_rules(
    random_contract, script_of, seed
):
    chance = random.Random(seed)
    script = Script()
    joints, clock, hands, rewards = [], [], [], []
    episodes, begin = [], None
    at = 0
    for number, tick in enumerate(script_of):
        at += PERIOD + tick['shift'] * MS
        for sensor in (at - 37 * MS, at - 17 * MS):
            if tick['lost'] == 'joints':
                continue
            value = number + chance.random()
            bad = tick['bad'] in ('nan', 'joint') and sensor == at - 17 * MS
            shown = float('nan') if bad and tick['bad'] == 'nan' else value
            names = ('b',) if bad and tick['bad'] == 'joint' else ('a', 'b')
            for _ in range(tick['copies']):  # late, and so out of order; and twice
                script.joints(sensor, shown, value, names, delay=chance.randrange(90) * MS)
            joints.append((START + sensor, None if bad else (value, value)))
        if tick['lost'] != 'twist':
            bad = tick['bad'] == 'twist'
            script.twist(at, float('nan') if bad else value_of(number))
            clock.append((START + at, None if bad else value_of(number)))
        if tick['lost'] != 'hand':
            script.hand(at + 2 * MS, number / 64)
            hands.append((START + at + 2 * MS, number / 64))
        if tick['lost'] != 'reward':
            bad = tick['bad'] == 'reward'
            script.reward(at + 3 * MS, float('nan') if bad else number)
            rewards.append((START + at + 3 * MS, None if bad else float(number)))
        if tick['event']:
            now = START + at + 8 * MS
            script.event(at + 8 * MS, tick['event'])
            if begin is not None:
                ended = '' if tick['event'] == 'start' else tick['event']
                episodes.append((begin, now - 1 if not ended else now, ended))
            begin = now if tick['event'] == 'start' else None
    if begin is not None:
        episodes.append((begin, float('inf'), ''))
    recorded = Recorded({'joints': joints}, clock, {'hand': hands}, rewards, episodes)
    rules = Rules(
        period=PERIOD,
        tolerance=TOLERANCE,
        lead=10 * MS,
        max_age={'joints': 100 * MS},
        windows={'hand': (-PERIOD / 2, PERIOD / 2)},
        reward_window=(0, PERIOD),
    )
    wanted = expected(
        recorded,
        rules,
        lambda values: values['joints'],
        lambda command, others: ((command - 0.25) / 0.5, others['hand']),
    )
    # Where nothing at all can be used a bag is refused; here one message of each kind can.
    script.joints(-900 * MS, 0.0)
    script.twist(-900 * MS, 0.25)
    script.hand(-900 * MS, 0.0)
    script.reward(-900 * MS, 0.0)
    events, _ = script.events_of(random_contract)
    got = [
        (
            event.stamp_ns,
            tuple(event.observation),
            tuple(event.action),
            event.reward,
            event.terminated,
            event.success,
            event.episode,
        )
        if isinstance(event, Step)
        else (tuple(event.final_observation), event.truncated, event.episode_end)
        for event in events
    ]
    plain = []
    for segment in wanted:
        for stamp, observation, action, *rest in segment.steps:
            plain.append((stamp, singles(observation), singles(action), *rest))
        plain.append((singles(segment.final), segment.truncated, segment.episode_end))
    assert got == plain


def value_of(number):
    return 0.25 + number / 128


def singles(numbers):
    return tuple(np.array(numbers, np.float32))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 255), st.booleans()
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=200)
def test_whatever_bytes_there_are_nothing_is_raised_and_no_step_is_made_up(
    random_contract, wounds
):
    script = Script()
    script.event(-MS, 'start')
    script.run(0, 12)
    for tick in range(12):
        script.reward(tick * PERIOD + 3 * MS, tick)
    script.event(11 * PERIOD + 10 * MS, 'success')
    whole, _ = script.events_of(random_contract)
    for which, at, byte, cut in wounds:
        place = which % len(script.messages)
        data = bytearray(script.messages[place].data)
        at %= max(1, len(data))
        data[at:] = b'' if cut else bytes([byte]) + data[at + 1 :]
        script.messages[place] = script.messages[place]._replace(data=bytes(data))
    # A number may have been changed, which nobody can see; a stamp or an event, too.
    events, counters = script.events_of(random_contract)
    steps = steps_of(events)
    assert len(steps) == counters['steps'] <= len(steps_of(whole)) == 11
    assert [step.stamp_ns for step in steps] == sorted({step.stamp_ns for step in steps})
    assert all(np.isfinite(step.observation).all() for step in steps)
    assert all(np.isfinite(step.action).all() for step in steps)
    assert sum(step.terminated for step in steps) <= 1


def test_labels_of_a_script_cut_by_receipt(tmp_path):
    script = Script()
    script.run(0, 10)
    labels = Labels(START, (Label(0.1, 0.3, 'failure'),))
    contract = contract_of(tmp_path, change_recordings(reward={'failure': -2.0, 'step': -1.0}))
    events, _ = script.events_of(contract, labels)
    assert [(s.stamp_ns - START) // MS for s in steps_of(events)] == [100, 150, 200, 250]
    assert [step.reward for step in steps_of(events)] == [-1.0, -1.0, -1.0, -2.0]
    assert shape(events) == [(4, 'terminated')]
