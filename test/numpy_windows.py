# SPDX-License-Identifier: Apache-2.0
"""Windows over a plain list of episodes, in NumPy float64, written from the rules alone.

An episode is a list of steps and the observation after the last one::

    steps   s0 s1 s2 s3   final        n = return_steps, k = action_chunk_size <= n
            [--- n ---]                window: rewards summed, then the state behind it
            [- k -]                    chunk: what the critic sees

A window may start where its n steps lie in the episode. With terminal windows it may also be cut
short by the episode's end, if a step in it is terminated: nothing is bootstrapped from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True)
class PlainStep:
    observation: np.ndarray
    action: np.ndarray
    reward: float
    terminated: bool = False
    success: bool = False
    planned: np.ndarray | None = None  # the chunk that was planned here, (k, action_dim)


@dataclass(frozen=True)
class PlainEpisode:
    steps: list[PlainStep]
    final_observation: np.ndarray


@dataclass(frozen=True)
class Window:
    """One window; `next_state` is None where nothing is bootstrapped."""

    state: np.ndarray
    chunk: np.ndarray
    valid: np.ndarray
    tail_unknown: np.ndarray
    reward: float
    bootstrap: float
    next_state: np.ndarray | None


def window(
    episode: PlainEpisode,
    start: int,
    *,
    chunk: int,
    return_steps: int,
    discount: float,
    terminal_windows: bool = True,
    rewards_after_termination: bool = False,
    price_failure: bool = False,
) -> Window | None:
    """Return the window that starts at step `start`, or None where none may start.

    With `price_failure` a termination without success costs its (negative) reward for ever:
    ``r + discount r + discount^2 r + ...``.
    """
    steps = episode.steps[start : start + return_steps]
    whole = len(steps) == return_steps
    terminated = any(step.terminated for step in steps)
    if not whole and not (terminal_windows and terminated):
        return None

    reward, over = 0.0, False
    for j, step in enumerate(steps):
        if not over or rewards_after_termination:
            failure = step.terminated and not step.success and step.reward < 0.0
            for_ever = 1.0 / (1.0 - discount) if price_failure and failure else 1.0
            reward += discount**j * step.reward * for_ever
        over = over or step.terminated

    behind = [step.observation for step in episode.steps] + [episode.final_observation]
    rows, valid, unknown = [], [], []
    plan = episode.steps[start].planned
    for j in range(chunk):
        recorded = j < len(steps)
        planned = not recorded and plan is not None and j < len(plan)
        if recorded:
            rows.append(steps[j].action)
        elif planned:
            rows.append(plan[j])
        else:
            rows.append(np.zeros_like(steps[0].action))
        valid.append(float(recorded))
        unknown.append(not recorded and not planned)
    return Window(
        state=steps[0].observation,
        chunk=np.stack(rows),
        valid=np.array(valid),
        tail_unknown=np.array(unknown),
        reward=reward,
        bootstrap=0.0 if terminated else discount**return_steps,
        next_state=None if terminated else behind[start + return_steps],
    )


def reference_window(
    episodes: list[PlainEpisode], start: int, *, chunk: int, return_steps: int, discount: float
) -> tuple[Window, float] | None:
    """Return the window and its weight as the authors draw them, or None where none may start.

    All steps lie in one long array, whose episodes do not matter to the sum, the mask and the
    chunk. Only what was recorded in the first step's episode is imitated, and the critic's weight
    is 1 where all of the window was.
    """
    array = [(number, step) for number, one in enumerate(episodes) for step in one.steps]
    if start + return_steps > len(array):
        return None
    inside = array[start : start + return_steps]
    own = [number == inside[0][0] for number, _ in inside]
    terminated = any(step.terminated for _, step in inside)
    last_number, last_step = inside[-1]
    last_episode = episodes[last_number]
    place = [step is last_step for step in last_episode.steps].index(True)
    behind = [*(step.observation for step in last_episode.steps), last_episode.final_observation]
    made = Window(
        state=inside[0][1].observation,
        chunk=np.stack([step.action for _, step in inside[:chunk]]),
        valid=np.array(own[:chunk], float),
        tail_unknown=np.zeros(chunk, bool),
        reward=sum(discount**j * step.reward for j, (_, step) in enumerate(inside)),
        bootstrap=0.0 if terminated else discount**return_steps,
        next_state=None if terminated else behind[place + 1],
    )
    return made, float(all(own))


def every_ending(
    rng: np.random.Generator, chunk: int, return_steps: int, state_dim: int, action_dim: int
) -> list[PlainEpisode]:
    """Return episodes that terminate, are truncated, or go on after a termination, everywhere.

    Every length up to ``return_steps + 2``; in each, no termination (truncated at the end), one at
    any step, or two at any two. Plans stand at every `chunk`-th step of every second episode. All
    numbers are float32 numbers.
    """

    def numbers(*shape):
        return rng.uniform(-1.0, 1.0, shape).astype(np.float32)

    episodes = []
    for length in range(1, return_steps + 3):
        for ended_at in (at for r in range(3) for at in combinations(range(length), r)):
            steps = []
            for i in range(length):
                planned = None
                if len(episodes) % 2 and i % chunk == 0:
                    planned = numbers(chunk, action_dim)
                steps.append(
                    PlainStep(
                        observation=numbers(state_dim),
                        action=numbers(action_dim),
                        reward=float(numbers(1)[0]),
                        terminated=i in ended_at,
                        success=i in ended_at and len(episodes) % 3 == 0,
                        planned=planned,
                    )
                )
            episodes.append(PlainEpisode(steps, numbers(state_dim)))
    return episodes
