# SPDX-License-Identifier: Apache-2.0
"""A point in the plane that is to reach a goal. numpy alone, for tests in seconds."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState

from qcfql_ros.contract.named_vector import set_stamp
from qcfql_ros.contract.topics import JOINT_STATE, POSE_STAMPED
from qcfql_ros.robots.robot import TickResult

PERIOD_S = 0.05
SPEED_M_S = 2.0  # at action 1
GOAL_RADIUS_M = 0.1
TASK_TICKS = 40
PLAY_TICKS = 200


class PointReach:
    """Velocity-controlled point in [-1, 1]^2; reward -1 until it is within 0.1 m of the goal."""

    rate_hz = 1.0 / PERIOD_S
    streams = {'joint_states': JOINT_STATE, 'goal': POSE_STAMPED}  # noqa: RUF012
    action_names = ('vx', 'vy')

    def __init__(self, mode: str, success_timing: str) -> None:
        self._play = mode == 'play'
        self._pre = success_timing == 'pre'
        self._joints = JointState(name=['x', 'y'])
        self._joints.header.frame_id = 'plane'
        self._goal_pose = PoseStamped()
        self._goal_pose.header.frame_id = 'plane'
        self._ticks = 0
        self._position: np.ndarray = np.zeros(2)
        self._velocity: np.ndarray = np.zeros(2)
        self._goal: np.ndarray = np.zeros(2)

    def reset(self, seed: int) -> None:
        """Place the point and a goal at least 0.5 m from it."""
        rng = np.random.default_rng(seed)
        self._position = rng.uniform(-1.0, 1.0, 2)
        self._goal = rng.uniform(-1.0, 1.0, 2)
        while np.linalg.norm(self._goal - self._position) < 0.5:
            self._goal = rng.uniform(-1.0, 1.0, 2)
        self._velocity = np.zeros(2)
        self._ticks = 0

    def apply(self, action: np.ndarray) -> TickResult:
        """Move for one period with half of the old velocity and half of the commanded one."""
        before = self._at_goal()
        command = SPEED_M_S * np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        self._velocity = 0.5 * (self._velocity + command)
        self._position = np.clip(self._position + PERIOD_S * self._velocity, -1.0, 1.0)
        self._ticks += 1
        success = before if self._pre else self._at_goal()
        truncated = self._ticks >= (PLAY_TICKS if self._play else TASK_TICKS)
        return TickResult(
            reward=0.0 if success else -1.0,
            terminated=success,
            truncated=truncated,
            success=success,
            ended=truncated or (success and not self._play),
        )

    def sensors(self, stamp_ns: int) -> dict[str, Any]:
        """Return position and velocity, and the goal."""
        self._joints.position = array('d', self._position)
        self._joints.velocity = array('d', self._velocity)
        self._goal_pose.pose.position.x = float(self._goal[0])
        self._goal_pose.pose.position.y = float(self._goal[1])
        set_stamp(self._joints, stamp_ns)
        set_stamp(self._goal_pose, stamp_ns)
        return {'joint_states': self._joints, 'goal': self._goal_pose}

    def close(self) -> None:
        """Nothing to free."""

    def _at_goal(self) -> bool:
        return bool(np.linalg.norm(self._goal - self._position) <= GOAL_RADIUS_M)
