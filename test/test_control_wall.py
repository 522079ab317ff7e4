# SPDX-License-Identifier: Apache-2.0
"""Wall pacing on a fake clock: phase, lead, misses, stale sensors, halts and episode ends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from control_parts import CHUNK, PERIOD_NS, POINT
from wall_rig import LEAD_NS, MS, OFFSET_NS, WallRig

from qcfql_ros.control.latest import LatestMessages, Sample
from qcfql_ros.control.wall import State
from qcfql_ros.errors import MessageError


def test_ticks_are_on_a_grid_half_a_period_after_the_first_stream():
    rig = WallRig(robot_ns=7 * MS)
    rig.run_until(2_000 * MS)
    stamps = [step.stamp_ns - OFFSET_NS for step in rig.sent.steps]
    assert len(stamps) >= 38
    assert {later - earlier for earlier, later in itertools.pairwise(stamps)} == {PERIOD_NS}
    assert abs((stamps[0] - 7 * MS) % PERIOD_NS - PERIOD_NS // 2) < 1000
    assert rig.counters.chunk_misses == rig.counters.holds == 0
    assert rig.sent.rows()[:6] == [(0, 0, i // CHUNK, i % CHUNK) for i in range(6)]


def test_a_chunk_uses_the_newest_sensors_a_lead_before_its_first_tick():
    rig = WallRig()
    rig.run_until(1_000 * MS)
    for chunk in rig.sent.chunks[1:]:
        used = chunk.observation_stamps['joint_states']
        assert used <= chunk.stamp_ns - LEAD_NS < used + PERIOD_NS
    assert {step.lead_ns for step in rig.sent.steps} == {LEAD_NS}


def test_a_late_chunk_is_a_miss_and_held_and_played_from_its_first_row_when_it_comes():
    rig = WallRig()
    rig.run_until(500 * MS)
    rig.slow_ns = 70 * MS
    rig.run_until(1_500 * MS)
    held = [s for s in rig.sent.steps if int(s.source) == 2]
    assert rig.counters.chunk_misses == len(held) > 0
    assert all(s.action.tolist() == list(POINT.action.hold) and s.chunk == -1 for s in held)
    played = [(chunk, index) for source, _, chunk, index in rig.sent.rows() if source == 0]
    assert played == [(i // CHUNK, i % CHUNK) for i in range(len(played))]  # none was skipped


def test_after_an_ended_outcome_nothing_moves_until_the_sensors_of_the_next_episode():
    rig = WallRig()
    rig.run_until(600 * MS)
    before = len(rig.sent.steps)
    final_at = rig.sensors_at
    rig.end_episode()
    rig.run_until(1_200 * MS)
    first = rig.sent.steps[before]
    assert (first.episode, first.index) == (1, 0)
    assert first.stamp_ns - OFFSET_NS > final_at + PERIOD_NS
    used = next(c for c in rig.sent.chunks if c.episode == 1)
    assert min(used.observation_stamps.values()) - OFFSET_NS > final_at
    assert first.stamp_ns - OFFSET_NS < final_at + 3 * PERIOD_NS  # and no longer than needed


def test_a_chunk_asked_for_before_the_end_is_not_played_after_it():
    rig = WallRig()
    rig.run_until(600 * MS)
    while not rig.requests:
        rig.run_until(rig.clock.time_ns + MS)
    rig.end_episode()
    ended_at = len(rig.sent.steps)
    rig.run_until(1_200 * MS)
    assert all(s.episode == 1 for s in rig.sent.steps[ended_at:])
    assert next(c for c in rig.sent.chunks if c.episode == 1).stamp_ns == (
        rig.sent.steps[ended_at].stamp_ns
    )


def test_a_silent_robot_is_held_then_left_and_taken_up_again_in_a_new_episode():
    rig = WallRig()
    rig.run_until(600 * MS)
    rig.silent = True
    rig.run_until(1_000 * MS)
    assert int(rig.sent.steps[-1].source) == 2
    assert "topic 'joint_states'" in rig.counters.reason
    rig.run_until(2_500 * MS)
    assert rig.driver.state is State.WAITING
    left = len(rig.sent.steps)
    rig.run_until(3_500 * MS)
    assert len(rig.sent.steps) == left
    rig.silent = False
    rig.run_until(4_000 * MS)
    assert rig.sent.rows()[left][:2] == (0, 1)


def test_a_message_that_cannot_be_used_refuses_the_chunk_planned_from_it():
    rig = WallRig()
    rig.run_until(600 * MS)
    rig.bad = ('goal',)
    rig.run_until(1_000 * MS)
    assert rig.counters.refused > 0
    assert int(rig.sent.steps[-1].source) == 2
    assert "stream 'goal'" in rig.counters.reason
    rig.bad = ()
    rig.run_until(1_300 * MS)
    assert int(rig.sent.steps[-1].source) == 0


def test_a_halt_between_two_episodes_ends_the_motion_of_the_last_one():
    rig = WallRig()
    rig.run_until(600 * MS)
    before = len(rig.sent.steps)
    rig.end_episode()
    while rig.driver.state is not State.WAITING:
        rig.run_until(rig.clock.time_ns + MS)
    rig.latch.halt('tested')
    rig.run_until(2_000 * MS)
    halted = [s for s in rig.sent.steps[before:] if int(s.source) == 3]
    assert len(halted) == 1 and halted[0] is rig.sent.steps[-1]
    assert halted[0].action.tolist() == list(POINT.action.hold)


def test_a_halt_is_obeyed_at_the_next_tick_and_only_once():
    rig = WallRig()
    rig.run_until(600 * MS)
    before = len(rig.sent.steps)
    rig.latch.halt('tested')
    rig.run_until(600 * MS + PERIOD_NS + MS)
    assert [int(s.source) for s in rig.sent.steps[before:]] == [3]
    rig.run_until(2_000 * MS)
    assert len(rig.sent.steps) == before + 1
    rig.latch.resume()
    rig.run_until(2_300 * MS)
    assert rig.sent.rows()[before + 1] == (0, 1, rig.sent.rows()[before + 1][2], 0)


def test_the_last_command_is_the_hold_row_on_the_grid():
    rig = WallRig()
    rig.run_until(630 * MS)
    last = rig.sent.steps[-1].stamp_ns
    rig.driver.stop()
    end = rig.sent.steps[-1]
    assert int(end.source) == 3
    assert end.action.tolist() == list(POINT.action.hold)
    assert (end.stamp_ns - last) % PERIOD_NS == 0
    assert end.stamp_ns > last


def test_nothing_is_sent_before_every_stream_is_there():
    rig = WallRig()
    rig.silent = True
    rig.run_until(500 * MS)
    rig.driver.stop()
    assert rig.sent.steps == []
    assert "'joint_states'" in rig.driver.check()


def test_an_observation_before_the_first_message_is_refused_by_name():
    latest = LatestMessages(POINT)
    latest.put('joint_states', Sample(10, 10, np.zeros(4)))
    with pytest.raises(MessageError, match="'goal'"):
        latest.observe(20)
    latest.put('goal', Sample(30, 30, np.zeros(2)))
    with pytest.raises(MessageError, match="'goal': no message stamped at or before 20"):
        latest.observe(20)
    assert latest.observe(30)[1] == {'joint_states': 10, 'goal': 30}
