# SPDX-License-Identifier: Apache-2.0
"""Small networks, batches and noise in float64, as the package and as NumPy see them."""

from __future__ import annotations

import numpy as np
import torch
from numpy_qcfql import Fixed, NumpyBatch, NumpyNoise, Weights, fixed_numbers
from numpy_windows import PlainEpisode, every_ending, window

from qcfql_ros.algorithm.batch import Batch, Noise
from qcfql_ros.algorithm.config import ACTORS, AGGREGATIONS, AlgorithmConfig
from qcfql_ros.algorithm.losses import Losses, all_losses
from qcfql_ros.algorithm.networks import Networks

SMALL = {
    'state_dim': 3,
    'action_dim': 2,
    'action_chunk_size': 3,
    'num_critics': 3,
    'hidden_dims': (8, 7),
    'flow_matching_num_inference_steps': 4,
    'num_action_samples': 5,
    'distillation_weight': 0.7,
    'discount': 0.9,
    'critic_target_update_tau': 0.05,
}
N_STEP = {'action_chunk_size': 1, 'return_steps': 3}
_VARIANTS = [
    {},
    {'critic_layer_norm': False},
    {'behavior_weighting': 'value', 'behavior_temperature': 2.0},
    {'behavior_weighting': 'value', 'behavior_temperature': 0.1},
    {'behavior_weighting': 'success'},
    {'hidden_dims': (6,)},
    {'num_critics': 1},
    {'num_critics': 1, 'critic_aggregation': 'mean_minus_std'},
    N_STEP,
    {'action_chunk_size': 2, 'return_steps': 5},
    *({'flow_matching_num_inference_steps': steps} for steps in (1, 3, 10)),
]
#: Each aggregation with each actor and sigma; then one thing at a time, for each actor.
SETTINGS: list[dict] = [
    {'critic_aggregation': how, 'actor': actor, 'flow_matching_sigma': sigma}
    for how in AGGREGATIONS
    for actor in ACTORS
    for sigma in (0.0, 0.001)
]
SETTINGS += [{'actor': actor, **variant} for actor in ACTORS for variant in _VARIANTS]
SETTINGS += [
    {'critic_aggregation': how, 'behavior_weighting': 'value'}
    for how in AGGREGATIONS
    if how != 'min'
]
SETTINGS += [
    {'critic_aggregation': 'mean_minus_std', 'pessimism': 1.3, 'actor': a} for a in ACTORS
]


def name_of(settings: dict) -> str:
    """Return what pytest prints for a case."""
    return ' '.join(f'{key}={value}' for key, value in settings.items()) or 'defaults'


def config_of(settings: dict) -> AlgorithmConfig:
    return AlgorithmConfig(**{**SMALL, **settings})


def stir(networks: Networks, seed: int = 5) -> Networks:
    """Give every weight a value of its own: biases, norms and targets that matter, large outputs.

    At the start biases are 0, scales 1 and targets the critics: a mix-up would not show.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in networks.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += (0.3 * noise).to(parameter.dtype)
    return networks


def networks_of(config: AlgorithmConfig) -> Networks:
    return stir(Networks(config, seed=3).double())


def weights_of(networks: Networks) -> Weights:
    return {name: weight.detach().numpy().copy() for name, weight in networks.named_parameters()}


def batch_of(config: AlgorithmConfig, seed: int = 0) -> Batch:
    """Return every legal window of episodes that end in every way, weights drawn at random."""
    rng = np.random.default_rng(seed)
    sizes = (config.action_chunk_size, config.window_steps, config.state_dim, config.action_dim)
    return windows_of(every_ending(rng, *sizes), config, rng)


def windows_of(
    episodes: list[PlainEpisode], config: AlgorithmConfig, rng: np.random.Generator
) -> Batch:
    found = [
        made
        for episode in episodes
        for start in range(len(episode.steps))
        if (
            made := window(
                episode,
                start,
                chunk=config.action_chunk_size,
                return_steps=config.window_steps,
                discount=config.discount,
            )
        )
    ]
    some_state = rng.uniform(-1.0, 1.0, config.state_dim)  # must not matter where m = 0

    def stack(values):
        return torch.from_numpy(np.stack(list(values)).astype(np.float64))

    return Batch(
        state=stack(one.state for one in found),
        chunk=stack(one.chunk for one in found),
        valid=stack(one.valid for one in found),
        tail_unknown=torch.from_numpy(np.stack([one.tail_unknown for one in found])),
        reward=stack(one.reward for one in found),
        bootstrap=stack(one.bootstrap for one in found),
        next_state=stack(some_state if one.bootstrap == 0 else one.next_state for one in found),
        weight=torch.from_numpy(
            rng.uniform(0.0, 2.0, len(found)) * rng.integers(0, 2, len(found))
        ),
    )


def noise_of(config: AlgorithmConfig, batch: int, seed: int = 11) -> Noise:
    drawn = Noise.draw(batch, config, torch.Generator().manual_seed(seed))
    parts = (drawn.flow_start, drawn.flow_time, drawn.policy, drawn.next_policy)
    candidates = None if drawn.candidates is None else drawn.candidates.double()
    return Noise(*(part.double() for part in parts), candidates)


class Case:
    """One update's worth of numbers, in both forms."""

    def __init__(self, settings: dict, batch: Batch | None = None) -> None:
        self.config = config_of(settings)
        self.networks = networks_of(self.config)
        self.batch = batch or batch_of(self.config)
        self.noise = noise_of(self.config, len(self.batch.state))

    def losses(self) -> Losses:
        weight = self.config.distillation_weight
        return all_losses(self.networks, self.batch, self.noise, self.config, weight)

    @property
    def weights(self) -> Weights:
        return weights_of(self.networks)

    @property
    def numpy_batch(self) -> NumpyBatch:
        return NumpyBatch(
            **{name: getattr(self.batch, name).numpy() for name in NumpyBatch._fields}
        )

    @property
    def numpy_noise(self) -> NumpyNoise:
        parts = {name: getattr(self.noise, name) for name in NumpyNoise._fields}
        return NumpyNoise(**{k: None if v is None else v.numpy() for k, v in parts.items()})

    def fixed(self) -> Fixed:
        return fixed_numbers(self.weights, self.numpy_batch, self.numpy_noise, self.config)


def distance(ours, theirs) -> float:
    """Return the largest difference, relative to the largest number of `theirs`."""
    ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    assert ours.dtype == np.float64, ours.dtype
    assert ours.shape == np.shape(theirs), (ours.shape, np.shape(theirs))
    return float(np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), 1e-30))
