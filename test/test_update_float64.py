# SPDX-License-Identifier: Apache-2.0
"""Gradients against finite differences of the NumPy losses; one whole update against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from float64_cases import N_STEP, Case, config_of, distance, name_of, stir, weights_of
from numpy_qcfql import LOSSES, adam_step, moving_average

from qcfql_ros.algorithm.update import Update

NETWORKS = ('behavior', 'critic', 'policy')  # each trained by the loss of its own name
TOLERANCE = 1e-9  # of weights and moments, relative to the largest number of the tensor
GRADIENT_TOLERANCE = 1e-8  # relative to the network's largest gradient
#: Of the central differences: off by h^2 = 1e-10 and by rounding, 1e-16 / h = 1e-11. Larger ones
#: would carry some policy output over the corner of the clip at -1 or 1.
STEP = 1e-5
DISTILLED = [
    {},
    {'flow_matching_sigma': 0.0, 'critic_aggregation': 'mean'},
    {'critic_layer_norm': False, 'critic_aggregation': 'mean_minus_std'},
    {'behavior_weighting': 'value'},
    N_STEP,
]
BEST_OF_N = [{'actor': 'best_of_n'}, {'actor': 'best_of_n', 'behavior_weighting': 'value'}]


def central_difference(loss, weights, name: str, place: tuple) -> float:
    """Return the derivative of `loss(weights)` to one weight."""
    above, below = ({**weights, name: weights[name].copy()} for _ in range(2))
    above[name][place] += STEP
    below[name][place] -= STEP
    return (loss(above) - loss(below)) / (2.0 * STEP)


def assert_gradients_are_those_of_numpy(case: Case, network: str) -> None:
    """Compare two weights of each tensor of `network`."""
    rng = np.random.default_rng(2)
    named = {k: p for k, p in case.networks.named_parameters() if k.startswith(f'{network}.')}
    loss = getattr(case.losses(), network)
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values()))))
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    assert largest > 1e-3
    # What takes no gradient keeps the values it has at the weights before the step.
    numbers = (case.numpy_batch, case.numpy_noise, case.config, case.fixed())
    weights = case.weights
    for name, gradient in gradients.items():
        for index in rng.integers(gradient.numel(), size=2):
            place = np.unravel_index(index, gradient.shape)
            theirs = central_difference(
                lambda w: LOSSES[network](w, *numbers), weights, name, place
            )
            assert abs(float(gradient[place]) - theirs) <= GRADIENT_TOLERANCE * largest, name


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('settings', DISTILLED, ids=name_of)
def test_gradients_are_those_of_the_numpy_losses(settings, network) -> None:
    assert_gradients_are_those_of_numpy(Case(settings), network)


@pytest.mark.parametrize('network', NETWORKS[:2])
@pytest.mark.parametrize('settings', BEST_OF_N, ids=name_of)
def test_gradients_are_those_of_the_numpy_losses_for_best_of_n(settings, network) -> None:
    assert_gradients_are_those_of_numpy(Case(settings), network)


def test_the_size_that_the_q_term_is_divided_by_has_no_gradient() -> None:
    case = Case({'normalize_q_loss': True})
    with torch.no_grad():
        case.networks.critic.network.biases[-1] -= 20.0  # all members below 0
    assert_gradients_are_those_of_numpy(case, 'policy')


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('settings', [*DISTILLED, *BEST_OF_N], ids=name_of)
def test_each_loss_gives_gradient_to_its_own_network_alone(settings, network) -> None:
    case = Case(settings)
    case.networks.requires_grad_(True)  # the target critics too: nothing may reach them even so
    loss = getattr(case.losses(), network)
    if network == 'policy' and case.config.actor == 'best_of_n':
        assert not loss.requires_grad
        return
    named = dict(case.networks.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    for name, gradient in zip(named, gradients):
        if name.startswith(f'{network}.'):
            assert gradient is not None, name
            assert bool(gradient.any()), name
        else:
            assert gradient is None or not bool(gradient.any()), name


def test_the_policys_gradient_outlives_steps_on_the_critic_and_the_flow() -> None:
    untouched, stepped = Case({}), Case({})
    untouched.losses().policy.backward()
    losses = stepped.losses()
    for network in ('behavior', 'critic'):
        own = getattr(stepped.networks, network)
        getattr(losses, network).backward()
        torch.optim.SGD(own.parameters(), lr=0.1).step()
        moved = own.network.kernels[0] - getattr(untouched.networks, network).network.kernels[0]
        assert bool((moved != 0.0).any())
    losses.policy.backward()
    pairs = zip(stepped.networks.policy.parameters(), untouched.networks.policy.parameters())
    for after, before in pairs:
        assert after.grad is not None and before.grad is not None
        assert torch.equal(after.grad, before.grad)


def update_of(settings: dict) -> tuple[Case, Update]:
    """Return a case and a float64 update that share networks, batch and noise."""
    settings = {'learning_rate': 0.01, **settings}
    case, update = Case(settings), Update(config_of(settings), seed=3)
    stir(update.networks.double())
    case.networks = update.networks
    return case, update


@pytest.mark.parametrize('actor', ['distilled', 'best_of_n'])
@pytest.mark.parametrize('corrections', ['exact', 'float32'])
@pytest.mark.parametrize('target_update', ['before', 'after'])
def test_whole_updates_agree(target_update, corrections, actor) -> None:
    """Three of them: the first step of Adam does not depend on its betas."""
    settings = {'target_update': target_update, 'adam_bias_correction': corrections}
    case, update = update_of({**settings, 'actor': actor})
    config, weights = case.config, case.weights
    moments = dict.fromkeys(weights, (0.0, 0.0))
    tau, rate = config.critic_target_update_tau, config.learning_rate
    for count in (1, 2, 3):
        before = weights
        update.step(case.batch, case.noise)
        for name, parameter in update.networks.named_parameters():
            if name.startswith('target_critic') or parameter.grad is None:
                continue
            gradient = parameter.grad.numpy()
            weight, *moments[name] = adam_step(
                before[name], gradient, *moments[name], count, rate, corrections
            )
            weights = {**weights, name: weight}
        source = before if target_update == 'before' else weights
        for name in [name for name in weights if name.startswith('target_critic')]:
            online = source[name.removeprefix('target_')]
            weights = {**weights, name: moving_average(before[name], online, tau)}
        for name, parameter in update.networks.named_parameters():
            assert distance(parameter, weights[name]) <= TOLERANCE, (count, name)
            idle = actor == 'best_of_n' and name.startswith('policy')
            assert np.array_equal(weights[name], before[name]) == idle, name


def test_the_gradients_of_a_whole_update_are_those_of_the_single_losses() -> None:
    case, update = update_of({})
    losses, networks = case.losses(), update.networks
    theirs = {}
    for network in NETWORKS:
        named = {k: p for k, p in networks.named_parameters() if k.startswith(f'{network}.')}
        gradients = torch.autograd.grad(getattr(losses, network), list(named.values()))
        theirs |= dict(zip(named, gradients))
    update.step(case.batch, case.noise)
    for name, gradient in theirs.items():
        ours = dict(networks.named_parameters())[name].grad
        assert distance(ours, gradient.numpy()) <= TOLERANCE, name


def test_a_step_of_the_behaviour_moves_the_flow_alone() -> None:
    case, update = update_of({})
    before, gradients = case.weights, {}
    loss = case.losses().behavior
    for name, parameter in update.networks.behavior.named_parameters():
        (gradients[f'behavior.{name}'],) = torch.autograd.grad(loss, parameter, retain_graph=True)
    update.behavior_step(case.batch, case.noise)
    for name, after in weights_of(update.networks).items():
        wanted = before[name]
        if name in gradients:
            gradient = gradients[name].numpy()
            wanted, *_ = adam_step(wanted, gradient, 0.0, 0.0, 1, 0.01, 'exact')
        assert distance(after, wanted) <= TOLERANCE, name
