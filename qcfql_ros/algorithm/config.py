# SPDX-License-Identifier: Apache-2.0
"""The settings of QC-FQL that change what is computed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from qcfql_ros.errors import ParameterError, nearest

AGGREGATIONS = ('min', 'mean', 'mean_minus_std')
BEHAVIOR_WEIGHTINGS = ('uniform', 'success')


@dataclass(frozen=True)
class AlgorithmConfig:
    """Everything the mathematics depends on; frozen, checked where it is made.

    Names are those of the package's public face; the paper's names (Li, Zhou and Levine 2025,
    arXiv 2507.07969) stand in brackets.

    Attributes:
        state_dim: size of ``observation.state``.
        action_dim: size of one action row.
        action_chunk_size: actions in a chunk [h].
        num_critics: members of the critic ensemble [K].
        critic_aggregation: how members become one target value: min, mean or mean_minus_std.
        pessimism: rho of mean_minus_std, in standard deviations.
        distillation_weight: weight of the distillation loss [alpha].
        discount: per step [gamma].
        critic_target_update_tau: rate of the exponential moving average [tau].
        flow_matching_sigma: sigma_min of Lipman et al. 2022.
        flow_matching_num_inference_steps: Euler steps [T].
        hidden_dims: hidden layer sizes of all networks.
        critic_layer_norm: LayerNorm after each hidden activation of the critics.
        normalize_q_loss: scale the Q term of the policy loss by 1 / mean|Q|.
        terminal_windows: learn from windows that hold a termination before their last step.
        behavior_weighting: whom the behaviour policy imitates: uniform, everything recorded;
            success, what led to a success. Demonstrations always count.
        learning_rate: Adam, all networks.
        batch_size: windows in one update.
    """

    state_dim: int
    action_dim: int
    action_chunk_size: int = 4
    num_critics: int = 10
    critic_aggregation: str = 'min'
    pessimism: float = 0.5
    distillation_weight: float = 1.0
    discount: float = 0.99
    critic_target_update_tau: float = 0.005
    flow_matching_sigma: float = 0.001
    flow_matching_num_inference_steps: int = 10
    hidden_dims: tuple[int, ...] = (256, 256, 256)
    critic_layer_norm: bool = True
    normalize_q_loss: bool = False
    terminal_windows: bool = True
    behavior_weighting: str = 'uniform'
    learning_rate: float = 3e-4
    batch_size: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, 'hidden_dims', tuple(int(size) for size in self.hidden_dims))
        for name in ('state_dim', 'action_dim', 'action_chunk_size', 'num_critics', 'batch_size'):
            self._require(name, getattr(self, name) >= 1, 'at least 1')
        self._require('hidden_dims', all(n >= 1 for n in self.hidden_dims), 'sizes of at least 1')
        self._require('critic_aggregation', self.critic_aggregation in AGGREGATIONS, AGGREGATIONS)
        weighting = self.behavior_weighting
        self._require('behavior_weighting', weighting in BEHAVIOR_WEIGHTINGS, BEHAVIOR_WEIGHTINGS)
        self._require('discount', 0.0 <= self.discount <= 1.0, 'in [0, 1]')
        tau = self.critic_target_update_tau
        self._require('critic_target_update_tau', 0.0 < tau <= 1.0, 'in (0, 1]')
        self._require('flow_matching_sigma', 0.0 <= self.flow_matching_sigma < 1.0, 'in [0, 1)')
        steps = self.flow_matching_num_inference_steps
        self._require('flow_matching_num_inference_steps', steps >= 1, 'at least 1')
        for name in ('distillation_weight', 'pessimism'):
            value = getattr(self, name)
            self._require(name, math.isfinite(value) and value >= 0.0, 'finite and >= 0')
        self._require('learning_rate', 0.0 < self.learning_rate < 1.0, 'in (0, 1)')

    def _require(self, name: str, holds: bool, wanted: object) -> None:
        if not holds:
            raise ParameterError(f'{name}: got {getattr(self, name)!r}, wanted {wanted}')

    @property
    def chunk_dim(self) -> int:
        """Size of a flattened chunk."""
        return self.action_chunk_size * self.action_dim

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = asdict(self)
        values['hidden_dims'] = list(self.hidden_dims)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AlgorithmConfig:
        """Rebuild from `to_dict`; raises ParameterError for an unknown name."""
        known = {entry.name for entry in fields(cls)}
        for name in values:
            if name not in known:
                raise ParameterError(f'unknown setting {name!r}{nearest(name, known)}')
        return cls(**values)

    def with_changes(self, **changes: Any) -> AlgorithmConfig:
        """Return a copy with some values changed."""
        return replace(self, **changes)


#: Settings by one word; docs/algorithm.md lists them.
PRESETS: dict[str, dict[str, Any]] = {
    'long_horizon': {'action_chunk_size': 4, 'num_critics': 10, 'distillation_weight': 1.0},
    'short': {'action_chunk_size': 2, 'num_critics': 5, 'distillation_weight': 1.0},
    'complex': {'action_chunk_size': 8, 'num_critics': 20, 'distillation_weight': 2.0},
    'paper': {
        'action_chunk_size': 5,
        'num_critics': 2,
        'critic_aggregation': 'mean',
        'distillation_weight': 100.0,
        'flow_matching_sigma': 0.0,
        'hidden_dims': (512, 512, 512, 512),
        'terminal_windows': False,
    },
}


def preset(name: str) -> dict[str, Any]:
    """Return the values that preset `name` sets; raises ParameterError for an unknown one."""
    if name not in PRESETS:
        raise ParameterError(
            f'preset {name!r} is unknown{nearest(name, PRESETS)} (valid: {", ".join(PRESETS)})'
        )
    return dict(PRESETS[name])
