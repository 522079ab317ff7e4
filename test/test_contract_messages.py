# SPDX-License-Identifier: Apache-2.0
"""Messages and numbers: both ways, through real serialisation, and refused when wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import JointState

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.chunk_record import ChunkRecord, chunk_message, decode_chunk
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.decode_commands import decode_commands
from qcfql_ros.contract.encode import Encoder, command_values
from qcfql_ros.contract.named_vector import (
    Outcome,
    StepRecord,
    decode_outcome,
    decode_step,
    outcome_fields,
    step_fields,
    vector_message,
)
from qcfql_ros.errors import ContractError, MessageError

TYPESTORE = get_typestore(Stores.ROS2_JAZZY)
ARM = load_contract('ur5e_cube')
POINT = load_contract('point_reach')
STAMP_NS = 1_000_000_000_050


def joints(**values) -> JointState:
    message = JointState(name=['y', 'x', 'spare'], position=[2.0, 1.0, 9.0])
    message.velocity = [4.0, 3.0, 9.0]
    message.header.stamp.sec, message.header.stamp.nanosec = 1000, 50
    for name, value in values.items():
        setattr(message, name, value)
    return message


def through_rosbags(message, kind):
    return TYPESTORE.deserialize_cdr(exact_cdr(message, kind), kind)


def exact_cdr(message, kind) -> bytes:
    """Return the bytes of `message` without what rclpy's serialize_message leaves behind them."""
    data = serialize_message(message)
    for length in range(len(data), 0, -1):
        try:
            TYPESTORE.deserialize_cdr(data[:length], kind)
        except SerdeError:
            continue
        return data[:length]
    raise AssertionError('rosbags reads none of it')


def test_joints_are_found_by_name_in_any_order():
    decoder = Decoder(POINT)
    decoded = decoder.decode_message('joint_states', joints())
    assert decoded.stamp_ns == STAMP_NS
    assert decoded.values.tolist() == [1.0, 2.0, 3.0, 4.0]
    turned = JointState(name=['x', 'y'], position=[5.0, 6.0], velocity=[7.0, 8.0])
    assert decoder.decode_message('joint_states', turned).values.tolist() == [5.0, 6.0, 7.0, 8.0]


def test_rosbags_objects_decode_to_the_same_numbers():
    kind = POINT.streams['joint_states'].type
    ours = Decoder(POINT).decode_message('joint_states', joints()).values
    theirs = Decoder(POINT).decode_cdr(
        'joint_states', exact_cdr(joints(), kind), TYPESTORE.deserialize_cdr
    )
    assert (theirs.values == ours).all()
    assert theirs.stamp_ns == STAMP_NS
    assert through_rosbags(joints(), kind).name == ['y', 'x', 'spare']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'name': ['y', 'z', 'spare']}, "'joint_states': joint 'x' is there 0 times"),
        ({'name': ['x', 'x', 'y']}, "joint 'x' is there 2 times"),
        ({'position': []}, 'position has 0 numbers for 3 joint names'),
        ({'velocity': [4.0, math.nan, 9.0]}, "velocity of 'x' is nan, wanted finite"),
        ({'position': [math.inf, 1.0, 9.0]}, "position of 'y' is inf, wanted finite"),
    ],
)
def test_a_joint_message_that_does_not_fit_is_refused_and_never_filled(change, message):
    with pytest.raises(MessageError, match=message):
        Decoder(POINT).decode_message('joint_states', joints(**change))


def test_a_number_that_nobody_reads_may_be_anything():
    Decoder(POINT).decode_message('joint_states', joints(position=[2.0, 1.0, math.nan]))


@given(st.floats(-math.pi, math.pi), st.booleans())
@settings(max_examples=50, deadline=None)
def test_an_orientation_gives_the_cosine_and_sine_of_its_yaw(yaw, flipped):
    message = PoseStamped()
    sign = -1.0 if flipped else 1.0
    message.pose.orientation.w = sign * math.cos(yaw / 2)
    message.pose.orientation.z = sign * math.sin(yaw / 2)
    message.pose.position.x = 0.525
    values = Decoder(ARM).decode_message('effector_pose', message).values
    assert values == pytest.approx([1.0, 0.0, 0.0, math.cos(yaw), math.sin(yaw)], abs=1e-12)


def test_an_orientation_that_is_no_rotation_is_refused():
    message = PoseStamped()
    message.pose.orientation.w = 0.0
    with pytest.raises(MessageError, match="'effector_pose': orientation has norm 0, wanted 1"):
        Decoder(ARM).decode_message('effector_pose', message)
    message.pose.orientation.w = math.nan
    with pytest.raises(MessageError, match="orientation of 'w' is nan"):
        Decoder(ARM).decode_message('effector_pose', message)


def test_an_observation_needs_every_stream():
    decoder = Decoder(POINT)
    values = {'joint_states': np.arange(4.0)}
    with pytest.raises(ContractError, match="no message of stream 'goal'"):
        decoder.observation(values)
    state = decoder.observation({**values, 'goal': np.array([4.0, 5.0])})
    assert state.dtype == np.float32
    assert state.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@given(st.lists(st.floats(-1, 1, width=32), min_size=5, max_size=5))
