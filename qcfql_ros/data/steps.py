# SPDX-License-Identifier: Apache-2.0
"""What the assembler gives to the replay: steps, and the ends of segments."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np


class Source(IntEnum):
    """Who chose the action of a step (``meta.source``)."""

    POLICY = 0
    PERSON = 1
    HOLD = 2
    HALT = 3


@dataclass(frozen=True, eq=False)
class Step:
    """What happened at one tick.

    Attributes:
        stamp_ns: the tick's deadline, ROS time.
        observation: (state_dim,) float32, at the start of the tick.
        action: (action_dim,) float32, as executed, after the safety filter.
        reward: of this tick.
        terminated: no bootstrap beyond this step. The segment may go on (relabelled play data).
        success: the task was reported solved at this tick.
        source: who chose the action.
        chunk: number of the chunk that the action came from; -1 without one.
        index: position of the action in its chunk.
        episode: number of the episode as the policy counted it.
        planned: (k, action_dim) float32, the whole planned chunk, on its first step only.
    """

    stamp_ns: int
    observation: np.ndarray
    action: np.ndarray
    reward: float
    terminated: bool
    success: bool = False
    source: Source = Source.POLICY
    chunk: int = -1
    index: int = 0
    episode: int = 0
    planned: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class SegmentEnd:
    """The end of an unbroken run of steps.

    Attributes:
        final_observation: (state_dim,) float32, the observation after the last step.
        truncated: cut from outside (time-out, abort, gap, halt): bootstraps from the final
            observation. False when the last step is terminated.
        reason: one word for the log: terminated, timeout, gap, halt, shutdown, ...
        episode_end: the episode ended here too (terminated or truncated by the robot), rather
            than only the unbroken run.
    """

    final_observation: np.ndarray
    truncated: bool
    reason: str
    episode_end: bool = False


def step_digest(step: Step) -> str:
    """Return 16 hex digits over everything in `step` that learning can see."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(struct.pack('<q', step.stamp_ns))
    digest.update(np.ascontiguousarray(step.observation, dtype='<f4').tobytes())
    digest.update(np.ascontiguousarray(step.action, dtype='<f4').tobytes())
    digest.update(
        struct.pack(
            '<f??Bqqq',
            step.reward,
            step.terminated,
            step.success,
            int(step.source),
            step.chunk,
            step.index,
            step.episode,
        )
    )
    if step.planned is not None:
        digest.update(np.ascontiguousarray(step.planned, dtype='<f4').tobytes())
    return digest.hexdigest()
