# SPDX-License-Identifier: Apache-2.0
"""The safety filter: limits proved on random motions, soft start, workspace, safe commands."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from control_parts import POINT, joint_contract
from hypothesis import given
from hypothesis import strategies as st

from qcfql_ros.contract.schema import Workspace
from qcfql_ros.control.limits import PositionLimit, SlewLimit, braking_speed
from qcfql_ros.control.measured import MeasuredReader, Measurement
from qcfql_ros.control.safety import SafetyFilter, soft_fraction

# What rounding may add: see limits.py, where a limit counts as met within these.
RELATIVE = 2e-9
POSITION = 8e-12
OVERSHOOT = 1e-9  # rounding adds up over thousands of commands

periods = st.sampled_from([0.001, 0.004, 0.01, 0.05])
velocities = st.floats(0.05, 5.0)
accelerations = st.floats(0.2, 50.0)
places = st.floats(-1.0, 1.0)


def measured(*positions):
    return Measurement(positions)


def limited(period, velocity, acceleration, start=0.0):
    limit = PositionLimit(-1.0, 1.0, velocity, acceleration, period)
    limit.start(start)
    return limit


@given(periods, velocities, accelerations, places, st.lists(st.floats(-3.0, 3.0), max_size=40))
def test_whatever_is_wanted_the_limits_are_kept(period, velocity, acceleration, start, wanted):
    limit = limited(period, velocity, acceleration, start)
    before, speed = start, 0.0
    # Each is wanted for some commands, so that speed is picked up; last the walls are.
    for one in [w for w in [*wanted, 3.0, -3.0] for _ in range(7)]:
        value = limit.follow(one)
        now = (value - before) / period
        assert -1.0 <= value <= 1.0
        assert abs(now) <= velocity * (1 + RELATIVE) + POSITION / period
        assert abs(now - speed) <= acceleration * period * (1 + RELATIVE) + POSITION / period
        before, speed = value, now


@given(
    periods,
    velocities,
    accelerations,
    places,
    st.lists(st.tuples(st.floats(-3.0, 3.0), st.floats(0.01, 1.0)), max_size=40),
)
def test_a_change_of_the_limits_in_mid_motion_is_no_jolt(
    period, velocity, acceleration, start, wanted
):
    limit = limited(period, velocity, acceleration, start)
    before, speed = start, 0.0
    for one, scale in wanted:
        limit.set_limits(velocity * scale, acceleration * scale)
        for _ in range(9):
            value = limit.follow(one)
            now = (value - before) / period
            assert -1.0 <= value <= 1.0
            assert abs(now) <= velocity * (1 + RELATIVE) + POSITION / period
            assert abs(now - speed) <= acceleration * period * (1 + RELATIVE) + POSITION / period
            before, speed = value, now


@given(periods, velocities, accelerations, places, places)
def test_a_constant_target_is_reached_without_overshoot_and_stayed_at(
    period, velocity, acceleration, start, target
):
    limit = limited(period, velocity, acceleration, start)
    way = abs(target - start)
    longest_s = way / velocity + velocity / acceleration + 2 * math.sqrt(way / acceleration)
    commands = math.ceil(longest_s / period) + 3
    if commands > 20_000:
        return
    side = math.copysign(1.0, target - start)
    for _ in range(commands):
        assert (limit.follow(target) - target) * side <= OVERSHOOT
    assert [limit.follow(target) for _ in range(5)] == [target] * 5


@given(periods, velocities, accelerations, places, st.lists(st.floats(-1.0, 1.0), max_size=60))
def test_a_motion_inside_the_limits_passes_bit_for_bit(
    period, velocity, acceleration, start, pushes
):
    limit = limited(period, velocity, acceleration, start)
    place, speed = start, 0.0
    for push in pushes:
        # Slow enough to stop before either wall, by the plain formula.
        faster = speed + push * acceleration * period
        faster = min(max(faster, -velocity), velocity)
        room = 1.0 - abs(place + faster * period)
        if room < 0.0 or faster * faster / (2.0 * acceleration) > room:
            break
        place, speed = place + faster * period, faster
        assert limit.follow(place) == place


@given(st.floats(1e-6, 10.0), st.floats(0.001, 1.0), periods)
def test_braking_covers_the_distance_exactly(distance, step, period):
    speed = braking_speed(distance, step, period)
    if speed / step > 10_000:
        return
    covered = 0.0
    while speed > 0.0:
        covered += speed * period
        speed -= step
    assert covered == pytest.approx(distance, rel=1e-6)
    assert braking_speed(-distance, step, period) == -braking_speed(distance, step, period)


def test_a_target_that_moves_is_caught_up_with_and_then_followed_exactly():
    limit = limited(0.01, 1.0, 5.0)
    wanted = [0.3 + 0.4 * 0.01 * i for i in range(150)]  # begins 0.3 ahead, moves with 0.4/s
    sent = [limit.follow(one) for one in wanted]
    caught = next(i for i, (a, b) in enumerate(zip(sent, wanted)) if a == b)
    assert caught < 100
    assert sent[caught:] == wanted[caught:]
    assert all(a <= b for a, b in zip(sent, wanted))  # and not swung about


def test_one_that_starts_outside_only_moves_inwards():
    limit = limited(0.01, 1.0, 5.0, start=1.3)
    sent = [1.3, *(limit.follow(2.0) for _ in range(200))]
    assert all(later <= earlier for earlier, later in itertools.pairwise(sent))
    assert max(a - b for a, b in itertools.pairwise(sent)) <= 1.0 * 0.01 * (1 + RELATIVE)
    assert sent[-1] == 1.0


@given(periods, accelerations, st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=40))
def test_what_is_no_position_changes_no_faster_than_its_slew_limit(period, most, wanted):
    limit = SlewLimit(-1.0, 1.0, most, period, rest=0.0)
    before = 0.0
    for one in wanted:
        value = limit.follow(one)
        assert -1.0 <= value <= 1.0
        assert abs(value - before) <= most * period * (1 + RELATIVE)
        if abs(min(max(one, -1.0), 1.0) - before) <= most * period:
            assert value == min(max(one, -1.0), 1.0)
        before = value


def test_the_filter_clips_to_the_limits_of_the_row_and_counts_what_it_changed():
    safety = SafetyFilter(POINT)
    values = safety.send(safety.want(np.array([1.5, -0.25], np.float32), None))
    assert values.tolist() == [2.0, -0.5]
    executed = safety.executed()
    assert executed.row.tolist() == [1.0, -0.25]
    assert executed.row.dtype == np.float32
    assert executed.clipped == 1


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_refused(bad):
    safety = SafetyFilter(POINT)
    assert safety.want(np.array([0.5, bad], np.float32), None) is None
    assert safety.hold().row.tolist() == list(POINT.action.hold)


def test_a_number_inside_the_limits_keeps_its_bits_and_a_changed_one_is_what_was_sent():
    contract = joint_contract(velocity=1.0, acceleration=math.inf)
    safety = SafetyFilter(contract)
    safety.start(measured(0.1, 0.1), soft=False)
    row = np.array([0.0123456789, 1.0], np.float32)  # 0.02 away, and 2.0: 0.05 is allowed
    values = safety.send(safety.want(row, None))
    executed = safety.executed()
    assert executed.row[0] == row[0]
    assert values[0] == float(row[0]) * 2.0 + 0.1
    assert values[1] == pytest.approx(0.15)
    assert executed.row[1] == np.float32((values[1] - 0.1) / 2.0)
    assert executed.clipped == 1


@pytest.mark.parametrize(
    ('relative', 'base'), [('command', [0.3, 0.7, 1.1]), ('measured', [0.3, 0.5, 0.7])]
)
def test_a_relative_position_is_added_to_what_was_sent_or_measured(relative, base):
    contract = joint_contract(joints=1, relative=relative)
    safety = SafetyFilter(contract)
    safety.start(measured(-0.1), soft=False)
    row = np.array([0.2], np.float32)
    sent = []
    for i in range(3):
        sent.append(float(safety.send(safety.want(row, measured(-0.1 + 0.2 * i)))[0]))
        assert safety.executed().row[0] == row[0]
    assert sent == pytest.approx(base)


def test_what_is_relative_to_the_unmeasured_is_refused():
    safety = SafetyFilter(joint_contract(relative='measured'))
    safety.start(measured(0.0, 0.0), soft=False)
    assert safety.want(np.zeros(2, np.float32), None) is None


def test_a_position_is_never_made_up_and_never_held_at_zero():
    safety = SafetyFilter(joint_contract())
    assert not safety.started
    assert safety.want(np.zeros(2, np.float32), None) is None
    safety.start(measured(0.4, -0.6), soft=False)
    held = safety.hold()
    assert safety.values.tolist() == [0.4, -0.6]  # nothing was sent since: where it is
    assert held.row.tolist() == np.float32([(0.4 - 0.1) / 2, (-0.6 - 0.1) / 2]).tolist()
    sent = safety.send(safety.want(np.array([0.5, 0.5], np.float32), None)).tolist()
    for stop in (safety.hold, safety.zero):
        stop()
        assert safety.values.tolist() == sent == [1.1, 1.1]


def test_zero_is_exactly_zero_where_the_hold_row_is_not():
    contract = dataclasses.replace(
        POINT, action=dataclasses.replace(POINT.action, hold=(0.5, 0.0))
    )
    safety = SafetyFilter(contract)
    assert (safety.hold().row.tolist(), safety.values.tolist()) == ([0.5, 0.0], [1.0, 0.0])
    assert (safety.zero().row.tolist(), safety.values.tolist()) == ([0.0, 0.0], [0.0, 0.0])


def test_slowing_down_takes_as_long_as_the_acceleration_limit_asks_for():
    contract = joint_contract(joints=1, acceleration=2.0)
    safety = SafetyFilter(contract)
    safety.start(measured(0.1), soft=False)
    places = [0.1]
    for i in range(1, 11):  # up to 1/s in steps of 0.1/s
        places.append(0.1 + 0.05 * 0.1 * i * (i + 1) / 2)
        row = np.array([(places[-1] - 0.1) / 2], np.float32)
        places[-1] = float(safety.send(safety.want(row, None))[0])
    while safety.slow_down() is not None:
        places.append(float(safety.values[0]))
    speeds = np.diff(places) / 0.05
    assert len(places) == 11 + 9
    assert np.diff(speeds)[10:] == pytest.approx(-0.1, abs=1e-5)
    assert safety.hold().row[0] == np.float32((places[-1] - 0.1) / 2)


@given(st.lists(st.floats(0.0, 3.0), min_size=2, max_size=30))
def test_soft_start_is_a_function_of_time_from_0_to_1_that_never_falls(times):
    fractions = [soft_fraction(t, 1.5) for t in sorted(times)]
    assert all(a <= b for a, b in itertools.pairwise(fractions))
    assert all(0.0 <= f <= 1.0 for f in fractions)
    assert (soft_fraction(0.0, 1.5), soft_fraction(1.5, 1.5)) == (0.0, 1.0)


def test_after_a_soft_start_positions_come_from_where_they_are_and_the_record_says_so():
    contract = joint_contract(joints=1, soft_start_s=1.0)
    safety = SafetyFilter(contract)
    safety.start(measured(-1.5), soft=True)
    row = np.array([0.5], np.float32)
    sent, recorded = [], []
    for _ in range(22):
        sent.append(float(safety.send(safety.want(row, None))[0]))
        recorded.append(float(safety.executed().row[0]))
    assert -1.5 < sent[0] < -1.45
    assert all(a <= b for a, b in itertools.pairwise(sent))
    assert sent[9] == pytest.approx((-1.5 + 1.1) / 2)  # half way after half of the time
    assert sent[19:] == [1.1] * 3
    assert recorded == [float(np.float32((s - 0.1) / 2)) for s in sent]
    safety.start(measured(-1.5), soft=False)  # the next episode is no activation
    assert safety.send(safety.want(row, None))[0] == 1.1


def test_after_a_soft_start_velocities_come_from_the_hold_row():
    contract = dataclasses.replace(
        POINT, safety=dataclasses.replace(POINT.safety, soft_start_s=1.0)
    )
    safety = SafetyFilter(contract)
    safety.start(measured(math.nan, math.nan), soft=True)
    row = np.array([1.0, -1.0], np.float32)
    sent = [safety.send(safety.want(row, None)).tolist() for _ in range(20)]
    assert sent[9] == pytest.approx([1.0, -1.0])
    assert sent[19] == [2.0, -2.0]


def test_the_limits_scale_slows_everything_down():
    contract = joint_contract(joints=1, velocity=1.0)
    safety = SafetyFilter(contract)
    safety.start(measured(0.0), soft=False)
    row = np.array([1.0], np.float32)
    first = safety.send(safety.want(row, None))[0]
    safety.set_limits_scale(0.25)
    second = safety.send(safety.want(row, None))[0]
    assert first == pytest.approx(0.05)
    assert second - first == pytest.approx(0.0125)


def boxed(acceleration=math.inf):
    box = Workspace(
        stream='goal',
        places=(0, 1, 1),
        offset=(0.0, 0.0, 0.0),
        scale=(1.0, 1.0, 1.0),
        actions=(0, 1, -1),
        low=(-1.0, -1.0, -1.0),
        high=(1.0, 1.0, 1.0),
    )
    safety = dataclasses.replace(POINT.safety, workspace=box, acceleration=(acceleration,) * 2)
    return dataclasses.replace(POINT, safety=safety)


def at(x, y):
    return Measurement((math.nan, math.nan), (x, y, 0.0))


def test_in_the_workspace_a_velocity_ends_at_the_wall_and_outside_there_is_only_the_way_in():
    safety = SafetyFilter(boxed())
    row = np.array([1.0, 0.25], np.float32)  # 2 m/s, 0.1 m a period
    assert safety.send(safety.want(row, at(0.0, 0.0))).tolist() == [2.0, 0.5]
    values = safety.send(safety.want(row, at(0.96, 0.0)))
    assert 0.96 + values[0] * 0.05 == pytest.approx(1.0)
    executed = safety.executed()
    assert executed.row[0] == np.float32(values[0] / 2.0)
    assert executed.clipped == 1
    assert safety.send(safety.want(row, at(1.2, -1.2))).tolist() == [0.0, 0.5]
    assert safety.send(safety.want(-row, at(1.2, -1.2))).tolist() == [-2.0, 0.0]
    assert safety.want(row, None) is None  # nobody knows where the tool is


@given(st.floats(0.5, 20.0), places, st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=60))
def test_a_tool_that_can_stop_only_slowly_stays_in_the_workspace(acceleration, start, rows):
    safety = SafetyFilter(boxed(acceleration))
    x, speed = start, 0.0
    for one in [*rows, *[1.0] * 40]:
        row = np.array([one, 0.0], np.float32)
        value = float(safety.send(safety.want(row, at(x, 0.0)))[0])
        assert abs(value - speed) <= acceleration * 0.05 * (1 + 1e-6) + 1e-9
        speed = value
        x += speed * 0.05
        assert -1.0 - 1e-9 <= x <= 1.0 + 1e-9


def test_where_the_robot_is_is_read_in_the_unit_of_the_command():
    reader = MeasuredReader(joint_contract())
    place = reader.read({'joint_states': np.array([0.5, -0.25, 0.0, 0.0]), 'goal': None})
    assert place.positions == (0.5, -0.25)
    assert reader.read({'joint_states': None}) is None
    assert reader.read({}) is None
