# SPDX-License-Identifier: Apache-2.0
"""CDR bytes to message objects: as rosbags reads them, and MessageError for anything else."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore

from qcfql_ros.contract import topics
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.data.cdr import CdrReader, peek_stamp_ns
from qcfql_ros.errors import MessageError

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
JOINTS, POSE, TRAJECTORY = topics.JOINT_STATE, topics.POSE_STAMPED, topics.JOINT_TRAJECTORY
TYPES = sorted(kind for kind in vars(topics).values() if isinstance(kind, str) and '/msg/' in kind)

BASE = {
    'bool': st.booleans(),
    'uint8': st.integers(0, 255),
    'int32': st.integers(-(2**31), 2**31 - 1),
    'uint32': st.integers(0, 2**32 - 1),
    'float32': st.floats(allow_nan=False, width=32),
    'float64': st.floats(allow_nan=False),
    'string': st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=9),
}


def messages(kind):
    """Random messages of any type, as rosbags' objects."""
    fields = {name: values(*what) for name, what in STORE.fielddefs[kind][1]}
    if kind.startswith('builtin_interfaces'):
        fields['nanosec'] = st.integers(0, 999_999_999)
    return st.builds(T[kind], **fields)


def values(node, what):
    if node == Nodetype.BASE:
        return BASE[what[0]]
    if node == Nodetype.NAME:
        return messages(what)
    (item_node, item), size = what
    if node == Nodetype.ARRAY:
        lists = st.lists(values(item_node, item), min_size=size, max_size=size)
    else:
        lists = st.lists(values(item_node, item), max_size=4)
    if item_node == Nodetype.NAME or item[0] == 'string':
        return lists
    return lists.map(lambda numbers: np.array(numbers, dtype=item[0]))


MESSAGES = {kind: messages(kind) for kind in TYPES}
any_message = st.sampled_from(TYPES).flatmap(lambda n: st.tuples(st.just(n), MESSAGES[n]))


def same(ours, theirs) -> bool:
    """Hold one of our messages against one of rosbags or of rclpy."""
    if hasattr(theirs, 'get_fields_and_field_types'):
        fields = list(theirs.get_fields_and_field_types())
    elif hasattr(theirs, '__dataclass_fields__'):
        fields = [name for name in theirs.__dataclass_fields__ if not name.startswith('__')]
    elif isinstance(theirs, str | int | float | np.number):
        return bool(ours == theirs or (ours != ours and theirs != theirs))
    else:
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return list(ours._fields) == fields and all(
        same(getattr(ours, name), getattr(theirs, name)) for name in fields
    )


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
    if name not in topics.UNSTAMPED:
        stamp = message.header.stamp
        assert peek_stamp_ns(data) == stamp.sec * 1_000_000_000 + stamp.nanosec


@settings(max_examples=600, deadline=None)
@given(any_message)
def test_every_message_reads_as_rclpy_reads_it_from_the_wire_and_from_its_own_bytes(pair):
    name, message = pair
    data = serialize(message, name)
    theirs = deserialize_message(data, message_class(name))
    assert same(READER(data, name), theirs)
    # As a script writes a bag with rosbag2_py; behind it may be bytes that belong to nobody.
    assert same(READER(serialize_message(theirs), name), theirs)


@settings(max_examples=200, deadline=None)
@given(any_message)
def test_bytes_behind_a_message_are_refused(pair):
    name, message = pair
    with pytest.raises(MessageError, match='bytes after the end'):
        READER(serialize(message, name) + bytes(401), name)


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
def test_a_changed_byte_reads_as_rclpy_reads_it_or_is_a_message_error(pair, data):
    name, message = pair
    whole = bytearray(serialize(message, name))
    READER(bytes(whole), name)
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    try:
        ours = READER(bytes(whole), name)
    except MessageError:
        return
    theirs = deserialize_message(bytes(whole), message_class(name))
    assert same(ours, theirs)


def test_big_endian_and_other_encodings_are_refused():
    for head in (b'\0\0\0\0', b'\0\3\0\0', b'\1\1\0\0'):
        for name in TYPES:
            with pytest.raises(MessageError, match='little-endian'):
                READER(head + bytes(60), name)


@pytest.mark.parametrize('text', [b'start 3', b'start\x003\0', b'\0\0', b'h\xf6he\0'])
def test_a_text_that_is_none_is_refused(text):
    assert READER(b'\0\1\0\0\3\0\0\0ab\0', topics.STRING).data == 'ab'
    with pytest.raises(MessageError, match=r"a text that ends at byte \d+|can't decode"):
        READER(b'\0\1\0\0' + len(text).to_bytes(4, 'little') + text, topics.STRING)


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
