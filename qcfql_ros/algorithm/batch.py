# SPDX-License-Identifier: Apache-2.0
"""What one update is a function of: windows of steps, and random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcfql_ros.algorithm.config import AlgorithmConfig

Info = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Windows of n steps and the chunk of k actions that each begins with; n = k but for FQL-n.

    ::

        state     a_0   a_1   ...  a_{k-1}      next_state
          s_t    [--------- chunk ---------]      s_{t+n}
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
        bootstrap: (batch,) float32, discount ** n, or 0 after a termination.
        next_state: (batch, state_dim) float32, the state behind the window.
        weight: (batch,) float32, of each window in the critic's loss: 1 for windows that can be
            learned from. With ``window_sampling: reference`` others are drawn too and have 0.
    """

    state: Tensor
    chunk: Tensor
    valid: Tensor
    tail_unknown: Tensor
    reward: Tensor
    bootstrap: Tensor
    next_state: Tensor
    weight: Tensor

    def filled_chunk(self, sample: Tensor) -> Tensor:
        """Return `chunk` with its unknown tails from `sample`, of the same shape."""
        return torch.where(self.tail_unknown[:, :, None], sample, self.chunk)

    def to(self, target: torch.device | torch.dtype | str) -> Batch:
        """Return the batch on another device, or its real numbers in another type."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if isinstance(target, torch.dtype):
            unknown = values.pop('tail_unknown')
            cast = {name: value.to(target) for name, value in values.items()}
            return Batch(**cast, tail_unknown=unknown)
        return Batch(**{name: value.to(target) for name, value in values.items()})


@dataclass(frozen=True)
class Noise:
    """All random numbers of one update, so that an update is a function of its arguments.

    Attributes:
        flow_start: (batch, chunk, action_dim), x_0 of flow matching.
        flow_time: (batch,) uniform in [0, 1).
        policy: (batch, chunk, action_dim), z of policy and distillation.
        next_policy: (batch, chunk, action_dim), z' of the target's chunk.
        candidates: (batch, N, chunk, action_dim), the samples at the next state that best_of_n
            chooses from; None for other actors.
    """

    flow_start: Tensor
    flow_time: Tensor
    policy: Tensor
    next_policy: Tensor
    candidates: Tensor | None = None

    @classmethod
    def draw(
        cls,
        batch: int,
        config: AlgorithmConfig,
        generator: torch.Generator | None,
        device: torch.device | None = None,
    ) -> Noise:
        """Draw for `batch` windows on `device`, by default the generator's.

        Without a generator torch's default one is drawn from.
        """
        if device is None and generator is not None:
            device = generator.device
        shape = (config.action_chunk_size, config.action_dim)
        normal = torch.randn((3, batch, *shape), generator=generator, device=device)
        time = torch.rand(batch, generator=generator, device=device)
        candidates = None
        if config.actor == 'best_of_n':
            many = (batch, config.num_action_samples, *shape)
            candidates = torch.randn(many, generator=generator, device=device)
        return cls(normal[0], time, normal[1], normal[2], candidates)
