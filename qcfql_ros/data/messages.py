# SPDX-License-Identifier: Apache-2.0
"""What `cdr.CdrReader` makes: the attributes of the ROS message classes, without ROS."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Stamp(NamedTuple):
    """builtin_interfaces/Time, and Duration."""

    sec: int
    nanosec: int


class Header(NamedTuple):
    """std_msgs/Header."""

    stamp: Stamp
    frame_id: str


class Number(NamedTuple):
    """std_msgs/Bool, Int32, Float32 and Float64."""

    data: bool | int | float


class Text(NamedTuple):
    """std_msgs/String."""

    data: str


class Dimension(NamedTuple):
    """std_msgs/MultiArrayDimension."""

    label: str
    size: int
    stride: int


class Layout(NamedTuple):
    """std_msgs/MultiArrayLayout."""

    dim: list[Dimension]
    data_offset: int


class MultiArray(NamedTuple):
    """std_msgs/Float32MultiArray and Float64MultiArray; (n,) view of the bytes in its own type."""

    layout: Layout
    data: np.ndarray


class Xyz(NamedTuple):
    """geometry_msgs/Point and Vector3."""

    x: float
    y: float
    z: float


class Quaternion(NamedTuple):
    """geometry_msgs/Quaternion."""

    x: float
    y: float
    z: float
    w: float


class Pose(NamedTuple):
    """geometry_msgs/Pose."""

    position: Xyz
    orientation: Quaternion


class Twist(NamedTuple):
    """geometry_msgs/Twist."""

    linear: Xyz
    angular: Xyz


class Wrench(NamedTuple):
    """geometry_msgs/Wrench."""

    force: Xyz
    torque: Xyz


class PoseStamped(NamedTuple):
    """geometry_msgs/PoseStamped."""

    header: Header
    pose: Pose


class TwistStamped(NamedTuple):
    """geometry_msgs/TwistStamped."""

    header: Header
    twist: Twist


class WrenchStamped(NamedTuple):
    """geometry_msgs/WrenchStamped."""

    header: Header
    wrench: Wrench


class JointState(NamedTuple):
    """sensor_msgs/JointState; numbers are (n,) float64 views of the bytes."""

    header: Header
    name: list[str]
    position: np.ndarray
    velocity: np.ndarray
    effort: np.ndarray


class Imu(NamedTuple):
    """sensor_msgs/Imu; a covariance has 9 numbers, row by row."""

    header: Header
    orientation: Quaternion
    orientation_covariance: tuple[float, ...]
    angular_velocity: Xyz
    angular_velocity_covariance: tuple[float, ...]
    linear_acceleration: Xyz
    linear_acceleration_covariance: tuple[float, ...]


class Point(NamedTuple):
    """trajectory_msgs/JointTrajectoryPoint."""

    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray
    effort: np.ndarray
    time_from_start: Stamp


class JointTrajectory(NamedTuple):
    """trajectory_msgs/JointTrajectory."""

    header: Header
    joint_names: list[str]
    points: list[Point]


class Image(NamedTuple):
    """sensor_msgs/Image; the pixels are a view of the bytes, as they were sent."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview


class CompressedImage(NamedTuple):
    """sensor_msgs/CompressedImage; the picture is a view of the bytes, still compressed."""

    header: Header
    format: str
    data: memoryview
