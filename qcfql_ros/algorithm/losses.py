# SPDX-License-Identifier: Apache-2.0
"""The three losses of QC-FQL as functions of tensors (arXiv 2507.07969, section 4).

Each returns ``(loss, info)``; `info` holds detached scalars for the log, explained in
``docs/metrics.md``. `all_losses` puts them together for one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcfql_ros.algorithm.batch import Batch, Info, Noise
from qcfql_ros.algorithm.best_of_n import aggregate, best_of_n
from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.algorithm.networks import (
    ChunkedCritic,
    FlowMatchingBehaviorPolicy,
    Networks,
)

MAX_VALUE_WEIGHT = 20.0  # as Wang et al. 2020 (CRR) cut their exponential weights


@dataclass(frozen=True)
class Losses:
    """The losses of one batch.

    Attributes:
        behavior, critic, policy: scalars with gradient, each to one network's weights alone.
        info: detached scalars for the log.
        q_input: the policy's chunks as they enter the critic: after a backward its `grad` is
            that of the Q term. None where no policy is distilled.
        distillation_gradient: gradient of the weighted distillation loss to those chunks.
    """

    behavior: Tensor
    critic: Tensor
    policy: Tensor
    info: Info
    q_input: Tensor | None = None
    distillation_gradient: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The sum: one backward of it gives each network the gradient of its own loss."""
        return self.behavior + self.critic + self.policy

    def behavior_share(self) -> Info:
        """Return the behaviour's share of the policy's gradient, once there was a backward.

        With d and q the gradients of the weighted distillation and of the Q term to the policy's
        chunks, ``|d| / (|d| + |q|)`` in Frobenius norms: 1 is imitation alone, 0 is Q alone.
        """
        if self.q_input is None or self.q_input.grad is None:
            return {}
        assert self.distillation_gradient is not None
        distillation = torch.linalg.vector_norm(self.distillation_gradient)
        total = distillation + torch.linalg.vector_norm(self.q_input.grad)
        return {'behavior_share': distillation / total.clamp_min(1e-30)}


def all_losses(
    networks: Networks,
    batch: Batch,
    noise: Noise,
    config: AlgorithmConfig,
    distillation_weight: Tensor | float,
) -> Losses:
    """Return the three losses of `batch`; no state is changed.

    Args:
        networks: flow, policy, critics and target critics.
        batch: windows of ``config.window_steps`` steps.
        noise: all that is random.
        config: the settings.
        distillation_weight: instead of the config's, for it may change during a run.
    """
    nets, chunk = networks, batch.chunk
    distilled = config.actor == 'distilled'
    weights = teacher = None
    with torch.no_grad():
        if distilled or config.terminal_windows or config.behavior_weighting == 'value':
            teacher = nets.behavior.sample(batch.state, noise=noise.policy)
            chunk = batch.filled_chunk(teacher)
        if config.behavior_weighting == 'value':
            assert teacher is not None
            weights = value_weights(nets.target_critic, batch.state, chunk, teacher, config)
    target = critic_target(nets, batch, noise, config)
    critic, info_critic = critic_loss(nets.critic, batch, chunk, target)
    behavior, info_behavior = behavior_loss(
        nets.behavior, batch, chunk, noise, config.flow_matching_sigma, weights
    )
    info = {**info_critic, **info_behavior}
    if weights is not None:
        # The effective share of the batch that behaviour is learned from (Kish).
        info['weight_share'] = weights.mean().square() / weights.square().mean()
    if not distilled:
        return Losses(behavior, critic, torch.zeros_like(critic), info)
    assert teacher is not None
    student = nets.policy(batch.state, noise.policy)
    q_input = student.view_as(student)
    if q_input.requires_grad:
        q_input.retain_grad()
    policy, info_policy = policy_loss(
        student, q_input, nets.critic, batch.state, teacher, config, distillation_weight
    )
    gradient = (student.detach() - teacher) * (2.0 / teacher.numel()) * distillation_weight
    return Losses(behavior, critic, policy, {**info, **info_policy}, q_input, gradient)


