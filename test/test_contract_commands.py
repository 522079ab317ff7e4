# SPDX-License-Identifier: Apache-2.0
"""Command values to messages of every form and back, and trajectories that come to rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from contract_examples import example
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message

from qcfql_ros.contract.decode import stamp_of
from qcfql_ros.contract.decode_commands import decode_commands
from qcfql_ros.contract.encode import Encoder, command_values
from qcfql_ros.contract.topics import FLOAT64_MULTI_ARRAY, JOINT_STATE, JOINT_TRAJECTORY
from qcfql_ros.errors import ContractError, MessageError

STAMP_NS = 1_000_000_000_050
PERIOD_NS = 50_000_000
ROWS = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2)


def one_form(folder, kind, name='hand'):
    def change(data):
        data['action']['commands'][0]['type'] = kind

    return example(folder, name, change)


def per_tick(data):
    data['action']['commands'][0]['whole_chunk'] = False


def on_the_wire(encoded):
    return {t: deserialize_message(serialize_message(m), type(m)) for t, _, m in encoded}


def seconds(point):
    return point.time_from_start.sec + point.time_from_start.nanosec * 1e-9


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('contracts')


@pytest.fixture(scope='module')
def arm(folder):
    return example(folder, 'two_joint_arm')


@pytest.fixture(scope='module')
def relative(folder):
    return example(folder, 'two_joint_arm', per_tick)


@pytest.mark.parametrize('kind', [JOINT_STATE, JOINT_TRAJECTORY, FLOAT64_MULTI_ARRAY])
def test_a_row_comes_back_from_each_form_of_command(folder, kind):
    contract = one_form(folder, kind)
    encoder = Encoder(contract)

    @given(ROWS)
    @settings(max_examples=50, deadline=None)
    def there_and_back(row):
        row = np.array(row, dtype=np.float32)
        received = on_the_wire(encoder.commands(command_values(contract, row), STAMP_NS))
        # (r * 0.04 + 0.04) loses what is far below the offset's last digit.
        assert decode_commands(contract, received) == pytest.approx(row, abs=1e-14, rel=1e-7)

    there_and_back()


@given(ROWS, st.lists(st.floats(-3, 3), min_size=2, max_size=2))
@settings(max_examples=50, deadline=None)
def test_a_relative_row_comes_back_where_its_reference_is_given(relative, row, reference):
    contract = relative
    row = np.array(row, dtype=np.float32)
    values = command_values(contract, row, reference)
    assert values == pytest.approx(row * 0.05 + np.array(reference), abs=1e-7)
    received = on_the_wire(Encoder(contract).commands(values, STAMP_NS))
    assert decode_commands(contract, received, reference) == pytest.approx(row, abs=1e-6)


def test_a_relative_row_means_nothing_without_its_reference(folder):
    contract = example(folder, 'two_joint_arm', per_tick)
    with pytest.raises(ContractError, match=r"'shoulder' is relative.*give `reference`"):
        command_values(contract, [0.0, 0.0])
    received = on_the_wire(Encoder(contract).commands([0.5, 1.0], STAMP_NS))
    with pytest.raises(ContractError, match=r"'shoulder' is relative.*give `reference`"):
        decode_commands(contract, received)


def test_a_joint_trajectory_of_one_tick_starts_now_and_lasts_one_command_time(folder):
    contract = one_form(folder, JOINT_TRAJECTORY)
    for every, nanosec in ((None, 10_000_000), (1, 50_000_000)):
        encoded = Encoder(contract, every).commands([0.02, 0.03], STAMP_NS)
        (message,) = on_the_wire(encoded).values()
        assert encoded[0][:2] == ('gripper_controller/commands', JOINT_TRAJECTORY)
        assert message.joint_names == ['left_finger', 'right_finger']
        assert stamp_of(message) == 0
        (point,) = message.points
        assert list(point.positions) == [0.02, 0.03]
        assert list(point.velocities) == []
        assert point.time_from_start.nanosec == nanosec


def test_an_array_has_its_numbers_in_the_order_of_the_fields_and_says_whose(folder):
    def turned(data):
        data['action']['commands'][0]['fields'].reverse()

    contract = example(folder, 'hand', turned)
    (message,) = on_the_wire(Encoder(contract).commands([0.02, 0.03], STAMP_NS)).values()
    assert list(message.data) == [0.03, 0.02]
    (dimension,) = message.layout.dim
    assert dimension.label == 'right_finger,left_finger'
    assert (dimension.size, dimension.stride) == (2, 2)


def test_an_array_that_does_not_fit_is_refused(folder):
    contract = example(folder, 'hand')
    messages = on_the_wire(Encoder(contract).commands([0.02, 0.03], STAMP_NS))
    (message,) = messages.values()
    message.layout.dim = []
    assert decode_commands(contract, messages) == pytest.approx([-0.5, -0.25])
    message.data = [0.02, math.nan]
    with pytest.raises(MessageError, match='position right_finger is nan'):
        decode_commands(contract, messages)
    message.data = [0.02]
    with pytest.raises(MessageError, match='1 numbers, wanted 2'):
        decode_commands(contract, messages)
    other = on_the_wire(Encoder(contract).commands([0.02, 0.03], STAMP_NS))
    (message,) = other.values()
    message.layout.dim[0].label = 'right_finger,left_finger'
    with pytest.raises(MessageError, match="'right_finger,left_finger', wanted 'left_finger"):
        decode_commands(contract, other)


def test_a_trajectory_that_does_not_fit_is_refused(folder):
    contract = one_form(folder, JOINT_TRAJECTORY)
    messages = on_the_wire(Encoder(contract).commands([0.02, 0.03], STAMP_NS))
    (message,) = messages.values()
    message.joint_names = ['right_finger', 'left_finger']
    assert decode_commands(contract, messages) == pytest.approx([-0.25, -0.5])
    message.points.append(type(message.points[0])(positions=[0.0, 0.08]))
    assert decode_commands(contract, messages) == pytest.approx([1.0, -1.0])  # the last point
    message.joint_names = ['right_finger', 'thumb']
    with pytest.raises(MessageError, match="no position of joint 'left_finger' among"):
        decode_commands(contract, messages)
    message.points = []
    with pytest.raises(MessageError, match='trajectory without a point'):
        decode_commands(contract, messages)


def test_a_whole_chunk_goes_out_as_one_stamped_trajectory_and_nothing_else(folder):
    def with_a_light(data):
        data['action']['names'].append('light')
        data['action']['commands'].append(
            {
                'topic': 'light',
                'type': JOINT_STATE,
                'fields': [{'field': 'effort', 'name': 'lamp', 'action': 'light'}],
            }
        )

    contract = example(folder, 'two_joint_arm', with_a_light)
    encoder = Encoder(contract)
    assert [t for t, _, _ in encoder.commands([0.0, 1.0, 0.5], STAMP_NS)] == ['light']
    values = np.array([[0.0, 1.0, 9.0], [0.01, 1.0, 9.0], [0.03, 1.0, 9.0]])
    velocities = np.array([[0.2, 0.0, 9.0], [0.3, 0.0, 9.0], [0.4, 0.0, 9.0]])
    ((topic, kind, message),) = encoder.trajectory(values, velocities, STAMP_NS)
    assert (topic, kind) == ('arm_controller/joint_trajectory', JOINT_TRAJECTORY)
    assert stamp_of(message) == STAMP_NS
    assert message.joint_names == ['shoulder', 'elbow']
    for i in range(3):
        assert list(message.points[i].positions) == values[i, :2].tolist()
        assert list(message.points[i].velocities) == velocities[i, :2].tolist()
        assert seconds(message.points[i]) == pytest.approx(0.05 * (i + 1), abs=1e-12)
    # 0.4 rad/s at 4 rad/s2 takes 0.1 s and 0.02 rad.
    last = message.points[-1]
    assert list(last.velocities) == [0.0, 0.0]
    assert seconds(last) == pytest.approx(0.25)
    assert list(last.positions) == pytest.approx([0.05, 1.0])


def test_a_halt_rests_where_it_is_told_one_period_from_now(folder):
    encoder = Encoder(example(folder, 'two_joint_arm'))
    ((_, _, message),) = encoder.rest([0.25, 1.5])
    assert stamp_of(message) == 0
    (point,) = message.points
    assert list(point.positions) == [0.25, 1.5]
    assert list(point.velocities) == [0.0, 0.0]
    assert point.time_from_start.nanosec == PERIOD_NS
    assert stamp_of(encoder.rest([0.25, 1.5], STAMP_NS)[0][2]) == STAMP_NS


POSITIONS = st.tuples(st.floats(-2.0, 2.0), st.floats(0.1, 2.5))
SPEEDS = st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=2)


@given(POSITIONS, SPEEDS)
@settings(max_examples=200, deadline=None)
def test_what_moves_comes_to_rest_inside_its_limits_without_a_jump(arm, position, speed):
    safety = arm.safety
    ((_, _, message),) = Encoder(arm).trajectory(np.array([position]), np.array([speed]), STAMP_NS)
    assert list(message.points[-1].velocities) == [0.0, 0.0]
    times = [seconds(point) for point in message.points]
    assert times == sorted(set(times))
    low, high = np.array(safety.low), np.array(safety.high)
    # What moves out of its limit has a millisecond to stop: so far does the cubic swing.
    swing = np.abs(speed) * 0.001 * 4 / 27 + 1e-9
    for before, after in zip(message.points[:-1], message.points[1:], strict=True):
        for at in np.linspace(0.0, 1.0, 21):
            here = cubic(before, after, at)
            assert (here >= low - swing).all() and (here <= high + swing).all()
    # Where there is room, no harder than the acceleration limit.
    room = np.where(np.array(speed) > 0, high - position, np.array(position) - low)
    for i, hardest in enumerate(safety.acceleration):
        if room[i] > speed[i] ** 2 / (2 * hardest) + abs(speed[i]) * 0.05:
            first, second = message.points[:2]
            change = abs(second.velocities[i] - first.velocities[i])
            assert change <= hardest * (seconds(second) - seconds(first)) + 1e-6


def cubic(before, after, at):
    """Interpolate as joint_trajectory_controller does: Hermite, of positions and velocities."""
    lasts = seconds(after) - seconds(before)
    p0, p1 = np.array(before.positions), np.array(after.positions)
    v0, v1 = np.array(before.velocities) * lasts, np.array(after.velocities) * lasts
    return (
        p0 * (1 + 2 * at) * (1 - at) ** 2
        + v0 * at * (1 - at) ** 2
        + p1 * at**2 * (3 - 2 * at)
        + v1 * at**2 * (at - 1)
    )


def test_values_that_are_no_chunk_or_not_finite_are_refused(folder):
    encoder = Encoder(example(folder, 'two_joint_arm'))
    with pytest.raises(MessageError, match=r'values are \(2,\) and velocities \(2,\), wanted'):
        encoder.trajectory(np.zeros(2), np.zeros(2), 0)
    with pytest.raises(MessageError, match=r'values are \(0, 2\)'):
        encoder.trajectory(np.zeros((0, 2)), np.zeros((0, 2)), 0)
    with pytest.raises(MessageError, match=r'wanted 2'):
        encoder.trajectory(np.zeros((3, 5)), np.zeros((3, 5)), 0)
    with pytest.raises(MessageError, match='not finite'):
        encoder.trajectory(np.zeros((1, 2)), np.full((1, 2), math.inf), 0)
    with pytest.raises(MessageError, match='not finite'):
        encoder.rest([0.0, math.nan])
