# SPDX-License-Identifier: Apache-2.0
"""Losses, target, weights and sampler agree with the formulas in NumPy to 1e-9."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from float64_cases import N_STEP, SETTINGS, Case, distance, name_of
from numpy_qcfql import (
    LOSSES,
    aggregate,
    best_of_n,
    critic_values,
    flow_sample,
    one_step_policy,
    value_weights,
    velocity,
)

from qcfql_ros.algorithm import best_of_n as ours_best_of_n
from qcfql_ros.algorithm import losses as ours
from qcfql_ros.algorithm.config import AGGREGATIONS

TOLERANCE = 1e-9  # relative to the largest number of the tensor


@pytest.fixture
def default() -> Case:
    return Case({})


@pytest.mark.parametrize('settings', SETTINGS, ids=name_of)
def test_losses_and_target_agree(settings) -> None:
    case = Case(settings)
    losses, fixed = case.losses(), case.fixed()
    numbers = (case.weights, case.numpy_batch, case.numpy_noise, case.config, fixed)
    for name, loss in LOSSES.items():
        assert distance(getattr(losses, name), loss(*numbers)) <= TOLERANCE, name
    total = sum(loss(*numbers) for loss in LOSSES.values())
    assert distance(losses.total, total) <= TOLERANCE
    target = ours.critic_target(case.networks, case.batch, case.noise, case.config)
    assert distance(target, fixed.target) <= TOLERANCE


def test_the_q_term_is_normalised_by_the_size_of_the_mean_over_members() -> None:
    case = Case({'normalize_q_loss': True})
    theirs = LOSSES['policy'](
        case.weights, case.numpy_batch, case.numpy_noise, case.config, case.fixed()
    )
    assert distance(case.losses().policy, theirs) <= TOLERANCE


def test_the_q_term_is_normalised_where_all_members_agree_on_the_sign() -> None:
    case = Case({'normalize_q_loss': True})
    with torch.no_grad():
        case.networks.critic.network.biases[-1] -= 20.0
    assert (critic_values_of(case) < 0.0).all()
    theirs = LOSSES['policy'](
        case.weights, case.numpy_batch, case.numpy_noise, case.config, case.fixed()
    )
    assert distance(case.losses().policy, theirs) <= TOLERANCE


def critic_values_of(case: Case) -> np.ndarray:
    student = one_step_policy(case.weights, case.numpy_batch.state, case.numpy_noise.policy)
    chunk = np.clip(student, -1.0, 1.0)
    return critic_values(case.weights, 'critic', case.numpy_batch.state, chunk)


@pytest.mark.parametrize('num_steps', [1, 2, 10, 17])
def test_the_euler_sampler_agrees(default: Case, num_steps) -> None:
    flow, state, noise = default.networks.behavior, default.batch.state, default.noise.policy
    theirs = flow_sample(default.weights, state.numpy(), noise.numpy(), num_steps)
    with torch.no_grad():
        sample = flow.sample(state, num_steps=num_steps, noise=noise)
    assert distance(sample, theirs) <= TOLERANCE


def test_each_network_agrees_one_by_one(default: Case) -> None:
    nets, weights, batch = default.networks, default.weights, default.batch
    state, chunk, time = batch.state, batch.chunk, default.noise.flow_time
    numbers = (state.numpy(), chunk.numpy())
    assert distance(
        nets.behavior(state, chunk, time), velocity(weights, *numbers, time.numpy())
    ) <= (TOLERANCE)
    assert distance(nets.policy(state, chunk), one_step_policy(weights, *numbers)) <= TOLERANCE
    for which in ('critic', 'target_critic'):
        values = critic_values(weights, which, *numbers)
        assert distance(getattr(nets, which).values(state, chunk), values) <= TOLERANCE
        mean = values.mean(axis=0)[:, None]
        assert distance(getattr(nets, which)(state, chunk), mean) <= TOLERANCE


@pytest.mark.parametrize('how', AGGREGATIONS)
@pytest.mark.parametrize('temperature', [3.0, 0.3])
def test_value_weights_agree(how, temperature) -> None:
    case = Case({'critic_aggregation': how, 'behavior_temperature': temperature})
    sample = case.fixed().teacher
    state, chunk = case.batch.state, case.batch.chunk
    theirs = value_weights(case.weights, state.numpy(), chunk.numpy(), sample, case.config)
    with torch.no_grad():
        weights = ours.value_weights(
            case.networks.target_critic, state, chunk, torch.from_numpy(sample), case.config
        )
    assert distance(weights, theirs) <= TOLERANCE
    assert float(weights.mean()) == pytest.approx(1.0)
    capped = int((theirs == theirs.max()).sum())
    assert (capped > 1) == (temperature == 0.3), 'one case is to reach the cap of 20, one not'


@pytest.mark.parametrize('how', AGGREGATIONS)
def test_aggregations_agree(how) -> None:
    values = np.random.default_rng(0).normal(size=(4, 50))
    theirs = aggregate(values, how, 0.7)
    assert (
        distance(ours_best_of_n.aggregate(torch.from_numpy(values), how, 0.7), theirs) <= TOLERANCE
    )


@pytest.mark.parametrize('count', [1, 2, 7])
@pytest.mark.parametrize('how', AGGREGATIONS)
def test_best_of_n_chooses_the_same_sample(how, count) -> None:
    settings = {'actor': 'best_of_n', 'num_action_samples': count, 'critic_aggregation': how}
    case = Case(settings)
    nets, state, noise = case.networks, case.batch.state, case.noise.candidates
    assert noise is not None
    chosen = ours_best_of_n.best_of_n(nets.behavior, nets.critic, state, noise, case.config)
    theirs = best_of_n(case.weights, state.numpy(), noise.numpy(), case.config)
    assert distance(chosen, theirs) <= TOLERANCE


@pytest.mark.parametrize('settings', [{}, N_STEP, {'actor': 'best_of_n'}], ids=name_of)
def test_the_cases_reach_every_branch(settings) -> None:
    """Agreement says nothing about a clip that never clips or a mask that masks nothing."""
    case = Case(settings)
    weights, batch, noise = case.weights, case.numpy_batch, case.numpy_noise

    def both(holds) -> bool:
        return bool(holds.any() and not holds.all())

    assert both(np.abs(one_step_policy(weights, batch.state, noise.policy)) > 1.0)
    assert both(np.abs(one_step_policy(weights, batch.next_state, noise.next_policy)) > 1.0)
    assert both(np.abs(case.fixed().teacher) == 1.0)
    assert both(batch.bootstrap > 0.0)
    assert both(batch.weight > 0.0)
    assert (batch.weight > 1.0).any()
    if settings != N_STEP:  # a chunk of one step has no tail
        assert both(batch.valid > 0.0)
        assert both(batch.tail_unknown)
        assert (batch.valid == 0.0).sum() > batch.tail_unknown.sum(), 'some tails are planned'
    lowest = critic_values(weights, 'target_critic', batch.state, batch.chunk).argmin(axis=0)
    assert len(set(lowest)) > 1, 'the least member is not always the same'
