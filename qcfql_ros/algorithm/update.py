# SPDX-License-Identifier: Apache-2.0
"""One update of QC-FQL, and the state that it changes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.algorithm.losses import (
    Batch,
    Info,
    Noise,
    behavior_loss,
    critic_loss,
    critic_target,
    policy_loss,
)
from qcfql_ros.algorithm.networks import (
    ChunkedCritic,
    FlowMatchingBehaviorPolicy,
    NoiseConditionedPolicy,
    Perceptron,
)


class Networks(nn.Module):
    """Behaviour flow, noise-conditioned policy, critics and their moving average."""

    def __init__(self, config: AlgorithmConfig, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shape = (config.state_dim, config.action_dim, config.action_chunk_size)
        hidden = config.hidden_dims
        self.behavior = FlowMatchingBehaviorPolicy(
            *shape, hidden, config.flow_matching_num_inference_steps, generator
        )
        self.policy = NoiseConditionedPolicy(*shape, hidden, generator)
        ensemble = (config.num_critics, config.critic_layer_norm)
        self.critic = ChunkedCritic(*shape, hidden, *ensemble, generator)
        self.target_critic = ChunkedCritic(*shape, hidden, *ensemble)
        self.target_critic.load_state_dict(self.critic.state_dict())
        self.target_critic.requires_grad_(False)


class Update:
    """Networks, optimizer and generator, and the step that moves them on.

    Args:
        config: the settings.
        seed: of the initial weights and of the noise.
        device: where the networks live.
        bfloat16: run matrix products in bfloat16 (weights and their moments stay float32).
    """

    def __init__(
        self,
        config: AlgorithmConfig,
        seed: int = 0,
        device: str = 'cpu',
        bfloat16: bool = False,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.networks = Networks(config, seed).to(self.device)
        for module in self.networks.modules():
            if isinstance(module, Perceptron):
                module.bfloat16_products = bfloat16
        self.trained = [p for p in self.networks.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            self.trained, lr=config.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True
        )
        self.generator = torch.Generator(self.device).manual_seed(seed + 1)
        self.distillation_weight = config.distillation_weight
        self.count = 0
        self._online: list[Tensor] = list(self.networks.critic.parameters())
        self._target: list[Tensor] = list(self.networks.target_critic.parameters())

    def is_finite(self) -> bool:
        """Whether every trained weight is a finite number."""
        return all(bool(torch.isfinite(weight).all()) for weight in self.trained)

    def losses(self, batch: Batch, noise: Noise) -> tuple[Tensor, Info]:
        """Return the sum of the three losses and their parts; no state is changed."""
        nets, config = self.networks, self.config
        with torch.no_grad():
            teacher = nets.behavior.sample(batch.state, noise=noise.policy)
            chunk = torch.where(batch.tail_unknown[:, :, None], teacher, batch.chunk)
        target = critic_target(nets.target_critic, nets.policy, batch, noise, config)
        loss_critic, info_critic = critic_loss(nets.critic, batch, chunk, target)
        loss_behavior, info_behavior = behavior_loss(
            nets.behavior, batch, noise, config.flow_matching_sigma
        )
        loss_policy, info_policy = policy_loss(
            nets.policy, nets.critic, batch, noise, teacher, config, self.distillation_weight
        )
        total = loss_critic + loss_behavior + loss_policy
        return total, {**info_critic, **info_behavior, **info_policy}

    def step(self, batch: Batch, noise: Noise | None = None) -> Info:
        """Move networks, targets and counter one update on and return scalars for the log.

        Each weight stands in exactly one loss, so one backward of the sum gives each network the
        gradient of its own loss. The moving average uses the critic from before the step, as
        the reference does.
        """
        if noise is None:
            noise = Noise.draw(batch.state.shape[0], self.config, self.generator)
        total, info = self.losses(batch, noise)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        with torch.no_grad():
            torch._foreach_lerp_(self._target, self._online, self.config.critic_target_update_tau)
        self.optimizer.step()
        self.count += 1
        return info
