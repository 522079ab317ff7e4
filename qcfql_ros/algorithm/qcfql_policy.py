# SPDX-License-Identifier: Apache-2.0
"""QC-FQL as one module, for one's own training loop.

::

    policy = QCFQLPolicy(QCFQLConfig(state_dim=28, action_dim=5))
    losses = policy.forward(batch)
    losses['loss_behavior'].backward()      # each loss reaches its own network alone, and may be
    ...                                     # stepped before the next one's backward
    policy.update_target_networks()
    action = policy.select_action({'observation.state': observation})

`qcfql_ros.algorithm.update` is the faster loop that the package itself trains with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from qcfql_ros.algorithm.batch import Batch, Info, Noise
from qcfql_ros.algorithm.best_of_n import best_of_n
from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.algorithm.feature_batch import STATE, windows_from_features
from qcfql_ros.algorithm.losses import Losses, all_losses
from qcfql_ros.algorithm.networks import (
    ChunkedCritic,
    FlowMatchingBehaviorPolicy,
    Networks,
    NoiseConditionedPolicy,
)
from qcfql_ros.errors import ParameterError

QCFQLConfig = AlgorithmConfig


class PolicyLosses:
    """What `QCFQLPolicy.forward` gives: losses by name, or ``total, info = ...``.

    Names: ``loss_behavior``, ``loss_critic`` and ``loss_policy`` carry gradients; the others, see
    ``docs/metrics.md``, are detached.
    """

    def __init__(self, losses: Losses) -> None:
        self.losses = losses
        self._with_gradient = {
            'loss_behavior': losses.behavior,
            'loss_critic': losses.critic,
            'loss_policy': losses.policy,
        }

    def __getitem__(self, name: str) -> Tensor:
        """Return a loss, or a number of the log; raises KeyError for an unknown name."""
        return self._with_gradient[name] if name in self._with_gradient else self.losses.info[name]

    def __iter__(self) -> Iterator[Tensor | Info]:
        """Yield the sum of the losses, then the numbers of the log."""
        yield self.losses.total
        yield self.losses.info

    def __contains__(self, name: object) -> bool:
        """Whether there is a loss or a number of the log by this name."""
        return name in self.keys()

    def keys(self) -> list[str]:
        """Return all names."""
        return list(self.losses.info | self._with_gradient)

    def items(self) -> list[tuple[str, Tensor]]:
        """Return names and values."""
        return [(name, self[name]) for name in self.keys()]


class QCFQLPolicy(nn.Module):
    """Behaviour flow, critics, targets and noise-conditioned policy.

    Args:
        config: the settings; `AlgorithmConfig` by another name.
        seed: of the initial weights. Noise comes from torch's default generators.
    """

    def __init__(self, config: QCFQLConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.networks = Networks(config, seed)
        self._queue: deque[Tensor] = deque()

    @property
    def behavior_policy(self) -> FlowMatchingBehaviorPolicy:
        """The behaviour flow."""
        return self.networks.behavior

    @property
    def critic(self) -> ChunkedCritic:
        """The critics."""
        return self.networks.critic

    @property
    def target_critic(self) -> ChunkedCritic:
        """The critics' moving average; not trained."""
        return self.networks.target_critic

    @property
    def policy(self) -> NoiseConditionedPolicy:
        """The noise-conditioned policy."""
        return self.networks.policy

    def forward(
        self, batch: Mapping[str, Tensor] | Batch, noise: Noise | None = None
    ) -> PolicyLosses:
        """Return the three losses of a batch.

        Args:
            batch: named features, see `windows_from_features`; or windows of the replay.
            noise: all that is random; drawn here when None.

        Raises:
            ParameterError: a feature is missing or has another shape.
        """
        if not isinstance(batch, Batch):
            batch = windows_from_features(batch, self.config)
        if noise is None:
            noise = Noise.draw(len(batch.state), self.config, None, batch.state.device)
        weight = self.config.distillation_weight
        losses = all_losses(self.networks, batch, noise, self.config, weight)
        if self.config.actor == 'best_of_n':
            # Nothing is distilled: a 0 whose backward gives gradients of 0, for loops that step
            # all three.
            zero = 0.0 * torch.stack([p.sum() for p in self.policy.parameters()]).sum()
            losses = replace(losses, policy=zero)
        return PolicyLosses(losses)

    @torch.no_grad()
    def update_target_networks(self) -> None:
        """Move the target critics by ``critic_target_update_tau`` towards the critics.

        Called behind the critic's step, as in the usual loop, it takes the stepped critics; the
        paper's code takes those from before: call it before the step for that.
        """
        self.networks.update_targets(self.config.critic_target_update_tau)

    @torch.no_grad()
    def predict_action_chunk(
        self, batch: Mapping[str, Tensor], noise: Tensor | None = None
    ) -> Tensor:
        """Return chunks, (batch, chunk, action_dim) in [-1, 1].

        Args:
            batch: ``observation.state``, (batch, state_dim).
            noise: (batch, chunk, action_dim) standard normal, for a best-of-N actor
                (batch, N, chunk, action_dim); drawn here when None.
        """
        config, state = self.config, _state(batch, self.config.state_dim)
        shape: tuple[int, ...] = (config.action_chunk_size, config.action_dim)
        if config.actor == 'best_of_n':
            shape = (config.num_action_samples, *shape)
        if noise is None:
            noise = torch.randn(len(state), *shape, device=state.device, dtype=state.dtype)
        if config.actor == 'best_of_n':
            return best_of_n(self.behavior_policy, self.critic, state, noise, config)
        return self.policy(state, noise).clamp(-1.0, 1.0)

    @torch.no_grad()
    def select_action(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the next action of the chunk being played, and plan one when it is used up.

        Args:
            batch: ``observation.state``, (batch, state_dim) or (state_dim,).

        Returns:
            (batch, action_dim), or (action_dim,), in [-1, 1].
        """
        single = batch[STATE].ndim == 1 if STATE in batch else False
        state = _state(batch, self.config.state_dim)
        if not self._queue:
            self._queue.extend(self.predict_action_chunk({STATE: state}).unbind(1))
        if len(self._queue[0]) != len(state):
            raise ParameterError(
                f'batch of {len(state)} observations inside a chunk planned for '
                f'{len(self._queue[0])}; call reset() first'
            )
        action = self._queue.popleft()
        return action[0] if single else action

    def reset(self) -> None:
        """Forget the chunk being played: call it when an episode begins."""
        self._queue.clear()


def _state(batch: Mapping[str, Tensor], state_dim: int) -> Tensor:
    if STATE not in batch:
        raise ParameterError(f'batch has no {STATE!r}; it has {", ".join(sorted(batch))}')
    state = batch[STATE]
    if state.ndim not in (1, 2) or state.shape[-1] != state_dim:
        raise ParameterError(
            f'batch: {STATE} has shape {tuple(state.shape)}, wanted (batch, {state_dim})'
        )
    return state.reshape(-1, state_dim)
