# SPDX-License-Identifier: Apache-2.0
"""The three losses of QC-FQL as functions of tensors (arXiv 2507.07969, section 4).

Each returns ``(loss, info)``; `info` holds detached scalars for the log.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.algorithm.networks import (
    ChunkedCritic,
    FlowMatchingBehaviorPolicy,
    NoiseConditionedPolicy,
)

Info = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Windows of h steps.

    ::

        state     a_0   a_1   ...  a_{h-1}      next_state
          s_t    [--------- chunk ---------]      s_{t+h}
                  first terminated step m: reward sums r_0..r_m, bootstrap 0,
                  the chunk behind m: recorded if the segment goes on, else planned, else unknown

    Attributes:
        state: (batch, state_dim) float32.
        chunk: (batch, chunk, action_dim) float32 in [-1, 1]; the tail behind a termination is
            filled as `tail_unknown` says.
        valid: (batch, chunk) float32, 1 where behaviour is learned from: not where a tail is
            filled, nor where `behavior_weighting` leaves a failure out.
        tail_unknown: (batch, chunk) bool, where nothing was recorded or planned: filled from the
            behaviour flow at each use.
        reward: (batch,) float32, discounted sum inside the window.
        bootstrap: (batch,) float32, discount ** h, or 0 after a termination.
        next_state: (batch, state_dim) float32, the state behind the window.
        weight: (batch,) float32, of each window in the critic's loss. Always 1 for windows that
            our replay draws; the reference draws illegal ones too and gives them 0.
    """

    state: Tensor
    chunk: Tensor
    valid: Tensor
    tail_unknown: Tensor
    reward: Tensor
    bootstrap: Tensor
    next_state: Tensor
    weight: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Noise:
    """All random numbers of one update, so that an update is a function of its arguments.

    Attributes:
        flow_start: (batch, chunk, action_dim), x_0 of flow matching.
        flow_time: (batch,) uniform in [0, 1).
        policy: (batch, chunk, action_dim), z of policy and distillation.
        next_policy: (batch, chunk, action_dim), z' of the target's chunk.
    """

    flow_start: Tensor
    flow_time: Tensor
    policy: Tensor
    next_policy: Tensor

    @classmethod
    def draw(cls, batch: int, config: AlgorithmConfig, generator: torch.Generator) -> Noise:
        """Draw for `batch` windows on the generator's device."""
        shape = (batch, config.action_chunk_size, config.action_dim)
        device = generator.device
        normal = torch.randn((3, *shape), generator=generator, device=device)
        time = torch.rand(batch, generator=generator, device=device)
        return cls(normal[0], time, normal[1], normal[2])


def behavior_loss(
    flow: FlowMatchingBehaviorPolicy, batch: Batch, noise: Noise, sigma: float
) -> tuple[Tensor, Info]:
    """Flow matching on chunks, masked behind a termination.

    ``x_t = (1 - (1 - sigma) t) x_0 + t x_1``, target ``x_1 - (1 - sigma) x_0`` (Lipman et al.
    2022, eq. 22 and 23). The mean counts masked entries, as the reference does.
    """
    time = noise.flow_time[:, None, None]
    point = (1.0 - (1.0 - sigma) * time) * noise.flow_start + time * batch.chunk
    target = batch.chunk - (1.0 - sigma) * noise.flow_start
    error = (flow(batch.state, point, noise.flow_time) - target).square()
    loss = (error * batch.valid[:, :, None]).mean()
    return loss, {'loss_behavior': loss.detach()}


def aggregate(values: Tensor, how: str, pessimism: float) -> Tensor:
    """Return one value a sample from (members, batch): min, mean, or mean minus rho times std."""
    if how == 'min':
        return values.amin(0)
    if how == 'mean':
        return values.mean(0)
    return values.mean(0) - pessimism * values.std(0, unbiased=False)


def critic_target(
    target_critic: ChunkedCritic,
    policy: NoiseConditionedPolicy,
    batch: Batch,
    noise: Noise,
    config: AlgorithmConfig,
) -> Tensor:
    """Return ``R + discount^h m agg Qbar(s', clip(mu(s', z')))``, (batch,), without gradient."""
    with torch.no_grad():
        next_chunk = policy(batch.next_state, noise.next_policy).clamp(-1.0, 1.0)
        values = target_critic.values(batch.next_state, next_chunk)
        value = aggregate(values, config.critic_aggregation, config.pessimism)
        return batch.reward + batch.bootstrap * value


def critic_loss(
    critic: ChunkedCritic, batch: Batch, chunk: Tensor, target: Tensor
) -> tuple[Tensor, Info]:
    """Mean over members and samples of the squared distance to `target`, (batch,).

    `chunk` is the batch's chunk with its unknown tails filled.
    """
    values = critic.values(batch.state, chunk)
    loss = ((values - target).square() * batch.weight).mean()
    detached = values.detach()
    info = {'loss_critic': loss.detach(), 'q_mean': detached.mean(), 'q_max': detached.max()}
    info['q_min'] = detached.min()
    info['q_spread'] = detached.std(0, unbiased=False).mean()
    return loss, info


def policy_loss(
    policy: NoiseConditionedPolicy,
    critic: ChunkedCritic,
    batch: Batch,
    noise: Noise,
    teacher: Tensor,
    config: AlgorithmConfig,
    weight: Tensor | float,
) -> tuple[Tensor, Info]:
    """``weight * mean (mu(s, z) - flow(s, z))^2 - mean Q(s, clip(mu(s, z)))``.

    `teacher` is the clipped flow sample from the same z, without gradient; the student is not
    clipped in the distillation. The critic's weights get no gradient.
    """
    student = policy(batch.state, noise.policy)
    distillation = (student - teacher).square().mean()
    values = critic.values(batch.state, student.clamp(-1.0, 1.0), frozen=True)
    q_value = values.mean()
    q_loss = -q_value
    if config.normalize_q_loss:
        q_loss = q_loss / values.detach().abs().mean().clamp_min(1e-6)
    loss = weight * distillation + q_loss
    outside = (student.detach().abs() > 1.0).to(student.dtype).mean()
    return loss, {
        'loss_policy': loss.detach(),
        'loss_distillation': distillation.detach(),
        'q_policy': q_value.detach(),
        'clip_fraction': outside,
    }