def behavior_loss(
    flow: FlowMatchingBehaviorPolicy,
    batch: Batch,
    chunk: Tensor,
    noise: Noise,
    sigma: float,
    weights: Tensor | None = None,
) -> tuple[Tensor, Info]:
    """Flow matching on chunks, masked by `valid` and weighted by `weights`, (batch,).

    `chunk` is the batch's chunk with its unknown tails filled: they do not count, but the flow
    sees them, and a constant there would tell it of the end.

    ``x_t = (1 - (1 - sigma) t) x_0 + t x_1``, target ``x_1 - (1 - sigma) x_0`` (Lipman et al.
    2022, eq. 22 and 23). The mean counts masked entries, as the reference does.
    """
    time = noise.flow_time[:, None, None]
    point = (1.0 - (1.0 - sigma) * time) * noise.flow_start + time * chunk
    target = chunk - (1.0 - sigma) * noise.flow_start
    error = (flow(batch.state, point, noise.flow_time) - target).square()
    mask = batch.valid if weights is None else batch.valid * weights[:, None]
    loss = (error * mask[:, :, None]).mean()
    return loss, {'loss_behavior': loss.detach()}


def value_weights(
    target_critic: ChunkedCritic,
    state: Tensor,
    chunk: Tensor,
    sample: Tensor,
    config: AlgorithmConfig,
) -> Tensor:
    """Return weights of the behaviour loss, (batch,), with mean 1 and without gradient.

    ``exp(A / behavior_temperature)``, at most 20, over its mean; the advantage A of a recorded
    chunk is its aggregated target value less that of `sample`, the behaviour flow's own chunk
    at that state (Wang et al. 2020, CRR, with one sample).
    """
    how = (config.critic_aggregation, config.pessimism)
    advantage = aggregate(target_critic.values(state, chunk), *how)
    advantage = advantage - aggregate(target_critic.values(state, sample), *how)
    weights = (advantage / config.behavior_temperature).exp().clamp_max(MAX_VALUE_WEIGHT)
    return weights / weights.mean().clamp_min(1e-30)


def critic_target(
    networks: Networks, batch: Batch, noise: Noise, config: AlgorithmConfig
) -> Tensor:
    """Return ``R + discount^n m agg Qbar(s', a')``, (batch,), without gradient.

    a' is ``clip(mu(s', z'))``, or with best_of_n the flow's sample that the online critics
    think best.
    """
    state = batch.next_state
    with torch.no_grad():
        if config.actor == 'distilled':
            chunk = networks.policy(state, noise.next_policy).clamp(-1.0, 1.0)
        else:
            assert noise.candidates is not None
            chunk = best_of_n(networks.behavior, networks.critic, state, noise.candidates, config)
        values = networks.target_critic.values(state, chunk)
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
    return loss, {
        'loss_critic': loss.detach(),
        'q_mean': detached.mean(),
        'q_max': detached.max(),
        'q_min': detached.min(),
        'q_spread': detached.std(0, unbiased=False).mean(),
        'q_target': target.mean(),
    }


def policy_loss(
    student: Tensor,
    q_input: Tensor,
    critic: ChunkedCritic,
    state: Tensor,
    teacher: Tensor,
    config: AlgorithmConfig,
    weight: Tensor | float,
) -> tuple[Tensor, Info]:
    """``weight * mean (mu(s, z) - flow(s, z))^2 - mean Q(s, clip(mu(s, z)))``.

    Args:
        student: ``mu(s, z)``, (batch, chunk, action_dim), not clipped in the distillation.
        q_input: the same tensor, by a name of its own in the graph.
        critic: the online critics; their weights get no gradient.
        state: (batch, state_dim).
        teacher: the clipped flow sample from the same z, without gradient.
        config: for `normalize_q_loss`.
        weight: of the distillation.
    """
    distillation = (student - teacher).square().mean()
    values = critic.values(state, q_input.clamp(-1.0, 1.0), frozen=True)
    q_value = values.mean()
    q_loss = -q_value
    if config.normalize_q_loss:
        # The size of the mean over members, as FQL's code takes it.
        q_loss = q_loss / values.detach().mean(0).abs().mean().clamp_min(1e-6)
    loss = weight * distillation + q_loss
    outside = (student.detach().abs() > 1.0).to(student.dtype).mean()
    return loss, {
        'loss_policy': loss.detach(),
        'loss_distillation': distillation.detach(),
        'q_policy': q_value.detach(),
        'clip_fraction': outside,
    }
