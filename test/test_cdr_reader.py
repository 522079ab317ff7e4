# SPDX-License-Identifier: Apache-2.0
"""CDR bytes to message objects: as rosbags reads them, and MessageError for anything else."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from qcfql_ros.data.cdr import CdrReader, peek_stamp_ns
from qcfql_ros.errors import MessageError

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
JOINTS, TRAJECTORY = 'sensor_msgs/msg/JointState', 'trajectory_msgs/msg/JointTrajectory'
POSE, TWIST = 'geometry_msgs/msg/PoseStamped', 'geometry_msgs/msg/TwistStamped'
WRENCH = 'geometry_msgs/msg/WrenchStamped'
TYPES = [JOINTS, TRAJECTORY, POSE, TWIST, WRENCH]

floats = st.floats(allow_nan=False)
texts = st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=9)
arrays = st.lists(floats, max_size=5).map(lambda v: np.array(v, dtype=np.float64))
stamps = st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(0, 999_999_999))


@st.composite
def messages(draw, name):
    header = T['std_msgs/msg/Header'](T['builtin_interfaces/msg/Time'](*draw(stamps)), draw(texts))
    if name == JOINTS:
        names = draw(st.lists(texts, max_size=5))
        return T[name](header, names, draw(arrays), draw(arrays), draw(arrays))
    if name == TRAJECTORY:
        points = [
            T['trajectory_msgs/msg/JointTrajectoryPoint'](
                *(draw(arrays) for _ in range(4)),
                T['builtin_interfaces/msg/Duration'](*draw(stamps)),
            )
            for _ in range(draw(st.integers(0, 3)))
        ]
        return T[name](header, draw(st.lists(texts, max_size=3)), points)
    vector = T['geometry_msgs/msg/Vector3']
    triple = [draw(floats) for _ in range(7)]
    if name == POSE:
        pose = T['geometry_msgs/msg/Pose'](
            T['geometry_msgs/msg/Point'](*triple[:3]),
            T['geometry_msgs/msg/Quaternion'](*triple[3:]),
        )
        return T[name](header, pose)
    body = T[name.replace('Stamped', '')]
    return T[name](header, body(vector(*triple[:3]), vector(*triple[3:6])))


any_message = st.sampled_from(TYPES).flatmap(lambda n: st.tuples(st.just(n), messages(n)))


def same(ours, theirs) -> bool:
    if isinstance(theirs, np.ndarray):
        return np.array_equal(ours, theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    fields = getattr(theirs, '__dataclass_fields__', None)
    if fields is None:
        return ours == theirs
    wanted = [name for name in fields if not name.startswith('__')]
    return all(same(getattr(ours, name), getattr(theirs, name)) for name in wanted)


def serialize(message, name: str) -> bytes:
    return bytes(STORE.serialize_cdr(message, name))


READER = CdrReader()  # shared, so that its remembered layouts are put to the test


@settings(max_examples=300, deadline=None)
@given(any_message)
def test_every_message_reads_as_rosbags_reads_it(pair):
    name, message = pair
    data = serialize(message, name)
    theirs = STORE.deserialize_cdr(data, name)
    for _ in range(2):  # walked, then by its layout
        assert same(READER(data, name), theirs)
    stamp = message.header.stamp
    assert peek_stamp_ns(data) == stamp.sec * 1_000_000_000 + stamp.nanosec


@settings(max_examples=300, deadline=None)
@given(any_message, st.data())
def test_a_message_cut_short_is_a_message_error(pair, data):
    name, message = pair
    whole = serialize(message, name)
    cut = data.draw(st.integers(0, len(whole) - 4))
    READER(whole, name)
    with pytest.raises(MessageError):
        READER(whole[:cut], name)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(TYPES), st.binary(max_size=120), st.booleans())
def test_garbage_gives_a_message_or_a_message_error(name, data, headed):
    with contextlib.suppress(MessageError):
        READER((b'\0\1\0\0' if headed else b'') + data, name)


@settings(max_examples=300, deadline=None)
@given(any_message, st.data())
def test_a_changed_byte_reads_as_rosbags_reads_it_or_is_a_message_error(pair, data):
    name, message = pair
    whole = bytearray(serialize(message, name))
    READER(bytes(whole), name)
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    try:
        ours = READER(bytes(whole), name)
    except MessageError:
        return
    theirs = STORE.deserialize_cdr(bytes(whole), name)
    again = serialize(theirs, name)
    assert repr(ours) == repr(CdrReader()(again, name))


def test_big_endian_and_other_encodings_are_refused():
    for head in (b'\0\0\0\0', b'\0\3\0\0', b'\1\1\0\0'):
        with pytest.raises(MessageError, match='little-endian'):
            READER(head + bytes(60), POSE)


def test_a_type_that_is_not_read_is_refused_by_name():
    with pytest.raises(MessageError, match='std_msgs/msg/Char'):
        READER(b'\0\1\0\0', 'std_msgs/msg/Char')


def test_two_publishers_of_messages_of_equal_length_do_not_mix():
    header = T['std_msgs/msg/Header'](T['builtin_interfaces/msg/Time'](1, 2), 'f')
    make = T[JOINTS]
    one = make(header, ['ab'], np.array([1.0]), np.array([]), np.array([]))
    two = make(header, ['cd'], np.array([]), np.array([2.0]), np.array([]))
    three = make(header, ['cd'], np.array([]), np.array([]), np.array([3.0]))
    for message in (one, two, three, one, three, two):
        data = serialize(message, JOINTS)
        assert same(READER(data, JOINTS), message), message
