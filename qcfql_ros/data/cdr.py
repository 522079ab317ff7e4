# SPDX-License-Identifier: Apache-2.0
"""The message types that steps are made of, read straight from their CDR bytes.

One reader for live and recorded messages, with neither ROS nor rosbags: plain little-endian CDR
(OMG formal/2002-06-51 ch. 15.3, as rmw sends it: 4 bytes of head, alignment counted after it). The
objects have the attributes of the ROS message classes, which is all that ``contract.decode`` asks.

Joint states of one publisher differ in stamp and numbers only. So the layout of the last ones is
kept, and a message that repeats it costs a comparison of bytes, not a walk through its names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from qcfql_ros.contract import topics
from qcfql_ros.data.messages import (
    Header,
    JointState,
    JointTrajectory,
    Point,
    Pose,
    PoseStamped,
    Quaternion,
    Stamp,
    Twist,
    TwistStamped,
    Wrench,
    WrenchStamped,
    Xyz,
)
from qcfql_ros.errors import MessageError

_HEAD = b'\x00\x01'  # CDR, little-endian; the two bytes after it are options
_STAMP = struct.Struct('<iI')
_U32 = struct.Struct('<I')
_F64X6 = struct.Struct('<6d')
_F64X7 = struct.Struct('<7d')
_LAYOUTS = 64


class _Layout(NamedTuple):
    """Where the numbers of a joint state lie. `fixed` are bytes that must be as they were."""

    fixed: tuple[tuple[int, bytes], ...]
    frame_id: str
    names: list[str]
    arrays: tuple[tuple[int, int], ...]  # (offset, count) of position, velocity, effort


class CdrReader:
    """Turns CDR bytes into message objects. Keeps layouts it saw: one a thread."""

    def __init__(self) -> None:
        self._layouts: dict[int, _Layout] = {}
        self._readers: dict[str, Callable[[bytes], Any]] = {
            topics.JOINT_STATE: self._joint_state,
            topics.JOINT_TRAJECTORY: _joint_trajectory,
            topics.POSE_STAMPED: _pose_stamped,
            topics.TWIST_STAMPED: _twist_stamped,
            topics.WRENCH_STAMPED: _wrench_stamped,
        }

    def __call__(self, data: bytes, type_name: str) -> Any:
        """Return the message in `data`.

        Raises:
            MessageError: cut off, too long, not little-endian CDR, or of a type that is not read.
        """
        reader = self._readers.get(type_name)
        if reader is None:
            raise MessageError(f'messages of type {type_name} are not read')
        try:
            return reader(data)
        except (struct.error, UnicodeDecodeError) as error:
            raise MessageError(f'{len(data)} bytes are no {type_name}: {error}') from error

    def _joint_state(self, data: bytes) -> JointState:
        layout = self._layouts.get(len(data))
        if layout is not None and data[:2] == _HEAD:
            for at, content in layout.fixed:
                if data[at : at + len(content)] != content:
                    break
            else:
                header = Header(_stamp(data), layout.frame_id)
                first, second, third = (
                    np.frombuffer(data, '<f8', count, at) for at, count in layout.arrays
                )
                return JointState(header, layout.names, first, second, third)
        cursor = _Cursor(data)
        header = cursor.header()
        names = cursor.texts()
        places, marks = [], [_STAMP.size + 4]
        arrays = []
        for _ in range(3):
            arrays.append(cursor.numbers())
            start = cursor.at - arrays[-1].nbytes
            places.append((start, len(arrays[-1])))
            marks += [start, cursor.at]
        cursor.end()
        fixed = tuple(
            (marks[i], data[marks[i] : marks[i + 1]]) for i in (0, 2, 4) if marks[i + 1] > marks[i]
        )
        if len(self._layouts) >= _LAYOUTS:
            self._layouts.clear()
        self._layouts[len(data)] = _Layout(fixed, header.frame_id, names, tuple(places))
        return JointState(header, names, *arrays)


def peek_stamp_ns(data: bytes) -> int | None:
    """Return the header stamp of a stamped message, None when there is none to be read."""
    try:
        stamp = _stamp(data)
    except (struct.error, MessageError):
        return None
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def _stamp(data: bytes) -> Stamp:
    if data[:2] != _HEAD:
        raise MessageError(f'head is {data[:4].hex()}, wanted 0001: little-endian CDR')
    sec, nanosec = _STAMP.unpack_from(data, 4)
    if nanosec >= 1_000_000_000:
        raise MessageError(f'stamp has nanosec {nanosec}, wanted below 1e9')
    return Stamp(sec, nanosec)


class _Cursor:
    """A position in CDR bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 4

    def header(self) -> Header:
        stamp = _stamp(self.data)
        self.at = 12
        return Header(stamp, self.text())

    def count(self) -> int:
        self.at += -self.at % 4
        number: int = _U32.unpack_from(self.data, self.at)[0]
        self.at += 4
        if number > len(self.data) - self.at:
            raise MessageError(
                f'{number} items announced at byte {self.at} of {len(self.data)}: cut off'
            )
        return number

    def text(self) -> str:
        size = self.count()
        raw = self.data[self.at : self.at + size]
        self.at += size
        if raw and raw[-1] != 0:
            raise MessageError(f'a text that ends at byte {self.at} has no 0 at its end')
        return raw[:-1].decode()

    def texts(self) -> list[str]:
        return [self.text() for _ in range(self.count())]

    def numbers(self) -> np.ndarray:
        size = self.count()
        if size:
            self.at += (4 - self.at) % 8  # alignment counts from byte 4; none before an empty one
        if size * 8 > len(self.data) - self.at:
            raise MessageError(
                f'{size} numbers announced before byte {self.at} of {len(self.data)}: cut off'
            )
        values = np.frombuffer(self.data, '<f8', size, self.at if size else 0)
        self.at += size * 8
        return values

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        if layout.format[-1] == 'd':
            self.at += (4 - self.at) % 8
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def end(self) -> None:
        if len(self.data) - self.at > 3:  # rmw may pad to 4 bytes
            raise MessageError(f'{len(self.data) - self.at} bytes after the end of the message')


def _pose_stamped(data: bytes) -> PoseStamped:
    cursor = _Cursor(data)
    header = cursor.header()
    x, y, z, qx, qy, qz, qw = cursor.unpack(_F64X7)
    cursor.end()
    return PoseStamped(header, Pose(Xyz(x, y, z), Quaternion(qx, qy, qz, qw)))


def _two_vectors(data: bytes) -> tuple[Header, Xyz, Xyz]:
    cursor = _Cursor(data)
    header = cursor.header()
    values = cursor.unpack(_F64X6)
    cursor.end()
    return header, Xyz(*values[:3]), Xyz(*values[3:])


def _twist_stamped(data: bytes) -> TwistStamped:
    header, linear, angular = _two_vectors(data)
    return TwistStamped(header, Twist(linear, angular))


def _wrench_stamped(data: bytes) -> WrenchStamped:
    header, force, torque = _two_vectors(data)
    return WrenchStamped(header, Wrench(force, torque))


def _joint_trajectory(data: bytes) -> JointTrajectory:
    cursor = _Cursor(data)
    header = cursor.header()
    names = cursor.texts()
    points = []
    for _ in range(cursor.count()):
        positions, velocities, accelerations, effort = (cursor.numbers() for _ in range(4))
        cursor.at += -cursor.at % 4
        start = Stamp(*cursor.unpack(_STAMP))
        points.append(Point(positions, velocities, accelerations, effort, start))
    cursor.end()
    return JointTrajectory(header, names, points)
