# SPDX-License-Identifier: Apache-2.0
"""Lockstep: one tick for each complete set of sensors, and what interrupts it."""

from __future__ import annotations

import numpy as np
import pytest
from control_parts import CHUNK, PERIOD_NS, POINT, CountingPolicy, Sent

from qcfql_ros.contract.named_vector import Outcome
from qcfql_ros.control.commander import Commander
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.halt import HaltLatch
from qcfql_ros.control.lockstep import LockstepDriver
from qcfql_ros.control.planner import Planner

START_NS = 1_000_000_000_000
VALUES = {'joint_states': np.zeros(4), 'goal': np.zeros(2)}


class Rig:
    """A driver, and a robot made of calls."""

    def __init__(self, connected=lambda: True, contract=POINT):
        self.policy = CountingPolicy()
        self.sent = Sent()
        self.counters = Counters()
        self.latch = HaltLatch(None)
        self.planner = Planner(self.policy, 0, self.counters)
        commander = Commander(contract, self.sent, self.counters, lockstep=True)
        self.driver = LockstepDriver(
            contract, self.planner, commander, self.latch, self.counters, connected
        )

    def stamp(self, tick):
        return START_NS + tick * PERIOD_NS

    def sensors(self, tick, values=VALUES):
        for name in ('joint_states', 'goal'):
            self.driver.on_sensor(name, self.stamp(tick), values[name])

    def outcome(self, tick, ended=False):
        outcome = Outcome(self.stamp(tick), 0.0, ended, False, ended, 0, tick + 1, ended)
        self.driver.on_outcome(outcome)

    def ticks(self, first, last):
        for tick in range(first, last):
            self.sensors(tick)
            self.outcome(tick)


def test_a_tick_carries_the_stamp_of_its_complete_set():
    rig = Rig()
    rig.driver.on_sensor('joint_states', rig.stamp(0), VALUES['joint_states'])
    assert rig.sent.steps == []
    rig.driver.on_sensor('goal', rig.stamp(0), VALUES['goal'])
    assert [step.stamp_ns for step in rig.sent.steps] == [rig.stamp(0)]
    assert rig.sent.steps[0].lockstep
    assert rig.sent.steps[0].lead_ns == 0


def test_nothing_is_commanded_before_the_outcome_of_the_last_tick():
    rig = Rig()
    rig.sensors(0)
    rig.sensors(1)
    assert len(rig.sent.steps) == 1
    rig.outcome(0)
    assert len(rig.sent.steps) == 2


