# SPDX-License-Identifier: Apache-2.0
"""Our update reproduces the authors' code, number by number."""

import pytest
import torch
from reference import Reference

TOLERANCE = 1e-5  # max |difference| over max |reference|


@pytest.fixture(scope='module')
def reference() -> Reference:
    return Reference()


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))


def test_losses_agree(reference: Reference) -> None:
    info = reference.update().losses(reference.batch(), reference.noise()).info
    names = {
        'loss_critic': 'loss/critic/critic_loss',
        'q_mean': 'loss/critic/q_mean',
        'q_min': 'loss/critic/q_min',
        'q_max': 'loss/critic/q_max',
        'loss_behavior': 'loss/actor/bc_flow_loss',
        'loss_distillation': 'loss/actor/distill_loss',
    }
    for ours, theirs in names.items():
        assert float(info[ours]) == pytest.approx(float(reference.data[theirs]), rel=TOLERANCE)


def test_the_sum_of_the_losses_agrees(reference: Reference) -> None:
    total = reference.update().losses(reference.batch(), reference.noise()).total
    theirs = float(reference.data['loss/total'])
    assert float(total.detach()) == pytest.approx(theirs, rel=TOLERANCE)


def test_gradients_agree(reference: Reference) -> None:
    update = reference.update()
    update.losses(reference.batch(), reference.noise()).total.backward()
    for name, parameter in update.networks.named_parameters():
        if parameter.requires_grad:
            theirs = reference.tensor('grads', name, parameter.shape)
            assert error(parameter.grad, theirs) <= TOLERANCE, name


def test_one_step_moves_targets_exactly_and_weights_where_the_gradient_is_large(
    reference: Reference,
) -> None:
    update = reference.update()
    update.step(reference.batch(), reference.noise())
    for name, parameter in update.networks.named_parameters():
        theirs = reference.tensor('updated', name, parameter.shape)
        if name.startswith('target_critic'):
            assert error(parameter.detach(), theirs) <= TOLERANCE, name
            continue
        before = reference.tensor('params', name, parameter.shape)
        gradient = reference.tensor('grads', name, parameter.shape).abs()
        # Adam's first step is the sign of the gradient: where it is all but 0 its sign is noise.
        large = gradient > 1e-4 * gradient.max()
        ours = (parameter.detach() - before)[large]
        assert error(ours, (theirs - before)[large]) <= 1e-3, name


def test_adam_agrees_when_fed_their_gradients(reference: Reference) -> None:
    update = reference.update()
    for name, parameter in update.networks.named_parameters():
        if parameter.requires_grad:
            parameter.grad = reference.tensor('grads', name, parameter.shape).clone()
    update.optimizer.step()
    for name, parameter in update.networks.named_parameters():
        if parameter.requires_grad:
            theirs = reference.tensor('updated', name, parameter.shape)
            # JAX takes 1 - 0.999 in float32, 1.3e-5 off; its root is in every step of theirs.
            assert error(parameter.detach(), theirs) <= TOLERANCE, name


def test_flow_policy_and_critic_give_their_values(reference: Reference) -> None:
    nets, batch = reference.update().networks, reference.batch()
    with torch.no_grad():
        flow = nets.behavior.sample(batch.state, noise=reference.chunks('noise/policy'))
        policy = nets.policy(batch.state, reference.chunks('noise/policy'))
        values = nets.critic.values(batch.state, batch.chunk)
    assert error(flow, reference.chunks('flow_actions')) <= TOLERANCE
    assert error(policy, reference.chunks('policy_actions_unclipped')) <= TOLERANCE
    assert error(values, torch.from_numpy(reference.data['q'])) <= TOLERANCE
