# SPDX-License-Identifier: Apache-2.0
"""The assembler against sequences whose steps are known by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
from recorded_ticks import CONTRACT, PERIOD, POSE, STORE, T, Ticks, header, state

from qcfql_ros.data.assembler import Assembler
from qcfql_ros.data.session_mark import session_mark
from qcfql_ros.data.steps import SegmentEnd, Source, Step

S0 = 1_000_000_000_000


def assemble(ticks: Ticks, counters=None):
    assembler = Assembler(CONTRACT)
    events = [event for message in ticks.log for event in assembler.push(*message)]
    events += assembler.finish()
    if counters is not None:
        counters.update(assembler.counters)
    return events


def short(events) -> list[str]:
    """Steps as their tick number since S0, ends as reason, with ~ when truncated."""
    return [
        ('~' if event.truncated else '') + event.reason
        if isinstance(event, SegmentEnd)
        else str((event.stamp_ns - S0) // PERIOD)
        for event in events
    ]


def test_a_normal_episode_gives_its_steps_and_the_true_last_observation():
    ticks = Ticks()
    ticks.run(S0, 3, truncated=True)
    events = assemble(ticks)
    assert short(events) == ['0', '1', '2', '~timeout']
    for number, step in enumerate(events[:3]):
        assert isinstance(step, Step)
        np.testing.assert_array_equal(step.observation, state(number))
        np.testing.assert_array_equal(step.action, np.float32([number / 100, -0.5]))
        assert (step.reward, step.terminated, step.episode) == (-1.0, False, 0)
        assert step.source is Source.POLICY
    np.testing.assert_array_equal(events[3].final_observation, state(3))
    assert events[3].episode_end


def test_terminated_is_not_truncated():
    ticks = Ticks()
    ticks.run(S0, 2, terminated=True, success=True, reward=0.0)
    events = assemble(ticks)
    assert short(events) == ['0', '1', 'terminated']
    assert [step.terminated for step in events[:2]] == [False, True]
    assert events[1].success and events[2].episode_end


def test_a_step_is_given_out_as_soon_as_it_is_decided():
    ticks = Ticks()
    ticks.run(S0, 1, truncated=True)
    assembler = Assembler(CONTRACT)
    counts = [len(assembler.push(*message)) for message in ticks.log]
    assert counts == [0] * (len(ticks.log) - 1) + [2]


def test_two_episodes_are_two_segments():
    ticks = Ticks()
    after = ticks.run(S0, 2, terminated=True)
    ticks.run(after + PERIOD, 2, episode=1, truncated=True)
    assert short(assemble(ticks)) == ['0', '1', 'terminated', '3', '4', '~timeout']


def test_play_data_go_on_after_a_terminated_step():
    ticks = Ticks()
    ticks.sensors(S0, 0.0)
    for i in range(4):
        ticks.step(S0 + i * PERIOD)
        ticks.outcome(S0 + i * PERIOD, terminated=i == 1, ended=False)
        ticks.sensors(S0 + (i + 1) * PERIOD, i + 1.0)
    events = assemble(ticks)
    assert short(events) == ['0', '1', '2', '3', '~shutdown']
    assert [event.terminated for event in events[:4]] == [False, True, False, False]


def test_a_gap_in_the_stamps_cuts_with_the_observation_before_the_gap():
    ticks = Ticks()
    ticks.run(S0, 2)
    ticks.run(S0 + 5 * PERIOD, 2)
    events = assemble(ticks)
    assert short(events) == ['0', '1', '~gap', '5', '6', '~shutdown']
    np.testing.assert_array_equal(events[2].final_observation, state(2))
    assert not events[2].episode_end


def test_another_episode_of_policy_or_robot_cuts():
    for change in ('policy', 'robot'):
        ticks = Ticks()
        ticks.sensors(S0, 0.0)
        for i in range(2):
            ticks.robot_episode = i if change == 'robot' else 0
            ticks.step(S0 + i * PERIOD, episode=i if change == 'policy' else 0)
            ticks.outcome(S0 + i * PERIOD)
            ticks.sensors(S0 + (i + 1) * PERIOD, i + 1.0)
        assert short(assemble(ticks)) == ['0', '~gap', '1', '~shutdown'], change


def without(ticks: Ticks, topic: str, number: int) -> Ticks:
    """The same log without message `number` of `topic`."""
    places = [i for i, message in enumerate(ticks.log) if message[0] == topic]
    del ticks.log[places[number]]
    return ticks


def test_a_missing_outcome_drops_that_step_and_cuts_there():
    ticks = Ticks()
    ticks.run(S0, 5, truncated=True)
    counters = {}
    events = assemble(without(ticks, '/outcome', 2), counters)
    assert short(events) == ['0', '1', '~missing_outcome', '3', '4', '~timeout']
    np.testing.assert_array_equal(events[2].final_observation, state(2))
    assert counters['dropped_missing_outcome'] == 1


def test_a_missing_observation_drops_the_steps_on_both_its_sides():
    ticks = Ticks()
    ticks.run(S0, 5, truncated=True)
    counters = {}
    events = assemble(without(ticks, '/goal_pose', 2), counters)
    assert short(events) == ['0', '~missing_next_observation', '3', '4', '~timeout']
    assert counters['dropped_missing_next_observation'] == 1
    assert counters['dropped_missing_observation'] == 1


def test_a_nan_drops_the_steps_that_would_see_it():
    ticks = Ticks()
    ticks.sensors(S0, 0.0)
    for i in range(5):
        ticks.step(S0 + i * PERIOD)
        ticks.outcome(S0 + i * PERIOD)
        ticks.sensors(S0 + (i + 1) * PERIOD, float('nan') if i == 2 else i + 1.0)
    counters = {}
    events = assemble(ticks, counters)
    assert short(events) == ['0', '1', '~missing_next_observation', '4', '~shutdown']
    assert counters['bad_message'] == 1
    assert counters['dropped_bad_observation'] == 1


def test_a_reward_or_an_action_that_is_nan_drops_its_step():
    for what in ('reward', 'action'):
        ticks = Ticks()
        ticks.sensors(S0, 0.0)
        for i in range(4):
            bad = i == 1
            ticks.step(S0 + i * PERIOD, (float('nan') if bad and what == 'action' else 0.0, 0.0))
            ticks.outcome(S0 + i * PERIOD, float('inf') if bad and what == 'reward' else -1.0)
            ticks.sensors(S0 + (i + 1) * PERIOD, i + 1.0)
        events = assemble(ticks)
        reason = '~bad_outcome' if what == 'reward' else '~gap'
        assert short(events) == ['0', reason, '2', '3', '~shutdown'], what


def test_garbage_in_any_topic_is_counted_and_raises_nothing():
    ticks = Ticks()
    ticks.run(S0, 2)
    for topic in ('/joint_states', '/goal_pose', '/outcome', '/policy/step', '/policy/chunk'):
        ticks.add(topic, b'\x00\x01\x00\x00garbage')
    ticks.add('/of_somebody_else', b'')
    counters = {}
    assert short(assemble(ticks, counters)) == ['0', '1', '~shutdown']
    assert counters['bad_message'] == 5


def test_a_halt_cuts_and_is_no_step():
    ticks = Ticks()
    stamp = ticks.run(S0, 2)
    ticks.step(stamp, (0.0, 0.0), source=int(Source.HALT))
    events = assemble(ticks)
    assert short(events) == ['0', '1', '~halt']
    np.testing.assert_array_equal(events[2].final_observation, state(2))


def test_duplicates_change_nothing():
    ticks = Ticks()
    ticks.run(S0, 4, terminated=True)
    wanted = short(assemble(ticks))
    twice = Ticks()
    for message in ticks.log:
        twice.add(message[0], message[2])
        twice.add(message[0], message[2])
    counters = {}
    assert short(assemble(twice, counters)) == wanted
    assert counters['duplicate'] >= len(ticks.log) - 1


def test_a_robot_started_again_cuts_and_begins_anew():
    ticks = Ticks()
    ticks.run(S0, 3)
    ticks.robot_episode = ticks.tick = 0
    ticks.run(S0, 2)
    counters = {}
    events = assemble(ticks, counters)
    assert short(events) == ['0', '1', '2', '~stamps_went_back', '0', '1', '~shutdown']
    assert counters['stamps_went_back'] == 1


def test_a_session_mark_ends_what_a_killed_learner_left_open():
    ticks = Ticks()
    stamp = ticks.run(S0, 3)
    ticks.step(stamp)  # its outcome was never recorded
    ticks.add('/learner/session', session_mark('c', 'h', 1))
    ticks.run(stamp + PERIOD, 1)
    events = assemble(ticks)
    assert short(events) == ['0', '1', '2', '~missing_outcome', '4', '~shutdown']


def test_the_planned_chunk_comes_with_its_first_step():
    ticks = Ticks()
    ticks.sensors(S0, 0.0)
    for i in range(6):
        stamp = S0 + i * PERIOD
        if i % 3 == 0:
            ticks.chunk(stamp, i // 3)
        ticks.step(stamp, chunk=i // 3, index=i % 3)
        ticks.outcome(stamp)
        ticks.sensors(stamp + PERIOD, i + 1.0)
    events = assemble(ticks)
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.planned is not None for step in steps] == [True, False, False] * 2
    np.testing.assert_array_equal(
        steps[3].planned, np.float32([[1.0, -0.5], [1.1, -0.5], [1.2, -0.5], [1.3, -0.5]])
    )


def test_a_first_step_waits_for_a_chunk_that_comes_after_it():
    ticks = Ticks()
    ticks.sensors(S0, 0.0)
    ticks.step(S0, chunk=0)
    ticks.outcome(S0)
    ticks.sensors(S0 + PERIOD, 1.0)
    assembler = Assembler(CONTRACT)
    assert not [event for message in ticks.log for event in assembler.push(*message)]
    ticks.chunk(S0, 0)
    (step,) = assembler.push(*ticks.log[-1])
    assert step.planned is not None


def test_a_chunk_that_never_comes_is_counted_and_its_step_kept():
    ticks = Ticks()
    ticks.sensors(S0, 0.0)
    for i in range(3):
        ticks.step(S0 + i * PERIOD, chunk=0, index=i)
        ticks.outcome(S0 + i * PERIOD)
        ticks.sensors(S0 + (i + 1) * PERIOD, i + 1.0)
        ticks.wait(1.5)
    counters = {}
    events = assemble(ticks, counters)
    assert short(events) == ['0', '1', '2', '~shutdown']
    assert events[0].planned is None
    assert counters['missing_chunk'] == 1


def test_a_chunk_that_saw_other_observations_drops_its_first_step():
    ticks = Ticks()
    ticks.sensors(S0, 0.0)
    for i in range(3):
        stamp = S0 + i * PERIOD
        if i == 1:
            ticks.chunk(stamp, 1, {'joint_states': stamp, 'goal': stamp - PERIOD})
        ticks.step(stamp, chunk=1 if i else -1, index=max(0, i - 1))
        ticks.outcome(stamp)
        ticks.sensors(stamp + PERIOD, i + 1.0)
    counters = {}
    events = assemble(ticks, counters)
    assert short(events) == ['0', '~observation_mismatch', '2', '~shutdown']
    assert counters['dropped_observation_mismatch'] == 1


def test_in_lockstep_a_robot_that_waits_long_is_not_late():
    ticks = Ticks()
    ticks.sensors(S0, 0.0)
    for i in range(3):
        ticks.step(S0 + i * PERIOD)
        ticks.wait(60.0)  # no credits
        ticks.outcome(S0 + i * PERIOD)
        ticks.wait(60.0)
        ticks.sensors(S0 + (i + 1) * PERIOD, i + 1.0)
    assert short(assemble(ticks)) == ['0', '1', '2', '~shutdown']


def wall_run(count: int, lead_ns: int = 0, **last) -> Ticks:
    """Sensors half a period before each tick, and at twice the rate in between."""
    ticks = Ticks(lockstep=False, lead_ns=lead_ns)
    start = 1_700_000_000_000_000_000
    moments = []
    for i in range(count + 1):
        at = start + i * PERIOD
        moments.append((at - PERIOD // 2, 'sensors', i + 0.5))
        moments.append((at - PERIOD // 4, 'sensors', i + 0.75))
        if i < count:
            moments.append((at, 'step', i))
            moments.append((at + PERIOD // 2 - 1, 'outcome', i))
    for at, what, number in sorted(moments):
        ticks.now_ns = at
        if what == 'sensors':
            ticks.sensors(at, number)
        elif what == 'step':
            ticks.step(at)
        else:
            ticks.outcome(at - PERIOD // 2 + 1, **(last if number == count - 1 else {}))
    return ticks


def test_on_the_wall_clock_the_latest_message_before_the_lead_counts():
    for lead, offset in ((0, 0.75), (PERIOD // 4, 0.75), (PERIOD // 4 + 1, 0.5)):
        ticks = wall_run(3, lead)
        ticks.now_ns += 2 * PERIOD
        ticks.sensors(ticks.now_ns, 9.0)
        steps = [event for event in assemble(ticks) if isinstance(event, Step)]
        assert len(steps) == 3
        for number, step in enumerate(steps):
            np.testing.assert_array_equal(step.observation, state(number + offset))


def test_on_the_wall_clock_an_end_is_decided_even_if_the_robot_falls_silent():
    ticks = wall_run(3, 0, terminated=True)
    events = assemble(ticks)
    assert [type(event).__name__ for event in events] == ['Step'] * 3 + ['SegmentEnd']
    np.testing.assert_array_equal(events[3].final_observation, state(3.75))


def test_on_the_wall_clock_silence_gives_the_last_step_up():
    ticks = wall_run(3)
    ticks.log = [m for m in ticks.log if m[1] < ticks.log[-1][1] - PERIOD]
    ticks.wait(3.0)
    ticks.add('/policy/chunk', b'')
    counters = {}
    events = assemble(ticks, counters)
    assert [type(event).__name__ for event in events] == ['Step', 'SegmentEnd']
    assert counters['dropped_missing_next_observation'] == 1


def test_on_the_wall_clock_a_stamp_far_from_its_receipt_is_not_used():
    ticks = wall_run(3)
    ticks.log = [
        (topic, now + (2_000_000_000 if topic == '/goal_pose' else 0), data)
        for topic, now, data in ticks.log
    ]
    ticks.log.sort(key=lambda message: message[1])
    assert not [event for event in assemble(ticks) if isinstance(event, Step)]


def test_an_orientation_that_is_no_rotation_is_counted_only_if_it_is_read():
    # point_reach reads the goal's position alone: its orientation may be anything.
    ticks = Ticks()
    ticks.run(S0, 1)
    pose = T['geometry_msgs/msg/Pose'](
        T['geometry_msgs/msg/Point'](1.0, 2.0, 0.0),
        T['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 0.0),
    )
    message = T[POSE](header(S0 + 2 * PERIOD), pose)
    ticks.add('/goal_pose', bytes(STORE.serialize_cdr(message, POSE)))
    counters = {}
    assemble(ticks, counters)
    assert 'bad_message' not in counters


def test_a_namespace_moves_every_topic():
    ticks = Ticks()
    ticks.run(S0, 3, truncated=True)
    assembler = Assembler(CONTRACT, 'arm1')
    for topic, now, data in ticks.log:
        assert not assembler.push(topic, now, data), 'another robot'
    events = []
    for topic, now, data in ticks.log:
        events += assembler.push(f'/arm1{topic}', now + ticks.now_ns, data)
    assert short(events) == ['0', '1', '2', '~timeout']


def test_a_failure_costs_what_the_contract_names_and_nothing_more() -> None:
    for named, wanted in ((-5.0, -6.0), (None, -1.0)):
        outcome = dataclasses.replace(CONTRACT.outcome, failure_reward=named)
        assembler = Assembler(dataclasses.replace(CONTRACT, outcome=outcome))
        for success, price in ((False, wanted), (True, -1.0)):
            ticks = Ticks()
            ticks.run(S0 + success * 100 * PERIOD, 2, terminated=True, success=success)
            events = [event for message in ticks.log for event in assembler.push(*message)]
            steps = [event for event in events if isinstance(event, Step)]
            assert [step.reward for step in steps] == [-1.0, price], (named, success)
