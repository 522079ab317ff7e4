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