def test_one_plan_serves_k_ticks_and_is_announced_with_its_first():
    rig = Rig()
    rig.ticks(0, 9)
    assert len(rig.policy.seeds) == 3
    assert rig.sent.rows() == [(0, 0, i // CHUNK, i % CHUNK) for i in range(9)]
    assert [chunk.stamp_ns for chunk in rig.sent.chunks] == [rig.stamp(i) for i in (0, 4, 8)]
    assert rig.sent.chunks[1].observation_stamps == dict.fromkeys(POINT.streams, rig.stamp(4))


def test_nobody_acts_on_the_final_observation_and_the_chunk_ends_with_the_episode():
    rig = Rig()
    rig.ticks(0, 2)
    rig.sensors(2)
    rig.outcome(2, ended=True)
    rig.sensors(3)  # final
    rig.sensors(4)  # first of the next episode
    assert [step.stamp_ns for step in rig.sent.steps] == [rig.stamp(i) for i in (0, 1, 2, 4)]
    assert rig.sent.rows()[-1] == (0, 1, 1, 0)
    assert rig.counters.episodes == 2


def test_an_ended_outcome_may_come_after_the_sensors_that_follow_it():
    rig = Rig()
    rig.sensors(0)
    for name in ('joint_states', 'goal'):
        for tick in (1, 2):
            rig.driver.on_sensor(name, rig.stamp(tick), VALUES[name])
    rig.outcome(0, ended=True)
    assert [step.stamp_ns for step in rig.sent.steps] == [rig.stamp(0), rig.stamp(2)]
    assert rig.counters.lost_outcomes == 0


def test_a_message_that_cannot_be_used_is_held_and_the_chunk_dropped():
    rig = Rig()
    rig.ticks(0, 2)
    rig.sensors(2, {**VALUES, 'goal': None})
    rig.outcome(2)
    rig.ticks(3, 4)
    assert rig.sent.rows() == [(0, 0, 0, 0), (0, 0, 0, 1), (2, 0, -1, 0), (0, 0, 1, 0)]
    assert rig.sent.steps[2].action.tolist() == list(POINT.action.hold)
    assert (rig.counters.refused, rig.counters.holds) == (1, 1)
    assert "'goal'" in rig.counters.reason


def test_a_plan_that_is_not_finite_is_held_and_tried_again_at_the_next_tick():
    rig = Rig()
    rig.policy.actions[0, 0] = np.nan
    rig.ticks(0, 2)
    rig.policy.actions[0, 0] = 0.0
    rig.ticks(2, 3)
    assert [row[0] for row in rig.sent.rows()] == [2, 2, 0]
    assert rig.counters.refused == 2


def test_a_halt_sends_the_safe_command_once_and_a_resume_begins_anew():
    rig = Rig()
    rig.ticks(0, 2)
    rig.latch.halt('tested')
    rig.ticks(2, 5)  # the robot executes the safe command and goes on sending
    assert rig.sent.rows()[2:] == [(3, 0, -1, 0)]
    rig.latch.resume()
    rig.driver.advance()
    assert rig.sent.rows()[3] == (0, 1, 1, 0)


def test_a_robot_that_was_started_again_is_taken_up():
    rig = Rig()
    rig.ticks(0, 3)
    rig.sensors(3)  # commanded, but the robot dies before it executes
    rig.ticks(0, 2)
    assert rig.sent.rows()[4:] == [(0, 1, 1, 0), (0, 1, 1, 1)]


@pytest.mark.parametrize('executed', [0, 3])
def test_an_episode_that_the_robot_breaks_off_without_an_outcome_is_left(executed):
    rig = Rig()
    rig.ticks(0, executed)
    rig.sensors(executed)
    rig.sensors(executed + 10)
    assert rig.sent.rows()[-1][1:] == (1, 1, 0)
    assert rig.counters.lost_outcomes == 1


def test_an_outcome_lost_is_given_up_at_the_second_look():
    rig = Rig()
    rig.sensors(0)
    rig.sensors(1)
    rig.driver.check()
    assert len(rig.sent.steps) == 1
    rig.driver.check()
    assert rig.sent.rows()[-1] == (0, 1, 1, 0)


def test_what_is_waited_for_is_said_by_topic():
    rig = Rig()
    rig.driver.check()
    assert rig.driver.check() == 'sensor messages'
    rig.driver.on_sensor('joint_states', rig.stamp(0), VALUES['joint_states'])
    assert rig.driver.check() == 'a message on goal_pose'


def test_nothing_is_commanded_until_somebody_listens():
    listening = []
    rig = Rig(connected=lambda: bool(listening))
    rig.sensors(0)
    assert rig.sent.steps == []
    listening.append(1)
    rig.driver.advance()
    assert len(rig.sent.steps) == 1


def test_the_last_command_is_the_hold_row():
    rig = Rig()
    rig.driver.stop()
    assert rig.sent.steps == []  # nothing was ever commanded
    rig.ticks(0, 2)
    rig.driver.stop()
    last = rig.sent.steps[-1]
    assert (int(last.source), last.stamp_ns) == (3, rig.stamp(2))
    assert last.action.tolist() == list(POINT.action.hold)


def test_two_runs_with_one_seed_send_the_same():
    def run():
        rig = Rig()
        for episode in range(3):
            first = episode * 12
            rig.ticks(first, first + 10)
            rig.sensors(first + 10)
            rig.outcome(first + 10, ended=True)
            rig.sensors(first + 11)
        return [(s.stamp_ns, s.action.tolist()) for s in rig.sent.steps], rig.policy.seeds

    assert run() == run()
