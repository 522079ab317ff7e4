# SPDX-License-Identifier: Apache-2.0
"""Episodes of a policy on a simulated robot inside this process, for choosing checkpoints.

Observations are decoded from the robot's messages by the contract, as on the wire, but nothing
is sent. Figures to be quoted come from `qcfql evaluate`, which runs the whole ROS loop.
"""

from __future__ import annotations

import numpy as np

from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.contract import Contract
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.previous import NO_ROW, NoRow
from qcfql_ros.robots import Robot, episode_seed


def success_count(
    policy: ChunkPolicy, robot: Robot, contract: Contract, episodes: int, seed: int
) -> int:
    """Return how many of `episodes` episodes end in success.

    Args:
        policy: plans open-loop chunks, drawn from all its noise.
        robot: in mode ``task``.
        contract: of the robot.
        episodes: to run.
        seed: of episodes and noise.
    """
    decoder = Decoder(contract)
    seeds = np.random.default_rng(seed)
    successes = 0
    for episode in range(episodes):
        robot.reset(episode_seed(seed, episode))
        ended = success = False
        previous: np.ndarray | NoRow = NO_ROW
        while not ended:
            messages = robot.sensors(1)
            values = {
                name: decoder.decode_message(name, message).values
                for name, message in messages.items()
            }
            observation = decoder.observation(values, previous)
            chunk = policy.plan(observation, int(seeds.integers(1 << 62)))
            for row in chunk:
                result = robot.apply(row)
                previous = row
                ended, success = result.ended, result.success
                if ended:
                    break
        successes += success
    return successes