@settings(max_examples=50, deadline=None)
def test_an_action_row_comes_back_bit_for_bit_from_its_commands(row):
    row = np.array(row, dtype=np.float32)
    commands = Encoder(ARM).commands(command_values(ARM, row), STAMP_NS)
    assert [topic for topic, _, _ in commands] == ['arm/twist_command', 'gripper/command']
    received = {}
    for topic, _, message in commands:
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1000, 50)
        received[topic] = deserialize_message(serialize_message(message), type(message))
    assert np.array_equal(decode_commands(ARM, received), row)
    theirs = {topic: through_rosbags(m, kind) for topic, kind, m in commands}
    assert np.array_equal(decode_commands(ARM, theirs), row)


def test_commands_are_in_the_units_of_the_robot():
    values = command_values(ARM, [0.5, 0, 0, 1.0, -1.0])
    twist, gripper = (m for _, _, m in Encoder(ARM).commands(values, 0))
    assert twist.twist.linear.x == 0.5
    assert twist.twist.angular.z == 6.0
    assert gripper.name == ['gripper']
    assert list(gripper.velocity) == [-20.0]


def test_a_command_with_nan_or_without_its_joint_is_refused():
    with pytest.raises(MessageError, match='not finite'):
        Encoder(ARM).commands([math.nan, 0, 0, 0, 0], 0)
    with pytest.raises(MessageError, match='wanted 5'):
        Encoder(ARM).commands([0.0], 0)
    messages = {topic: m for topic, _, m in Encoder(ARM).commands(np.zeros(5), 0)}
    messages['gripper/command'].name = ['grip']
    with pytest.raises(MessageError, match="no velocity of joint 'gripper'"):
        decode_commands(ARM, messages)
    messages['arm/twist_command'].twist.linear.y = math.inf
    with pytest.raises(MessageError, match=r'linear\.y'):
        decode_commands(ARM, messages)


OUTCOME = Outcome(STAMP_NS, -1.0, True, False, True, episode=3, tick=77, ended=False)


def test_an_outcome_survives_the_wire():
    message = vector_message(STAMP_NS, *outcome_fields(OUTCOME))
    assert decode_outcome(message) == OUTCOME
    assert decode_outcome(through_rosbags(message, 'sensor_msgs/msg/JointState')) == OUTCOME


def test_an_outcome_without_ended_ends_when_it_is_terminated_or_truncated():
    names, values = outcome_fields(OUTCOME)
    message = vector_message(STAMP_NS, names[:-1], values[:-1])
    assert decode_outcome(message).ended


@pytest.mark.parametrize(
    ('name', 'value', 'text'),
    [
        ('reward', math.nan, "'reward' is nan"),
        ('terminated', 0.5, 'wanted 0 or 1'),
        ('tick', -1.0, 'wanted a whole number'),
    ],
)
def test_an_impossible_outcome_is_refused(name, value, text):
    names, values = outcome_fields(OUTCOME)
    values[list(names).index(name)] = value
    with pytest.raises(MessageError, match=text):
        decode_outcome(vector_message(0, names, values))
    short = [(n, v) for n, v in zip(names, values, strict=True) if n != name]
    with pytest.raises(MessageError, match='is missing'):
        decode_outcome(vector_message(0, *map(list, zip(*short, strict=True))))


def test_a_step_survives_the_wire():
    action = np.array([0.1, -0.7], dtype=np.float32)
    record = StepRecord(STAMP_NS, action, 2, -1, 0, 1, 0, 1, 12_345_678, True)
    message = vector_message(STAMP_NS, *step_fields(record, POINT))
    assert message.name[:2] == ['action.vx', 'action.vy']
    for received in (message, through_rosbags(message, 'sensor_msgs/msg/JointState')):
        decoded = decode_step(received, POINT)
        assert np.array_equal(decoded.action, action)
        assert {**vars(decoded), 'action': 0} == {**vars(record), 'action': 0}


def test_a_step_of_another_contract_is_refused():
    record = StepRecord(0, np.zeros(2, np.float32), 0, 0, 0, 0, 0, 0, 0, True)
    with pytest.raises(MessageError, match=r"'action\.dx' is missing"):
        decode_step(vector_message(0, *step_fields(record, POINT)), ARM)


@pytest.mark.parametrize('tuned', [{}, {'noise_scale': 0.25, 'num_samples': 4}])
def test_a_chunk_survives_the_wire(tuned):
    actions = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    record = ChunkRecord(STAMP_NS, actions, 5, 2, 99, 'ab' * 32, 7, {'goal': STAMP_NS}, **tuned)
    message = chunk_message(record, POINT)
    assert ('noise_scale' in message.header.frame_id) == bool(tuned)
    assert message.points[3].time_from_start.nanosec == 150_000_000
    for received in (message, through_rosbags(message, 'trajectory_msgs/msg/JointTrajectory')):
        decoded = decode_chunk(received, POINT)
        assert np.array_equal(decoded.actions, actions)
        assert {**vars(decoded), 'actions': 0} == {**vars(record), 'actions': 0}
    message.header.frame_id = 'base'
    with pytest.raises(MessageError, match='frame_id'):
        decode_chunk(message, POINT)
