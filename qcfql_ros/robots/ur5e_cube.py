# SPDX-License-Identifier: Apache-2.0
"""OGBench's UR5e with one cube, task 2 of cube-single: carry the cube 15 cm along x.

Reads the simulation's state directly rather than the environment's observation: a real cell has
sensors, and the contract must be able to put them together to the same numbers.
"""

from __future__ import annotations

import math
import warnings
from array import array
from typing import Any

import gymnasium
import mujoco
import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState

from qcfql_ros.contract.named_vector import set_stamp
from qcfql_ros.contract.topics import JOINT_STATE, POSE_STAMPED
from qcfql_ros.robots.robot import TickResult

with warnings.catch_warnings():
    # A machine without a display is the normal case here; nothing is rendered.
    warnings.simplefilter('ignore')
    from ogbench.manipspace.envs.cube_env import CubeEnv

JOINTS = (
    'shoulder_pan_joint',
    'shoulder_lift_joint',
    'elbow_joint',
    'wrist_1_joint',
    'wrist_2_joint',
    'wrist_3_joint',
)
gymnasium.logger.min_level = gymnasium.logger.ERROR  # it would tell of float32 action bounds

TASK = 2
TASK_TICKS = 200
PLAY_TICKS = 1000  # as in OGBench's data sets
SUCCESS_RADIUS_M = 0.04  # CubeEnv._compute_successes


class SeededCubeEnv(CubeEnv):
    """CubeEnv that depends on nothing but its seed, and computes no observation nobody reads."""

    _box_seed: int | None = None
    _lean = False

    def reset(self, *args: Any, seed: int | None = None, **kwargs: Any) -> Any:
        self._box_seed = seed
        self._lean = False
        return super().reset(*args, seed=seed, **kwargs)

    @property
    def action_space(self) -> Any:
        # The reset steps the goal scene with two samples of this space; a space made anew seeds
        # itself from the operating system.
        space = super().action_space
        space.seed(self._box_seed)
        return space

    def step_lean(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """Step as `step` does; return reward, terminated, success."""
        self._lean = True
        _, reward, terminated, _, info = self.step(action)
        return float(reward), bool(terminated), bool(info['success'])

    def pre_step(self) -> None:
        if not self._lean:
            super().pre_step()

    def compute_observation(self) -> Any:
        return None if self._lean else super().compute_observation()

    def get_step_info(self) -> dict:
        return {} if self._lean else super().get_step_info()


class Ur5eCube:
    """The arm as a robot. Mode ``play`` scatters the cube and labels every tick for the task."""

    rate_hz = 20.0
    streams = {  # noqa: RUF012
        'joint_states': JOINT_STATE,
        'effector_pose': POSE_STAMPED,
        'gripper': JOINT_STATE,
        'cube_pose': POSE_STAMPED,
    }
    action_names = ('dx', 'dy', 'dz', 'dyaw', 'dgripper')

    def __init__(self, mode: str, success_timing: str) -> None:
        self._play = mode == 'play'
        self._pre = success_timing == 'pre'
        self.env = SeededCubeEnv(
            env_type='single',
            permute_blocks=False,
            visualize_info=False,
            success_timing=success_timing,
            reward_task_id=TASK,
            mode='data_collection' if self._play else 'task',
            terminate_at_goal=not self._play,
        )
        self.env.set_tasks()
        self._goal = self.env.task_infos[TASK - 1]['goal_xyzs'][0]
        self._ticks = 0
        self._joints = _joint_message('base', JOINTS)
        self._gripper = _joint_message('base', ('gripper',))
        self._effector = PoseStamped()
        self._cube = PoseStamped()
        self._effector.header.frame_id = self._cube.header.frame_id = 'base'
        self._quaternion = np.zeros(4)
        self.reset(0)  # compiles the model: a second that no tick should wait for

    def reset(self, seed: int) -> None:
        """Place arm and cube: as the task says, or anywhere for play."""
        np.random.seed(seed)  # some of OGBench draws from here
        self.env.reset(seed=seed)
        self._pad = self.env.model.body('ur5e/robotiq/right_pad').id
        self._cube_address = int(self.env.model.joint('object_joint_0').qposadr[0])
        self._ticks = 0

    def apply(self, action: np.ndarray) -> TickResult:
        """Move the effector relative to where it is, for one period of 0.05 s."""
        before = self._cube_at_goal()
        reward, terminated, success = self.env.step_lean(action)
        self._ticks += 1
        truncated = self._ticks >= (PLAY_TICKS if self._play else TASK_TICKS)
        if self._play:
            success = terminated = before if self._pre else self._cube_at_goal()
            reward = 0.0 if success else -1.0
        return TickResult(
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            success=success,
            ended=truncated or (terminated and not self._play),
        )

    def sensors(self, stamp_ns: int) -> dict[str, Any]:
        """Return joints, effector pose, gripper opening with contact, and the cube's pose."""
        env = self.env
        data = env.data
        self._joints.position = array('d', data.qpos[env._arm_joint_ids])
        self._joints.velocity = array('d', data.qvel[env._arm_joint_ids])
        mujoco.mju_mat2Quat(self._quaternion, data.site_xmat[env._pinch_site_id])
        _set_pose(self._effector, data.site_xpos[env._pinch_site_id], self._quaternion)
        opening = data.qpos[env._gripper_opening_joint_id] / 0.8
        contact = np.linalg.norm(data.cfrc_ext[self._pad]) / 50.0
        self._gripper.position = array('d', [min(max(float(opening), 0.0), 1.0)])
        self._gripper.velocity = array('d', [data.qvel[env._gripper_opening_joint_id] / 0.8])
        self._gripper.effort = array('d', [min(max(float(contact), 0.0), 1.0)])
        cube = data.qpos[self._cube_address : self._cube_address + 7]
        _set_pose(self._cube, cube[:3], cube[3:])
        messages = {
            'joint_states': self._joints,
            'effector_pose': self._effector,
            'gripper': self._gripper,
            'cube_pose': self._cube,
        }
        for message in messages.values():
            set_stamp(message, stamp_ns)
        return messages

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _cube_at_goal(self) -> bool:
        position = self.env.data.qpos[self._cube_address : self._cube_address + 3]
        return math.dist(position, self._goal) <= SUCCESS_RADIUS_M


def _joint_message(frame_id: str, names: tuple[str, ...]) -> JointState:
    message = JointState(name=list(names))
    message.header.frame_id = frame_id
    return message


def _set_pose(message: PoseStamped, xyz: np.ndarray, wxyz: np.ndarray) -> None:
    position, orientation = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = map(float, xyz)
    orientation.w, orientation.x, orientation.y, orientation.z = map(float, wxyz)
