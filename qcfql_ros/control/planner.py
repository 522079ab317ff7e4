# SPDX-License-Identifier: Apache-2.0
"""Observation to chunk: which policy, which seed, how long it took, and whether it is usable."""

from __future__ import annotations

import hashlib
import struct
import time
from collections import deque
from typing import Any, Protocol

import numpy as np

from qcfql_ros.control.chunk_buffer import PlannedChunk
from qcfql_ros.control.counters import Counters
from qcfql_ros.errors import MessageError


class Policy(Protocol):
    """What is asked of a policy; `algorithm.policy.ChunkPolicy` is one."""

    info: Any
    digest: str

    def plan(self, observation: np.ndarray, seed: int) -> np.ndarray:
        """Return a chunk, (k, action_dim) float32 in [-1, 1]."""


def chunk_seed(seed: int, episode: int, chunk: int) -> int:
    """Return the seed of the noise of one chunk, 53 bits (exact in JSON everywhere).

    The first 8 bytes of BLAKE2b over the three numbers as little-endian int64, shifted right
    by 11. It depends on nothing else, so a run can be repeated from any episode on.

    Args:
        seed: of the run.
        episode: of the policy, from 0.
        chunk: counted within the episode, from 0.
    """
    data = hashlib.blake2b(struct.pack('<qqq', seed, episode, chunk), digest_size=8).digest()
    return int.from_bytes(data, 'little') >> 11


class Planner:
    """Plans with the newest accepted policy; a policy is exchanged only between two chunks.

    Used by one thread; `offer` may be called from any.
    """

    def __init__(self, policy: Policy, seed: int, counters: Counters) -> None:
        self.policy = policy
        self.last_observation: np.ndarray | None = None
        self._seed = seed
        self._counters = counters
        self._offered: deque[Policy] = deque(maxlen=1)
        self._number = 0
        self._episode = -1
        self._in_episode = 0

    def offer(self, policy: Policy) -> None:
        """Take this policy from the next chunk on; a newer offer replaces an unused one."""
        self._offered.append(policy)

    def plan(
        self, observation: np.ndarray, stamps: dict[str, int], episode: int, epoch: int
    ) -> PlannedChunk:
        """Return the next chunk.

        Args:
            observation: (state_dim,) float32.
            stamps: header stamp in ns of the message used of each stream.
            episode: the policy's episode.
            epoch: of the chunk buffer, noted before the observation was taken.

        Raises:
            MessageError: the observation or the planned actions are not finite.
        """
        if self._offered:
            self.policy = self._offered.pop()
        if episode != self._episode:
            self._episode, self._in_episode = episode, 0
        policy = self.policy
        if not np.isfinite(observation).all():
            raise MessageError(f'observation is not finite: {observation}')
        seed = chunk_seed(self._seed, episode, self._in_episode)
        began = time.perf_counter_ns()
        actions = policy.plan(observation, seed)
        self._counters.inference.add(time.perf_counter_ns() - began)
        if not np.isfinite(actions).all():
            raise MessageError(f'policy {policy.info.version} planned actions not finite')
        self.last_observation = observation
        chunk = PlannedChunk(
            actions=actions,
            number=self._number,
            episode=episode,
            seed=seed,
            digest=policy.digest,
            version=policy.info.version,
            observation_stamps=stamps,
            epoch=epoch,
        )
        self._number += 1
        self._in_episode += 1
        return chunk
