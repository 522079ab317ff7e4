# SPDX-License-Identifier: Apache-2.0
"""The settings of QC-FQL that change what is computed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from qcfql_ros.errors import ParameterError, nearest

AGGREGATIONS = ('min', 'mean', 'mean_minus_std')
BEHAVIOR_WEIGHTINGS = ('uniform', 'success', 'value')
ACTORS = ('distilled', 'best_of_n')
WINDOW_SAMPLINGS = ('legal', 'reference')
TARGET_UPDATES = ('before', 'after')
BIAS_CORRECTIONS = ('exact', 'float32')

_CHOICES: dict[str, tuple[str, ...]] = {
    'critic_aggregation': AGGREGATIONS,
    'actor': ACTORS,
    'behavior_weighting': BEHAVIOR_WEIGHTINGS,
    'window_sampling': WINDOW_SAMPLINGS,
    'target_update': TARGET_UPDATES,
    'adam_bias_correction': BIAS_CORRECTIONS,
}
_COUNTS = (
    'state_dim',
    'action_dim',
    'action_chunk_size',
    'num_critics',
    'num_action_samples',
    'flow_matching_num_inference_steps',
    'batch_size',
)


@dataclass(frozen=True)
class AlgorithmConfig:
    """Everything the mathematics depends on; frozen, checked where it is made.

    Names are those of the package's public face; the paper's names (Li, Zhou and Levine 2025,
    arXiv 2507.07969) stand in brackets.

    From `terminal_windows` on they are the numbered deviations of ``docs/algorithm.md``; preset
    ``paper`` sets each as the authors have it.

    Attributes:
        state_dim: size of ``observation.state``.
        action_dim: size of one action row.
        action_chunk_size: actions in a chunk [h].
        return_steps: steps summed up before the bootstrap [n]; 0 for a whole chunk. Above
            `action_chunk_size` it is the biased n-step return of the first actions (FQL-n).
        num_critics: members of the critic ensemble [K].
        critic_aggregation: how members become one target value: min, mean or mean_minus_std.
        pessimism: rho of mean_minus_std, in standard deviations.
        actor: distilled, the noise-conditioned policy (QC-FQL); best_of_n, the best by the critic
            of `num_action_samples` samples of the behaviour flow (QC).
        num_action_samples: of best_of_n [N].
        distillation_weight: weight of the distillation loss [alpha].
        discount: per step [gamma].
        critic_target_update_tau: rate of the exponential moving average [tau].
        flow_matching_sigma: sigma_min of Lipman et al. 2022.
        flow_matching_num_inference_steps: Euler steps [T].
        hidden_dims: hidden layer sizes of all networks.
        critic_layer_norm: LayerNorm after each hidden activation of the critics.
        normalize_q_loss: scale the Q term of the policy loss by 1 / mean|Q|.
        behavior_weighting: whom the behaviour policy imitates: uniform, everything recorded;
            success, what led to a success (demonstrations always count); value, each chunk by
            exp(advantage / behavior_temperature).
        behavior_temperature: of value weighting, in units of Q.
        imitate_short_segments: segments too short for the critic are drawn for the behaviour,
            with weight 0 for the critic. With ``window_sampling: reference`` all are drawn anyway.
        learning_rate: Adam, all networks.
        batch_size: windows in one update.
        terminal_windows: learn from windows that a termination cuts short.
        rewards_after_termination: rewards behind a termination inside a window count.
        window_sampling: legal, only windows that can be learned from are drawn; reference, any
            start is drawn and windows over an end of an episode get weight 0.
        price_failure: a termination without success costs its step's reward for ever, where the
            contract names no `failure_reward`.
        target_update: the moving average takes the critics from before or after the step.
        adam_bias_correction: exact; or float32, rounded as JAX does.
    """

    state_dim: int
    action_dim: int
    action_chunk_size: int = 4
    return_steps: int = 0
    num_critics: int = 10
    critic_aggregation: str = 'min'
    pessimism: float = 0.5
    actor: str = 'distilled'
    num_action_samples: int = 32
    distillation_weight: float = 1.0
    discount: float = 0.99
    critic_target_update_tau: float = 0.005
    flow_matching_sigma: float = 0.001
    flow_matching_num_inference_steps: int = 10
    hidden_dims: tuple[int, ...] = (256, 256, 256)
    critic_layer_norm: bool = True
    normalize_q_loss: bool = False
    behavior_weighting: str = 'uniform'
    behavior_temperature: float = 1.0
    imitate_short_segments: bool = False
    learning_rate: float = 3e-4
    batch_size: int = 256
    terminal_windows: bool = True
    rewards_after_termination: bool = False
    window_sampling: str = 'legal'
    price_failure: bool = True
    target_update: str = 'before'
    adam_bias_correction: str = 'exact'

    def __post_init__(self) -> None:
        object.__setattr__(self, 'hidden_dims', tuple(int(size) for size in self.hidden_dims))
        for name in _COUNTS:
            self._require(name, getattr(self, name) >= 1, 'at least 1')
        for name, choices in _CHOICES.items():
            self._require(name, getattr(self, name) in choices, choices)
        self._require('hidden_dims', all(n >= 1 for n in self.hidden_dims), 'sizes of at least 1')
        steps, chunk = self.return_steps, self.action_chunk_size
        self._require('return_steps', steps == 0 or steps >= chunk, f'0 or at least {chunk}')
        self._require('discount', 0.0 <= self.discount <= 1.0, 'in [0, 1]')
        tau = self.critic_target_update_tau
        self._require('critic_target_update_tau', 0.0 < tau <= 1.0, 'in (0, 1]')
        self._require('flow_matching_sigma', 0.0 <= self.flow_matching_sigma < 1.0, 'in [0, 1)')
        for name in ('distillation_weight', 'pessimism'):
            value = getattr(self, name)
            self._require(name, math.isfinite(value) and value >= 0.0, 'finite and >= 0')
        temperature = self.behavior_temperature
        holds = math.isfinite(temperature) and temperature > 0.0
        self._require('behavior_temperature', holds, 'finite and > 0')
        self._require('learning_rate', 0.0 < self.learning_rate < 1.0, 'in (0, 1)')
        if self.window_sampling == 'reference' and self.terminal_windows:
            raise ParameterError(
                'window_sampling: reference gives windows over an end weight 0 and cannot learn '
                'from them; set terminal_windows to false, or window_sampling to legal'
            )

    def _require(self, name: str, holds: bool, wanted: object) -> None:
        if not holds:
            raise ParameterError(f'{name}: got {getattr(self, name)!r}, wanted {wanted}')

    @property
    def chunk_dim(self) -> int:
        """Size of a flattened chunk."""
        return self.action_chunk_size * self.action_dim

    @property
    def window_steps(self) -> int:
        """Steps of a window: as many as the return sums up."""
        return self.return_steps or self.action_chunk_size

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
    # Everything, so that no default of ours can ever change what it means.
    'paper': {
        'action_chunk_size': 5,
        'return_steps': 0,
        'num_critics': 2,
        'critic_aggregation': 'mean',
        'pessimism': 0.0,
        'actor': 'distilled',
        'num_action_samples': 32,
        'distillation_weight': 100.0,
        'discount': 0.99,
        'critic_target_update_tau': 0.005,
        'flow_matching_sigma': 0.0,
        'flow_matching_num_inference_steps': 10,
        'hidden_dims': (512, 512, 512, 512),
        'critic_layer_norm': True,
        'normalize_q_loss': False,
        'behavior_weighting': 'uniform',
        'behavior_temperature': 1.0,
        'imitate_short_segments': False,
        'learning_rate': 3e-4,
        'batch_size': 256,
        'terminal_windows': False,
        'rewards_after_termination': True,
        'window_sampling': 'reference',
        'price_failure': False,
        'target_update': 'before',
        'adam_bias_correction': 'float32',
    },
}

#: The methods of the comparison table, on the same networks and the same buffer. They set what
#: makes the method; all else is up to the preset and the user.
METHODS: dict[str, dict[str, Any]] = {
    'qc_fql': {'actor': 'distilled'},
    'fql': {'actor': 'distilled', 'action_chunk_size': 1},
    'fql_n': {'actor': 'distilled', 'action_chunk_size': 1, 'return_steps': 5},
    'qc': {'actor': 'best_of_n', 'num_action_samples': 32},
    'bfn': {'actor': 'best_of_n', 'num_action_samples': 4, 'action_chunk_size': 1},
    'bc': {'actor': 'best_of_n', 'num_action_samples': 1},
}


def preset(name: str) -> dict[str, Any]:
    """Return the values that preset `name` sets; raises ParameterError for an unknown one."""
    return _named('preset', name, PRESETS)


def method(name: str) -> dict[str, Any]:
    """Return the values that method `name` sets; raises ParameterError for an unknown one."""
    return _named('method', name, METHODS)


def _named(what: str, name: str, table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if name not in table:
        raise ParameterError(
            f'{what} {name!r} is unknown{nearest(name, table)} (valid: {", ".join(table)})'
        )
    return dict(table[name])
