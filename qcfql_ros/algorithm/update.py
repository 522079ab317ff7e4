# SPDX-License-Identifier: Apache-2.0
"""One update of QC-FQL, and the state that it changes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from qcfql_ros.algorithm.batch import Batch, Info, Noise
from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.algorithm.losses import Losses, all_losses, behavior_loss
from qcfql_ros.algorithm.networks import Networks, Perceptron

_BETAS = (0.9, 0.999)
_EPS = 1e-8


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
            self.trained, lr=config.learning_rate, betas=_BETAS, eps=_EPS, fused=True
        )
        self.generator = torch.Generator(self.device).manual_seed(seed + 1)
        self.distillation_weight = config.distillation_weight
        self.count = 0  # updates of all three losses
        self.behavior_count = 0  # updates of the flow alone, before those

    def is_finite(self) -> bool:
        """Whether every trained weight is a finite number."""
        return all(bool(torch.isfinite(weight).all()) for weight in self.trained)

    def losses(self, batch: Batch, noise: Noise) -> Losses:
        """Return the three losses; no state is changed."""
        return all_losses(self.networks, batch, noise, self.config, self.distillation_weight)

    def step(self, batch: Batch, noise: Noise | None = None) -> Info:
        """Move networks, targets and counter one update on and return scalars for the log.

        Each weight stands in exactly one loss, so one backward of the sum gives each network the
        gradient of its own loss.
        """
        if noise is None:
            noise = Noise.draw(batch.state.shape[0], self.config, self.generator)
        losses = self.losses(batch, noise)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        info = {**losses.info, **losses.behavior_share(), **self._gradient_norms()}
        self.apply_gradients()
        return info

    def behavior_step(self, batch: Batch, noise: Noise | None = None) -> Info:
        """Move the behaviour flow alone one update on (``--pretrain behavior``)."""
        if noise is None:
            noise = Noise.draw(batch.state.shape[0], self.config, self.generator)
        flow, sigma, chunk = self.networks.behavior, self.config.flow_matching_sigma, batch.chunk
        if self.config.terminal_windows:
            with torch.no_grad():
                chunk = batch.filled_chunk(flow.sample(batch.state, noise=noise.policy))
        loss, info = behavior_loss(flow, batch, chunk, noise, sigma)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()  # skips what has no gradient
        self.behavior_count += 1
        return info

    def apply_gradients(self) -> None:
        """Take Adam's step and move the targets, with the gradients that are there."""
        tau, before = self.config.critic_target_update_tau, self.config.target_update == 'before'
        if before:  # as the reference: from the critics before the step
            self.networks.update_targets(tau)
        if self.config.adam_bias_correction == 'float32':
            self._round_bias_corrections(self.count + 1)
        self.optimizer.step()
        if not before:
            self.networks.update_targets(tau)
        self.count += 1

    def _gradient_norms(self) -> Info:
        nets = self.networks
        norms = {}
        for name in ('behavior', 'policy', 'critic'):
            gradients = [p.grad for p in getattr(nets, name).parameters() if p.grad is not None]
            if gradients:
                parts: list[Tensor] = list(torch._foreach_norm(gradients))
                norms[f'gradient_norm_{name}'] = torch.linalg.vector_norm(torch.stack(parts))
        return norms

    def _round_bias_corrections(self, count: int) -> None:
        """Let step `count` of Adam divide by bias corrections rounded as JAX (optax) rounds them.

        optax takes ``1 - 0.999**count`` in float32, which is 1.3e-5 off at the first step. A
        learning rate and an epsilon scaled by the ratios give just that.
        """
        one, ratios = np.float32(1.0), []
        for beta in _BETAS:
            rounded = one - np.power(np.float32(beta), np.float32(count), dtype=np.float32)
            ratios.append((1.0 - beta**count) / float(rounded))
        root = math.sqrt(ratios[1])
        for group in self.optimizer.param_groups:
            group['lr'] = self.config.learning_rate * ratios[0] / root
            group['eps'] = _EPS / root
