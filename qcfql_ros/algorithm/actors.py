# SPDX-License-Identifier: Apache-2.0
"""What turns an observation and noise into a chunk, made from a policy's description."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcfql_ros.algorithm.best_of_n import best_of_n
from qcfql_ros.algorithm.networks import (
    ChunkedCritic,
    FlowMatchingBehaviorPolicy,
    Networks,
    NoiseConditionedPolicy,
)
from qcfql_ros.algorithm.policy_info import BestOfN, PolicyInfo


class BestOfNActor(nn.Module):
    """The sample of the behaviour flow that the critics think best."""

    def __init__(
        self, behavior: FlowMatchingBehaviorPolicy, critic: ChunkedCritic, about: BestOfN
    ) -> None:
        super().__init__()
        self.behavior = behavior
        self.critic = critic
        self.about = about

    def forward(self, state: Tensor, noise: Tensor) -> Tensor:
        """Return chunks (batch, chunk, action_dim) in [-1, 1].

        Args:
            state: (batch, state_dim).
            noise: (batch, N, chunk, action_dim) standard normal.
        """
        return best_of_n(self.behavior, self.critic, state, noise, self.about)


def make_actor(info: PolicyInfo, generator: torch.Generator | None = None) -> nn.Module:
    """Return the untrained actor that `info` describes, (state, noise) to chunks."""
    shape = (info.state_dim, info.action_dim, info.action_chunk_size, info.hidden_dims)
    about = info.best_of_n
    if about is None:
        return NoiseConditionedPolicy(*shape, generator)
    behavior = FlowMatchingBehaviorPolicy(*shape, about.flow_steps, generator)
    critic = ChunkedCritic(*shape, about.num_critics, about.critic_layer_norm, generator)
    return BestOfNActor(behavior, critic, about)


def actor_weights(networks: Networks, info: PolicyInfo) -> dict[str, Tensor]:
    """Return the weights, out of training's networks, of the actor that `info` describes."""
    if info.best_of_n is None:
        return networks.policy.state_dict()
    parts = {'behavior': networks.behavior, 'critic': networks.critic}
    return {f'{n}.{k}': v for n, part in parts.items() for k, v in part.state_dict().items()}
