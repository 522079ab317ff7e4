# SPDX-License-Identifier: Apache-2.0
"""The actor of QC and BFN: the sample of the behaviour flow that the critics think best."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from qcfql_ros.algorithm.networks import ChunkedCritic, FlowMatchingBehaviorPolicy


class Aggregation(Protocol):
    """How the members of an ensemble become one value, as `AlgorithmConfig` says it."""

    @property
    def critic_aggregation(self) -> str:
        """Min, mean or mean_minus_std."""

    @property
    def pessimism(self) -> float:
        """Rho of mean_minus_std."""


def aggregate(values: Tensor, how: str, pessimism: float) -> Tensor:
    """Return one value a sample from (members, ...): min, mean, or mean minus rho times std."""
    if how == 'min':
        return values.amin(0)
    if how == 'mean':
        return values.mean(0)
    return values.mean(0) - pessimism * values.std(0, unbiased=False)


@torch.no_grad()
def best_of_n(
    flow: FlowMatchingBehaviorPolicy,
    critic: ChunkedCritic,
    state: Tensor,
    noise: Tensor,
    config: Aggregation,
) -> Tensor:
    """Return the best of N flow samples for each state, (batch, chunk, action_dim) in [-1, 1].

    Li, Zhou and Levine 2025 (arXiv 2507.07969), QC: the argmax over samples of the aggregated
    online critics, the first one on a tie. With N = 1 it is the behaviour flow itself.

    Args:
        flow: the behaviour policy.
        critic: the online critics.
        state: (batch, state_dim).
        noise: (batch, N, chunk, action_dim) standard normal.
        config: gives the aggregation.
    """
    batch, count = noise.shape[:2]
    repeated = state.repeat_interleave(count, dim=0)
    chunks = flow.sample(repeated, noise=noise.flatten(0, 1))
    if count == 1:
        return chunks
    values = critic.values(repeated, chunks)
    value = aggregate(values, config.critic_aggregation, config.pessimism)
    best = value.reshape(batch, count).argmax(1)
    return chunks.reshape(noise.shape)[torch.arange(batch, device=best.device), best]
