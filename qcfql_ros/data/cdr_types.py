# SPDX-License-Identifier: Apache-2.0
"""How each message type lies in its CDR bytes; joint states are `cdr.CdrReader`'s own.

Every function takes the bytes of one message and returns it, or raises MessageError, struct.error
or UnicodeDecodeError, which the reader turns into one error.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qcfql_ros.contract import topics
from qcfql_ros.data.cdr_cursor import FLOAT32, FLOAT64, STAMP, Cursor
from qcfql_ros.data.messages import (
    CompressedImage,
    Dimension,
    Header,
    Image,
    Imu,
    JointTrajectory,
    Layout,
    MultiArray,
    Number,
    Point,
    Pose,
    PoseStamped,
    Quaternion,
    Stamp,
    Text,
    Twist,
    TwistStamped,
    Wrench,
    WrenchStamped,
    Xyz,
)
from qcfql_ros.errors import MessageError

_BYTE = struct.Struct('<B')
_I32 = struct.Struct('<i')
_F32 = struct.Struct('<f')
_F64 = struct.Struct('<d')
_F64X6 = struct.Struct('<6d')
_F64X7 = struct.Struct('<7d')
_F64X37 = struct.Struct('<37d')


def _number(data: bytes, layout: struct.Struct) -> Number:
    cursor = Cursor(data)
    (value,) = cursor.unpack(layout)
    cursor.end()
    return Number(value)


def _bool(data: bytes) -> Number:
    value = _number(data, _BYTE).data
    if value > 1:
        raise MessageError(f'a bool is {value}, wanted 0 or 1')
    return Number(value == 1)


def _string(data: bytes) -> Text:
    cursor = Cursor(data)
    text = cursor.text()
    cursor.end()
    return Text(text)


def _multi_array(data: bytes, dtype: np.dtype) -> MultiArray:
    cursor = Cursor(data)
    dim = [Dimension(cursor.text(), cursor.u32(), cursor.u32()) for _ in range(cursor.count())]
    layout = Layout(dim, cursor.u32())
    values = cursor.numbers(dtype)
    cursor.end()
    return MultiArray(layout, values)


def _pose(cursor: Cursor) -> Pose:
    x, y, z, qx, qy, qz, qw = cursor.unpack(_F64X7)
    cursor.end()
    return Pose(Xyz(x, y, z), Quaternion(qx, qy, qz, qw))


def _twist(cursor: Cursor) -> Twist:
    return Twist(*_two_vectors(cursor))


def _wrench(cursor: Cursor) -> Wrench:
    return Wrench(*_two_vectors(cursor))


def _two_vectors(cursor: Cursor) -> tuple[Xyz, Xyz]:
    values = cursor.unpack(_F64X6)
    cursor.end()
    return Xyz(*values[:3]), Xyz(*values[3:])


def _plain(data: bytes, body: Callable[[Cursor], Any]) -> Any:
    return body(Cursor(data))


def _stamped(
    data: bytes, message: Callable[[Header, Any], Any], body: Callable[[Cursor], Any]
) -> Any:
    cursor = Cursor(data)
    return message(cursor.header(), body(cursor))


def _imu(data: bytes) -> Imu:
    cursor = Cursor(data)
    header = cursor.header()
    values = cursor.unpack(_F64X37)
    cursor.end()
    return Imu(
        header,
        Quaternion(*values[:4]),
        values[4:13],
        Xyz(*values[13:16]),
        values[16:25],
        Xyz(*values[25:28]),
        values[28:],
    )


def _joint_trajectory(data: bytes) -> JointTrajectory:
    cursor = Cursor(data)
    header = cursor.header()
    names = cursor.texts()
    points = []
    for _ in range(cursor.count()):
        positions, velocities, accelerations, effort = (cursor.numbers() for _ in range(4))
        start = Stamp(*cursor.unpack(STAMP, 4))
        points.append(Point(positions, velocities, accelerations, effort, start))
    cursor.end()
    return JointTrajectory(header, names, points)


def _image(data: bytes) -> Image:
    cursor = Cursor(data)
    header = cursor.header()
    height, width, encoding = cursor.u32(), cursor.u32(), cursor.text()
    (is_bigendian,) = cursor.unpack(_BYTE, 1)
    step, pixels = cursor.u32(), cursor.octets()
    cursor.end()
    return Image(header, height, width, encoding, is_bigendian, step, pixels)


def _compressed_image(data: bytes) -> CompressedImage:
    cursor = Cursor(data)
    image = CompressedImage(cursor.header(), cursor.text(), cursor.octets())
    cursor.end()
    return image


READERS: dict[str, Callable[[bytes], Any]] = {
    topics.BOOL: _bool,
    topics.INT32: partial(_number, layout=_I32),
    topics.FLOAT32: partial(_number, layout=_F32),
    topics.FLOAT64: partial(_number, layout=_F64),
    topics.STRING: _string,
    topics.FLOAT32_MULTI_ARRAY: partial(_multi_array, dtype=FLOAT32),
    topics.FLOAT64_MULTI_ARRAY: partial(_multi_array, dtype=FLOAT64),
    topics.POSE: partial(_plain, body=_pose),
    topics.POSE_STAMPED: partial(_stamped, message=PoseStamped, body=_pose),
    topics.TWIST: partial(_plain, body=_twist),
    topics.TWIST_STAMPED: partial(_stamped, message=TwistStamped, body=_twist),
    topics.WRENCH: partial(_plain, body=_wrench),
    topics.WRENCH_STAMPED: partial(_stamped, message=WrenchStamped, body=_wrench),
    topics.IMU: _imu,
    topics.JOINT_TRAJECTORY: _joint_trajectory,
    topics.IMAGE: _image,
    topics.COMPRESSED_IMAGE: _compressed_image,
}
