# SPDX-License-Identifier: Apache-2.0
"""What is fed to decoders: bytes and texts that were right once, and values that never were."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types

# Lengths, counts and offsets that parsers trip over.
_COUNTS = (0, 1, 2, 7, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_DOUBLES = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e308, -1e308, 5e-324, 2.0**53, -1.0)


class Dimension(NamedTuple):
    """std_msgs/MultiArrayDimension."""

    label: Any
    size: Any
    stride: Any


class Layout(NamedTuple):
    """std_msgs/MultiArrayLayout."""

    dim: Any
    data_offset: Any


class Float64MultiArray(NamedTuple):
    """std_msgs/Float64MultiArray."""

    layout: Any
    data: Any


numbers = st.sampled_from(_DOUBLES) | st.floats()
junk = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | numbers
    | st.text(max_size=6)
    | st.binary(max_size=6)
    | st.lists(st.integers(-3, 3), max_size=3)
    | st.dictionaries(st.text(max_size=4), st.integers(-3, 3), max_size=2)
)


@st.composite
def mutated(draw, corpus: list[bytes], most: int = 4) -> bytes:
    """One of `corpus` with up to `most` damages, such as a disk, a line or an attacker makes."""
    data = bytearray(draw(st.sampled_from(corpus)))
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.integers(0, 7))
        if kind == 0:
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == 1:  # a count or a length
            at -= at % 4
            data[at : at + 4] = struct.pack('<I', draw(st.sampled_from(_COUNTS)))
        elif kind == 2:
            at -= at % 4
            data[at : at + 8] = struct.pack('<d', draw(st.sampled_from(_DOUBLES)))
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + draw(st.integers(1, 16))]
        elif kind == 5:
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == 6:  # a part of itself, once more
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        else:
            data[at : at + 16] = bytes(len(data[at : at + 16]))
    return bytes(data)


def headed(size: int = 160) -> st.SearchStrategy[bytes]:
    """Arbitrary bytes behind the head of little-endian CDR, so that they are looked into."""
    return st.binary(max_size=size).map(lambda body: b'\0\1\0\0' + body)


def damaged(corpus: list[bytes]) -> st.SearchStrategy[bytes]:
    """Mostly mutated bytes, some arbitrary ones."""
    return mutated(corpus) | mutated(corpus, most=1) | headed() | st.binary(max_size=160)


@st.composite
def damaged_text(draw, corpus: list[str], words: list[str]) -> str:
    """One of `corpus` with lines and words taken away, doubled, exchanged or made nonsense."""
    lines = draw(st.sampled_from(corpus)).split('\n')
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.integers(0, 6))
        if kind == 0:
            del lines[at : at + draw(st.integers(1, 3))]
        elif kind == 1:
            lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
        elif kind == 2:
            place = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:place] + draw(st.sampled_from(words)) + lines[at][place:]
        elif kind == 3:
            place = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:place] + lines[at][place + draw(st.integers(1, 5)) :]
        elif kind == 4:
            lines[at] = draw(st.text(max_size=20))
        elif kind == 5:
            lines[at] = '  ' + lines[at]
        else:
            parts = lines[at].split(' ')
            parts[draw(st.integers(0, len(parts) - 1))] = draw(st.sampled_from(words))
            lines[at] = ' '.join(parts)
        if not lines:
            lines = ['']
    return '\n'.join(lines)


@st.composite
def changed(draw, document):
    """A document or message object with up to three places made something else."""
    for _ in range(draw(st.integers(0, 3))):
        document = _change(draw, document)
    return document


def _change(draw, node):
    if isinstance(node, np.ndarray):
        node = node.tolist()
    if isinstance(node, tuple) and not hasattr(node, '_fields'):
        node = list(node)
    if isinstance(node, float) and draw(st.integers(0, 3)):
        return draw(numbers)
    if not isinstance(node, dict | list | tuple) or not node or draw(st.integers(0, 15)) == 0:
        return draw(junk)
    if isinstance(node, tuple):  # a NamedTuple
        name = draw(st.sampled_from(node._fields))
        return node._replace(**{name: _change(draw, getattr(node, name))})
    inner = node
    keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
    key = draw(st.sampled_from(keys))
    copy = dict(inner) if isinstance(inner, dict) else list(inner)
    kind = draw(st.integers(0, 5))
    if kind == 0:
        del copy[key]
    elif kind == 1 and isinstance(copy, dict):
        copy[draw(junk.filter(_hashable))] = copy.pop(key)
    elif kind == 1:
        copy.append(copy[key])
    else:
        copy[key] = _change(draw, copy[key])
    return copy


def _hashable(value) -> bool:
    return not isinstance(value, dict | list)


def header(frame: str = 'base', sec: int = 1000, nanosec: int = 50_000_000):
    return T['std_msgs/msg/Header'](T['builtin_interfaces/msg/Time'](sec, nanosec), frame)


def _array(values) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def joints(names, position=(), velocity=(), effort=(), frame='base') -> bytes:
    """A joint state in CDR."""
    kind = 'sensor_msgs/msg/JointState'
    message = T[kind](
        header(frame), list(names), _array(position), _array(velocity), _array(effort)
    )
    return bytes(STORE.serialize_cdr(message, kind))


def trajectory(names, rows, frame='') -> bytes:
    """A joint trajectory in CDR, one point a row."""
    kind = 'trajectory_msgs/msg/JointTrajectory'
    duration = T['builtin_interfaces/msg/Duration']
    point = T['trajectory_msgs/msg/JointTrajectoryPoint']
    none = _array([])
    points = [
        point(_array(row), none, none, none, duration(0, i * 50_000_000))
        for i, row in enumerate(rows)
    ]
    return bytes(STORE.serialize_cdr(T[kind](header(frame), list(names), points), kind))


def stamped(kind: str, values, frame='base') -> bytes:
    """A stamped pose (7 numbers), twist or wrench (6) in CDR."""
    point, vector = T['geometry_msgs/msg/Point'], T['geometry_msgs/msg/Vector3']
    if kind.endswith('PoseStamped'):
        quaternion = T['geometry_msgs/msg/Quaternion'](*values[3:])
        body = T['geometry_msgs/msg/Pose'](point(*values[:3]), quaternion)
    else:
        body = T[kind.replace('Stamped', '')](vector(*values[:3]), vector(*values[3:6]))
    return bytes(STORE.serialize_cdr(T[kind](header(frame), body), kind))


def float64_array(values) -> bytes:
    """A Float64MultiArray in CDR."""
    kind = 'std_msgs/msg/Float64MultiArray'
    layout = T['std_msgs/msg/MultiArrayLayout']([], 0)
    return bytes(STORE.serialize_cdr(T[kind](layout, _array(values)), kind))
