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
from qcfql_ros.control.tuning import TuningBox
from qcfql_ros.errors import MessageError, ParameterError


class Policy(Protocol):
    """What is asked of a policy; `algorithm.policy.ChunkPolicy` is one."""

    info: Any
    digest: str

    def plan(
        self, observation: np.ndarray, seed: int, noise_scale: float = 1.0, num_samples: int = 0
    ) -> np.ndarray:
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

    Args:
        policy: to begin with.
        seed: of the run.
        counters: to count in.
        tuning: what may be changed while running; looked at before each plan.

    Attributes:
        policy: in use.
        last_observation: planned from; None before the first.
        swaps: policies taken into use after the first.
        swap_wait_ns: how long the last of them had waited for the next plan.
    """

    def __init__(
        self, policy: Policy, seed: int, counters: Counters, tuning: TuningBox | None = None
    ) -> None:
        self.policy = policy
        self.tuning = tuning or TuningBox()
        self.last_observation: np.ndarray | None = None
        self._seed = seed
        self._counters = counters
        self.swaps = 0
        self.swap_wait_ns = 0
        self._offered: deque[tuple[Policy, int]] = deque(maxlen=1)
        self._number = 0
        self._episode = -1
        self._in_episode = 0

    def offer(self, policy: Policy) -> None:
        """Take this policy from the next chunk on; a newer offer replaces an unused one."""
        self._offered.append((policy, time.monotonic_ns()))

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
            MessageError: the observation or the planned actions are not finite, or the policy
                has no candidates to choose from though a number of them is wanted.
        """
        if self._offered:
            self.policy, offered_ns = self._offered.pop()
            self.swap_wait_ns = time.monotonic_ns() - offered_ns
            self.swaps += 1
        if episode != self._episode:
            self._episode, self._in_episode = episode, 0
        policy = self.policy
        if not np.isfinite(observation).all():
            raise MessageError(f'observation is not finite: {observation}')
        seed = chunk_seed(self._seed, episode, self._in_episode)
        tuning = self.tuning.take()
        noise_scale, num_samples = tuning.noise_scale, tuning.num_action_samples
        began = time.perf_counter_ns()
        try:
            actions = policy.plan(observation, seed, noise_scale, num_samples)
        except ParameterError as error:  # a policy of another kind came meanwhile
            raise MessageError(str(error)) from error
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
            noise_scale=noise_scale,
            num_samples=num_samples,
        )
        self._number += 1
        self._in_episode += 1
        return chunk
