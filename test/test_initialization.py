# SPDX-License-Identifier: Apache-2.0
"""The weights at the start: Xavier-uniform for each member, zero biases, targets as critics.

Tolerances are standard errors of the sample: kernels of n weights, uniform in [-b, b], have mean
0 +- b / sqrt(3 n) and variance b^2 / 3 (1 +- sqrt(0.8 / n)), for the fourth moment is b^4 / 5.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.algorithm.networks import Networks

CONFIG = AlgorithmConfig(7, 3, action_chunk_size=4, num_critics=6, hidden_dims=(96, 64, 80))
CHUNK = 12
NETWORKS = ('behavior', 'policy', 'critic')
SIZES = {
    'behavior': (7 + CHUNK + 1, 96, 64, 80, CHUNK),
    'policy': (7 + CHUNK, 96, 64, 80, CHUNK),
    'critic': (7 + CHUNK, 96, 64, 80, 1),
}
DEVIATIONS = 4.5  # a fair draw is beyond them once in 150 000 times


@pytest.fixture(scope='module')
def networks() -> Networks:
    return Networks(CONFIG, seed=0)


def kernels(networks: Networks) -> list[tuple[str, np.ndarray, float]]:
    """Return (name, (in, out) weights, Xavier bound) of every layer of every member."""
    found = []
    for network in NETWORKS:
        stacked = getattr(networks, network).network.kernels
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(SIZES[network])):
            members = stacked[layer].detach().double().numpy().reshape(-1, fan_in, fan_out)
            assert len(members) == (CONFIG.num_critics if network == 'critic' else 1)
            bound = math.sqrt(6.0 / (fan_in + fan_out))
            found += [(f'{network} {k} {layer}', w, bound) for k, w in enumerate(members)]
        assert len(stacked) == layer + 1
    return found


def test_kernels_fill_their_xavier_bounds(networks: Networks) -> None:
    """The largest of n uniform magnitudes is below ``b (1 - x / n)`` with chance ``exp(-x)``."""
    for name, weights, bound in kernels(networks):
        largest = np.abs(weights).max()
        assert largest <= bound * (1.0 + 1e-6), name
        assert largest >= bound * (1.0 - 12.0 / weights.size), name


def test_kernels_have_the_mean_and_variance_of_the_uniform_distribution(networks) -> None:
    for name, weights, bound in kernels(networks):
        error = bound / math.sqrt(3.0 * weights.size)
        assert abs(weights.mean()) <= DEVIATIONS * error, name
        ratio = (weights**2).mean() / (bound**2 / 3.0)
        assert abs(ratio - 1.0) <= DEVIATIONS * math.sqrt(0.8 / weights.size), name


def test_a_layers_kernels_are_spread_evenly(networks: Networks) -> None:
    """Kolmogorov and Smirnov: the distance to the uniform law exceeds 2.5 / sqrt(n) at 7e-6."""
    for name, weights, bound in kernels(networks):
        sample = np.sort(weights.ravel() / bound + 1.0) / 2.0
        steps = np.arange(1, sample.size + 1) / sample.size
        assert np.abs(sample - steps).max() <= 2.5 / math.sqrt(sample.size), name


def test_biases_are_zero_in_output_layers_too(networks: Networks) -> None:
    for network in NETWORKS:
        perceptron = getattr(networks, network).network
        assert len(perceptron.biases) == len(SIZES[network]) - 1
        for bias, width in zip(perceptron.biases, SIZES[network][1:]):
            assert bias.shape[-1] == width
            assert not bool(bias.any()), network


def test_only_critics_have_layer_norms_and_these_start_as_the_identity(networks) -> None:
    for network in NETWORKS:
        perceptron = getattr(networks, network).network
        layers = len(CONFIG.hidden_dims) if network == 'critic' else 0
        assert len(perceptron.norm_scales) == len(perceptron.norm_biases) == layers
        assert all(bool((scale == 1.0).all()) for scale in perceptron.norm_scales)
        assert not any(bool(bias.any()) for bias in perceptron.norm_biases)
    without = Networks(CONFIG.with_changes(critic_layer_norm=False)).critic.network
    assert len(without.norm_scales) == len(without.norm_biases) == 0


def test_members_are_drawn_independently(networks: Networks) -> None:
    """The correlation of n independent pairs is within 4.5 / sqrt(n) of 0."""
    for kernel in networks.critic.network.kernels:
        members = kernel.detach().double().numpy().reshape(CONFIG.num_critics, -1)
        correlations = np.corrcoef(members)[np.triu_indices(CONFIG.num_critics, 1)]
        assert np.abs(correlations).max() <= DEVIATIONS / math.sqrt(members.shape[1])


def test_networks_are_drawn_independently(networks: Networks) -> None:
    """Their hidden layers have one shape: none is a copy of another."""
    for layer in (1, 2):
        pair = [
            networks.behavior.network.kernels[layer],
            networks.policy.network.kernels[layer],
            networks.critic.network.kernels[layer][0],
        ]
        rows = np.stack([weights.detach().double().numpy().ravel() for weights in pair])
        correlations = np.corrcoef(rows)[np.triu_indices(3, 1)]
        assert np.abs(correlations).max() <= DEVIATIONS / math.sqrt(rows.shape[1])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(networks) -> None:
    again, other = Networks(CONFIG, seed=0), Networks(CONFIG, seed=1)
    for name, weight in networks.state_dict().items():
        assert bool((weight == again.state_dict()[name]).all()), name
        if 'kernels' in name:
            assert not bool((weight == other.state_dict()[name]).any()), name


def test_targets_start_as_the_critics_on_weights_of_their_own(networks: Networks) -> None:
    online = dict(networks.critic.named_parameters())
    for name, target in networks.target_critic.named_parameters():
        assert bool((target == online[name]).all()), name
        assert target.data_ptr() != online[name].data_ptr(), name
        assert not target.requires_grad
