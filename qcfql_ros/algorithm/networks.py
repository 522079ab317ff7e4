# SPDX-License-Identifier: Apache-2.0
"""The three networks of QC-FQL: velocity field, noise-conditioned policy, critic ensemble.

All are multilayer perceptrons with GELU in its tanh form. Actors have no LayerNorm; critics have
one after each activation (eps 1e-6). Weights start Xavier-uniform with gain 1, fans counted per
ensemble member, biases at zero, output layers too (reference: utils/networks.py).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from qcfql_ros.algorithm.activation import gelu
from qcfql_ros.algorithm.config import AlgorithmConfig

LAYER_NORM_EPS = 1e-6

_Layer = tuple[Tensor, ...]  # kernel, bias and, with LayerNorm, scale and shift


class Perceptron(nn.Module):
    """`members` perceptrons evaluated at once; without an ensemble axis where `members` is None.

    Args:
        sizes: input, hidden and output sizes.
        members: size of the ensemble, or None for a single network.
        layer_norm: LayerNorm after each hidden activation.
        generator: source of the initial weights; None for torch's default.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        members: int | None = None,
        layer_norm: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.members = members
        # Matrix products of the hidden layers in bfloat16; the last one in full, for a Q value
        # of -100 would be rounded to halves.
        self.bfloat16_products = False
        lead = () if members is None else (members,)
        self.kernels = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.norm_scales = nn.ParameterList()
        self.norm_biases = nn.ParameterList()
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            bound = math.sqrt(6.0 / (fan_in + fan_out))
            uniform = torch.rand((*lead, fan_in, fan_out), generator=generator)
            self.kernels.append(nn.Parameter((uniform * 2.0 - 1.0) * bound))
            shape = (*lead, fan_out) if members is None else (*lead, 1, fan_out)
            self.biases.append(nn.Parameter(torch.zeros(shape)))
            if layer_norm and index < len(sizes) - 2:
                self.norm_scales.append(nn.Parameter(torch.ones(shape)))
                self.norm_biases.append(nn.Parameter(torch.zeros(shape)))

    def forward(self, inputs: Tensor, frozen: bool = False) -> Tensor:
        """Return (batch, out), or (members, batch, out) for an ensemble.

        Args:
            inputs: (batch, in).
            frozen: run through a detached snapshot of the weights, so that gradients reach the
                inputs only and a later step on the weights does not disturb the graph.
        """
        return self.evaluate(self.layers(frozen), inputs)

    def layers(self, frozen: bool = False) -> list[_Layer]:
        """Return the weights as `evaluate` takes them: prepare once to evaluate many times."""
        prepared = []
        for index, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            weights = [kernel, bias]
            if index < len(self.norm_scales):
                weights += [self.norm_scales[index], self.norm_biases[index]]
            if frozen:
                # A clone, not only a detach: the example of the user's guide steps the critic's
                # optimizer between the forward and the backward of the policy loss, which
                # changes the weights in place.
                weights = [weight.detach().clone() for weight in weights]
            if self.bfloat16_products and index < len(self.kernels) - 1:
                weights[0] = weights[0].bfloat16()
            prepared.append(tuple(weights))
        return prepared

    def evaluate(self, layers: list[_Layer], inputs: Tensor) -> Tensor:
        """Return the output for `inputs`, (batch, in), with weights from `layers`."""
        hidden = inputs
        if self.members is not None:
            hidden = inputs.unsqueeze(0).expand(self.members, -1, -1)
        for index, (kernel, bias, *norm) in enumerate(layers):
            if kernel.dtype == torch.bfloat16:
                hidden = torch.matmul(hidden.bfloat16(), kernel).float().add_(bias)
            elif self.members is None:
                hidden = torch.addmm(bias, hidden, kernel)
            else:
                hidden = torch.baddbmm(bias, hidden, kernel)
            if index < len(layers) - 1:
                hidden = gelu(hidden)
            if norm:
                normal = functional.layer_norm(hidden, hidden.shape[-1:], eps=LAYER_NORM_EPS)
                hidden = torch.addcmul(norm[1], normal, norm[0])
        return hidden


