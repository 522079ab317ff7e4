# SPDX-License-Identifier: Apache-2.0
"""Offline learning on the point robot: recorded play, training, and many episodes at once.

Play goes to a place of its own choice, the goal in half of the cases, and changes its mind now
and then: to imitate it is to reach the goal by chance. The shortest way has to be put together
from its parts. Nothing is sent over ROS; messages are decoded by the contract, as on the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qcfql_ros.algorithm.best_of_n import best_of_n
from qcfql_ros.algorithm.config import AlgorithmConfig, method
from qcfql_ros.algorithm.update import Update
from qcfql_ros.contract import load_contract
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.data.replay import Replay
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.robots import Robot, episode_seed, make_robot
from qcfql_ros.robots.expert import make_expert

STATE_DIM, ACTION_DIM = 6, 2

#: What all methods share: small networks, for a processor core and a minute.
SHARED: dict[str, Any] = {
    'num_critics': 2,
    'critic_aggregation': 'mean',
    'discount': 0.95,
    'critic_target_update_tau': 0.01,
    'flow_matching_num_inference_steps': 5,
    'hidden_dims': (64, 64),
    'learning_rate': 1e-3,
    'batch_size': 128,
}

#: The best of a grid on a seed of its own, 1000: docs/results/methods.md has it.
DISTILLATION_WEIGHTS = {'fql': 0.3, 'fql_n': 1.0, 'qc_fql': 3.0, 'normalized': 0.3}


def settings(name: str, **changes: Any) -> AlgorithmConfig:
    """Return the settings of method `name` on this task, some of them changed."""
    return AlgorithmConfig(STATE_DIM, ACTION_DIM, **{**SHARED, **method(name), **changes})


def observe(robot: Robot, decoder: Decoder) -> tuple[dict[str, Any], np.ndarray]:
    """Return the robot's messages and the state that they decode to, (STATE_DIM,) float32."""
    messages = robot.sensors(1)
    values = {
        name: decoder.decode_message(name, message).values for name, message in messages.items()
    }
    return messages, decoder.observation(values)


def play(episodes: int, seed: int) -> list[Step | SegmentEnd]:
    """Return steps of the scripted player, labelled for the task; an episode has 200."""
    contract = load_contract('point_reach')
    robot, decoder = make_robot('point_reach', 'play', contract), Decoder(contract)
    expert = make_expert('point_reach')
    events: list[Step | SegmentEnd] = []
    for episode in range(episodes):
        robot.reset(episode_seed(seed, episode))
        messages, state = observe(robot, decoder)
        expert.begin(messages, episode_seed(seed + 1, episode))
        ended = False
        while not ended:
            action = expert.action(messages)
            result = robot.apply(action)
            events.append(
                Step(
                    stamp_ns=len(events),
                    observation=state,
                    action=action,
                    reward=result.reward,
                    terminated=result.terminated,
                    success=result.success,
                    episode=episode,
                )
            )
            ended = result.ended
            messages, state = observe(robot, decoder)
        events.append(SegmentEnd(state, truncated=True, reason='timeout', episode_end=True))
    return events


def fill(config: AlgorithmConfig, events: list[Step | SegmentEnd]) -> Replay:
    """Return a replay that holds the events, with windows as the settings have them."""
    replay = Replay(
        len(events),
        STATE_DIM,
        ACTION_DIM,
        config.action_chunk_size,
        config.discount,
        return_steps=config.return_steps,
        terminal_windows=config.terminal_windows,
    )
    for event in events:
        replay.append(event)
    return replay


def train(
    config: AlgorithmConfig, events: list[Step | SegmentEnd], updates: int, seed: int
) -> Update:
    """Return what so many updates on the events make of fresh networks."""
    replay = fill(config, events)
    update, random = Update(config, seed), np.random.default_rng(seed)
    for _ in range(updates):
        update.step(replay.sample(config.batch_size, random))
    return update


@dataclass(frozen=True)
class Episodes:
    """How episodes of the task went.

    Attributes:
        count: episodes.
        successes: of them.
        mean_ticks: of an episode, 40 where the goal was not reached.
    """

    count: int
    successes: int
    mean_ticks: float


Planner = Callable[[np.ndarray], np.ndarray]  # states (batch, STATE_DIM) to chunks


def evaluate(update: Update, episodes: int, seed: int) -> Episodes:
    """Run episodes of the task with the actor that the settings name.

    Start, goal and noise depend on `seed` alone, so that all methods meet the same episodes.
    """
    generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def planner(states: np.ndarray) -> np.ndarray:
        return plan(update, torch.from_numpy(states), generator).numpy()

    return run_episodes(planner, episodes, seed)


def run_episodes(planner: Planner, episodes: int, seed: int) -> Episodes:
    """Run episodes beside each other, each chunk open loop, as on the robot."""
    contract = load_contract('point_reach')
    decoder = Decoder(contract)
    robots = [make_robot('point_reach', 'task', contract) for _ in range(episodes)]
    for episode, robot in enumerate(robots):
        robot.reset(episode_seed(seed, episode))
    running, successes, ticks = list(range(episodes)), 0, 0
    while running:
        chunks = planner(np.stack([observe(robots[i], decoder)[1] for i in running]))
        going_on = []
        for i, chunk in zip(running, chunks, strict=True):
            for row in chunk:
                result = robots[i].apply(row)
                ticks += 1
                if result.ended:
                    successes += result.success
                    break
            else:
                going_on.append(i)
        running = going_on
    return Episodes(episodes, successes, ticks / episodes)


def plan(update: Update, states: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a chunk for each state, (batch, chunk, action_dim), by the actor of the settings."""
    nets, config = update.networks, update.config
    shape = (config.action_chunk_size, config.action_dim)
    if config.actor == 'distilled':
        noise = torch.randn((len(states), *shape), generator=generator)
        return nets.policy(states, noise).clamp(-1.0, 1.0)
    many = (len(states), config.num_action_samples, *shape)
    noise = torch.randn(many, generator=generator)
    return best_of_n(nets.behavior, nets.critic, states, noise, config)
