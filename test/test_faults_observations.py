# SPDX-License-Identifier: Apache-2.0
"""Sensors that fall silent or lie, policies that plan nonsense: the robot is held."""

from __future__ import annotations

import itertools
import math
import time

import pytest
from fault_rig import Rig, make_policy, velocity_contract
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState

from qcfql_ros.contract.named_vector import decode_step

STALE = 'resume_after_stale: false'
RESUMES = (STALE, 'resume_after_stale: true\n  stop_after_s: 0.3')


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**changes):
        made.append(Rig(tmp_path, velocity_contract(tmp_path, **changes)))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


def still_since(rig, begin_ns):
    """Whether something was commanded since, and the last of it holds the robot."""
    since = [m for t, m in rig.commands if t > begin_ns]
    return bool(since) and not rig.moves(since[-1])


def test_a_sensor_that_falls_silent_holds_the_robot_then_halts_it_naming_the_topic(make):
    rig = make()
    rig.start_policy()
    rig.until_driving()
    rig.silent.add('goal_pose')
    begin_ns = time.monotonic_ns()
    rig.until(lambda: rig.value('state') == 'halted', 'the halt')
    rig.until(lambda: rig.beats[-1][1].frame_id == 'halted', 'the safe command')
    (message,) = rig.last_commands().values()
    assert not rig.moves(message)
    held = next(t for t, m in rig.commands if t > begin_ns and not rig.moves(m))
    # max_age 0.2 s after the last message, and a period; a busy machine adds to it.
    assert 0.1e9 < held - begin_ns < 0.6e9
    assert "topic 'goal_pose': last message is" in rig.status('policy: control')[1]
    rig.silent.clear()
    assert rig.ask('resume').success
    rig.until_driving()


def test_where_the_contract_says_so_driving_goes_on_when_the_sensor_is_back(make):
    rig = make(a=RESUMES)
    rig.start_policy()
    rig.until_driving()
    rig.silent.add('joint_states')
    rig.until(lambda: rig.value('state') == 'waiting', 'stop of holding')
    assert "'joint_states'" in rig.value('waiting_for')
    assert still_since(rig, 0)
    rig.silent.clear()
    rig.until_driving()


def test_a_sensor_that_is_not_a_number_holds_the_robot_while_it_is(make):
    rig = make()
    rig.start_policy()
    rig.until_driving()
    rig.x, begin_ns = math.nan, time.monotonic_ns()
    rig.until(lambda: still_since(rig, begin_ns), 'the hold')
    rig.until(lambda: "position of 'x' is nan" in rig.status('policy: control')[1], 'the reason')
    rig.x = 0.0
    rig.until_driving()


def overflow(network):
    kernels = network.network.kernels
    kernels[0][0] *= 1e38  # what x is multiplied with
    kernels[1] *= 1e3  # beyond float32, with either sign


def test_a_policy_that_overflows_is_not_obeyed_and_said(make):
    rig = make()
    model = make_policy(rig.contract, rig.folder, overflow)
    rig.start_policy(model=model)
    rig.until_driving()  # x is 0
    rig.x, begin_ns = 3.0, time.monotonic_ns()
    rig.until(lambda: still_since(rig, begin_ns), 'the hold')
    rig.until(lambda: 'finite' in rig.status('policy: control')[1], 'the reason')
    assert all(
        math.isfinite(m.twist.linear.x) and math.isfinite(m.twist.linear.y)
        for _, m in rig.commands
    )
    rig.x = 0.0
    rig.until_driving()


def test_no_command_passes_the_limits_nor_changes_faster_than_the_slew_limit(make):
    limits = '{low: -0.5, high: 0.5, acceleration: 4.0}'
    rig = make(a=(STALE, f'limits: {{vx: {limits}, vy: {limits}}}'))
    policy = rig.start_policy()
    rig.until_driving(40)
    period_s = rig.contract.period_ns * 1e-9
    sent = [(m.twist.linear.x, m.twist.linear.y) for _, m in rig.commands]
    assert max(abs(v) for row in sent for v in row) <= 0.5 + 1e-6
    steps = [abs(b - a) for p, q in itertools.pairwise(sent) for a, b in zip(p, q, strict=True)]
    assert max(steps) <= 4.0 * period_s + 1e-6
    assert max(steps) > 0.9 * 4.0 * period_s  # the policy wanted more
    rig.until(lambda: int(rig.value('clipped') or 0) > 0, 'the count')
    # What is recorded is what was executed: scale 2 makes 0.5 m/s of an action of 0.25.
    actions = [decode_step(m, rig.contract).action for _, m in rig.steps]
    assert max(abs(a) for row in actions for a in row) <= 0.25 + 1e-6
    policy.terminate()
    policy.wait(timeout=20)


def change(rig, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return rig.call(ChangeState, 'policy/change_state', request).success


def test_an_activation_without_sensors_fails_naming_the_topic(make):
    rig = make()
    rig.silent.add('goal_pose')
    policy = rig.start_policy(autostart=False)
    assert change(rig, Transition.TRANSITION_CONFIGURE)
    why = "not activated: no message on topic 'goal_pose' yet"

    def refused():  # for the other topic, as long as that one was not heard either
        assert not change(rig, Transition.TRANSITION_ACTIVATE)
        return why in policy.log.read_text()

    rig.until(refused, 'the log')
    answer = rig.call(GetState, 'policy/get_state', GetState.Request())
    assert answer.current_state.id == State.PRIMARY_STATE_INACTIVE
    rig.until(lambda: why in rig.value('last_error'), 'the diagnostics')
    rig.silent.clear()
    rig.until(lambda: change(rig, Transition.TRANSITION_ACTIVATE), 'the activation')
    rig.until_driving()


def test_a_node_that_starts_itself_waits_for_sensors_and_says_for_which(make):
    rig = make()
    rig.silent.add('joint_states')
    rig.start_policy()
    rig.until(lambda: "topic 'joint_states'" in rig.value('waiting_for'), 'the diagnostics')
    assert rig.commands == []
    rig.x = math.nan
    rig.silent.clear()
    rig.until(lambda: 'cannot be used' in rig.value('waiting_for'), 'the diagnostics')
    assert rig.commands == []
    rig.x = 0.0
    rig.until_driving()
