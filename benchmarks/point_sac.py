# SPDX-License-Identifier: Apache-2.0
"""SAC of stable-baselines3 on the point robot, behind Gymnasium's interface.

Its networks, rates and discount are those that the offline methods have; it acts and learns from
the first step on, one update a step.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from point_task import ACTION_DIM, SHARED, STATE_DIM, observe

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.robots import episode_seed, make_robot

WARM_UP_STEPS = 500  # of random actions before the first update


class PointEnvironment(gymnasium.Env):
    """The task as evaluation has it: reward -1 until the goal, 40 ticks at most."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (STATE_DIM,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    def __init__(self, seed: int) -> None:
        contract = load_contract('point_reach')
        self._robot = make_robot('point_reach', 'task', contract)
        self._decoder = Decoder(contract)
        self._seed, self._episode = seed, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Begin the next episode of this environment's seed."""
        self._robot.reset(episode_seed(self._seed, self._episode))
        self._episode += 1
        return observe(self._robot, self._decoder)[1], {}

    def step(self, action: np.ndarray):
        """Execute one action row for one period."""
        result = self._robot.apply(action)
        state = observe(self._robot, self._decoder)[1]
        return state, result.reward, result.terminated, result.truncated, {}


def train_sac(steps: int, seed: int):
    """Return a planner for `point_task.run_episodes` after `steps` steps, and the updates made."""
    import stable_baselines3

    sac = stable_baselines3.SAC(
        'MlpPolicy',
        PointEnvironment(seed + 20_000),
        seed=seed,
        device='cpu',
        gamma=SHARED['discount'],
        tau=SHARED['critic_target_update_tau'],
        learning_rate=SHARED['learning_rate'],
        batch_size=SHARED['batch_size'],
        learning_starts=WARM_UP_STEPS,
        policy_kwargs={'net_arch': list(SHARED['hidden_dims'])},
    )
    sac.learn(steps)

    def planner(states: np.ndarray) -> np.ndarray:
        return sac.predict(states, deterministic=True)[0][:, None]

    return planner, steps - WARM_UP_STEPS
