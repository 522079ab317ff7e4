# SPDX-License-Identifier: Apache-2.0
"""One run of a robot: episodes and ticks counted, every tick with its outcome."""

from __future__ import annotations

import numpy as np

from qcfql_ros.contract.named_vector import Outcome
from qcfql_ros.robots.robot import Robot, episode_seed


class RobotSession:
    """Counts episodes from 0 and executed ticks from 1; seeds each episode.

    Attributes:
        robot: the robot.
        episode: number of the running or last episode; -1 before the first.
        tick: ticks executed so far.
        successes: episodes that ended with the task solved.
    """

    def __init__(self, robot: Robot, seed: int) -> None:
        self.robot = robot
        self.episode = -1
        self.tick = 0
        self.successes = 0
        self._seed = seed

    def begin_episode(self) -> None:
        """Reset the robot for the next episode."""
        self.episode += 1
        self.robot.reset(episode_seed(self._seed, self.episode))

    def execute(self, action: np.ndarray, stamp_ns: int) -> Outcome:
        """Execute one action row and return its outcome, stamped with the tick that it ends."""
        result = self.robot.apply(action)
        self.tick += 1
        self.successes += result.ended and result.success
        return Outcome(
            stamp_ns=stamp_ns,
            reward=result.reward,
            terminated=result.terminated,
            truncated=result.truncated,
            success=result.success,
            episode=self.episode,
            tick=self.tick,
            ended=result.ended,
        )