class FlowMatchingBehaviorPolicy(nn.Module):
    """Velocity field v(s, x_t, t) whose flow carries noise to the chunks of the data."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        action_chunk_size: int,
        hidden_dims: tuple[int, ...],
        num_steps: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.chunk_shape = (action_chunk_size, action_dim)
        self.num_steps = num_steps
        chunk_dim = action_chunk_size * action_dim
        self.network = Perceptron(
            (state_dim + chunk_dim + 1, *hidden_dims, chunk_dim), generator=generator
        )

    def forward(self, state: Tensor, action_chunk: Tensor, time: Tensor) -> Tensor:
        """Return the velocity, (batch, chunk, action_dim).

        Args:
            state: (batch, state_dim).
            action_chunk: (batch, chunk, action_dim), the point x_t on the path.
            time: (batch,) or (batch, 1) in [0, 1], given raw to the network.
        """
        batch = state.shape[0]
        inputs = torch.cat([state, action_chunk.reshape(batch, -1), time.reshape(batch, 1)], -1)
        return self.network(inputs).reshape(batch, *self.chunk_shape)

    def sample(
        self, state: Tensor, num_steps: int | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Return chunks in [-1, 1], (batch, chunk, action_dim): Euler, clipped once at the end.

        Args:
            state: (batch, state_dim).
            num_steps: Euler steps; the configured number when None.
            noise: (batch, chunk, action_dim) standard normal; drawn here when None.
        """
        steps = self.num_steps if num_steps is None else num_steps
        batch = state.shape[0]
        if noise is None:
            shape = (batch, *self.chunk_shape)
            noise = torch.randn(shape, device=state.device, dtype=state.dtype)
        point = noise.reshape(batch, -1)
        layers = self.network.layers()
        for index in range(steps):
            time = torch.full((batch, 1), index / steps, device=state.device, dtype=state.dtype)
            inputs = torch.cat([state, point, time], dim=-1)
            point = point + self.network.evaluate(layers, inputs) / steps
        return point.reshape(batch, *self.chunk_shape).clamp(-1.0, 1.0)


class NoiseConditionedPolicy(nn.Module):
    """One-step policy mu(s, z), distilled from the flow and improved by the critic."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        action_chunk_size: int,
        hidden_dims: tuple[int, ...],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.chunk_shape = (action_chunk_size, action_dim)
        chunk_dim = action_chunk_size * action_dim
        self.network = Perceptron(
            (state_dim + chunk_dim, *hidden_dims, chunk_dim), generator=generator
        )

    def forward(self, state: Tensor, noise: Tensor) -> Tensor:
        """Return chunks (batch, chunk, action_dim), not clipped.

        Args:
            state: (batch, state_dim).
            noise: (batch, chunk, action_dim) standard normal.
        """
        batch = state.shape[0]
        inputs = torch.cat([state, noise.reshape(batch, -1)], dim=-1)
        return self.network(inputs).reshape(batch, *self.chunk_shape)


class ChunkedCritic(nn.Module):
    """Ensemble of Q(s, chunk)."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        action_chunk_size: int,
        hidden_dims: tuple[int, ...],
        num_critics: int = 1,
        layer_norm: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.network = Perceptron(
            (state_dim + action_chunk_size * action_dim, *hidden_dims, 1),
            members=num_critics,
            layer_norm=layer_norm,
            generator=generator,
        )

    def forward(self, state: Tensor, action_chunk: Tensor) -> Tensor:
        """Return the mean over members, (batch, 1).

        Args:
            state: (batch, state_dim).
            action_chunk: (batch, chunk, action_dim) in [-1, 1].
        """
        return self.values(state, action_chunk).mean(0).unsqueeze(-1)

    def values(self, state: Tensor, action_chunk: Tensor, frozen: bool = False) -> Tensor:
        """Return every member's value, (num_critics, batch); `frozen` as in `Perceptron`."""
        batch = state.shape[0]
        inputs = torch.cat([state, action_chunk.reshape(batch, -1)], dim=-1)
        return self.network(inputs, frozen=frozen).squeeze(-1)


class Networks(nn.Module):
    """Behaviour flow, noise-conditioned policy, critics and their moving average.

    Args:
        config: the settings.
        seed: of the initial weights.
    """

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

    @torch.no_grad()
    def update_targets(self, tau: float) -> None:
        """Move the target critics towards the critics: ``target += tau (critic - target)``."""
        target, online = self.target_critic.parameters(), self.critic.parameters()
        torch._foreach_lerp_(list(target), list(online), tau)
