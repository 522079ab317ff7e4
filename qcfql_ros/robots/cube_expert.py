# SPDX-License-Identifier: Apache-2.0
"""OGBench's plan oracle for one cube, fed from topics, as it made the cube-single play data.

It carries the cube to random places, one after the other: a plan is made open loop, with
temporally correlated noise (0.1, smoothed over 0.5 ticks), and no other action noise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # a machine without a display is the normal case
    from ogbench.manipspace.envs.cube_env import CubeEnv
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

PERIOD_S = 0.05
CUBE_HEIGHT_M = 0.02  # of its centre, lying on the table
NOISE, NOISE_SMOOTHING = 0.1, 0.5


class CubeExpert:
    """Drives the arm like OGBench's data generation for ``cube-single-play``."""

    def __init__(self) -> None:
        # Never reset nor stepped: the oracle asks it for bounds and for the scale of actions.
        self._env = CubeEnv(env_type='single', mode='data_collection')
        self._oracle = CubePlanOracle(env=self._env, noise=NOISE, noise_smoothing=NOISE_SMOOTHING)
        self._ticks = 0

    def begin(self, messages: Mapping[str, Any], seed: int) -> None:
        """Choose a first target and plan the way."""
        np.random.seed(seed)  # where the oracle draws from
        self._ticks = 0
        self._set_new_target(self._info(messages))

    def action(self, messages: Mapping[str, Any]) -> np.ndarray:
        """Return the next action of the plan; a new target when the last one was reached."""
        info = self._info(messages)
        if self._oracle.done:
            self._set_new_target(info)
        row = self._oracle.select_action(None, info)
        self._ticks += 1
        return np.clip(row, -1.0, 1.0).astype(np.float32)

    def _set_new_target(self, info: dict[str, Any]) -> None:
        """As CubeEnv.set_new_target does for a single cube."""
        xy = np.random.uniform(*self._env._target_sampling_bounds)
        info['privileged/target_block'] = 0
        info['privileged/target_block_pos'] = np.array([*xy, CUBE_HEIGHT_M])
        info['privileged/target_block_yaw'] = np.array([np.random.uniform(0, 2 * np.pi)])
        self._oracle.reset(None, info)

    def _info(self, messages: Mapping[str, Any]) -> dict[str, Any]:
        effector, cube = messages['effector_pose'].pose, messages['cube_pose'].pose
        gripper = messages['gripper']
        finger = list(gripper.name).index('gripper')
        return {
            'time': np.array([self._ticks * PERIOD_S]),
            'proprio/effector_pos': _xyz(effector),
            'proprio/effector_yaw': np.array([_yaw(effector)]),
            'proprio/gripper_opening': np.array([gripper.position[finger]]),
            'proprio/gripper_contact': np.array([gripper.effort[finger]]),
            'privileged/block_0_pos': _xyz(cube),
            'privileged/block_0_yaw': np.array([_yaw(cube)]),
        }


def _xyz(pose: Any) -> np.ndarray:
    return np.array([pose.position.x, pose.position.y, pose.position.z])


def _yaw(pose: Any) -> float:
    q = pose.orientation
    return math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y * q.y + q.z * q.z))
