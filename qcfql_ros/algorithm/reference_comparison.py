# SPDX-License-Identifier: Apache-2.0
"""Our update against one update of the authors' code, item by item.

The error of a tensor is ``max|difference| / max|reference|``; an item has several tensors and its
error is the largest of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qcfql_ros.algorithm.best_of_n import best_of_n
from qcfql_ros.algorithm.reference_file import ReferenceFile
from qcfql_ros.algorithm.update import Update

#: Entries of a gradient below this share of its largest are left out of the whole step: Adam's
#: first step is the sign of the gradient, and where that is all but 0 its sign is rounding.
LARGE = 1e-4

Named = tuple[str, Tensor, Tensor]  # where, ours, theirs


@dataclass(frozen=True)
class Item:
    """What was compared, and how far apart the two are.

    Attributes:
        name: the item.
        error: the largest over its tensors.
        where: the tensor that has it.
        limit: the error must not be above it.
    """

    name: str
    error: float
    where: str
    limit: float

    @property
    def agrees(self) -> bool:
        """Whether the error is a number within the limit."""
        return self.error <= self.limit  # false for NaN


def compare(reference: ReferenceFile, tolerance: float = 1e-5) -> list[Item]:
    """Return every item of one file; Adam and the whole step are held to a tenth of `tolerance`.

    Raises:
        CheckpointError: the file lacks a tensor or has one in another shape.
    """
    tenth = tolerance / 10.0
    actions, choice = _best_of_n(reference)
    return [
        _item('losses', _losses(reference), tolerance),
        _item('total loss', _total(reference), tolerance),
        _item('gradients', _gradients(reference), tolerance),
        _item('target critics', _targets(reference), tolerance),
        _item('flow actions', _flow(reference), tolerance),
        _item('policy actions, unclipped', _policy(reference), tolerance),
        _item('Q values', _q_values(reference), tolerance),
        _item('best-of-n actions', [actions], tolerance),
        _item('best-of-n choice', [choice], 0.0),
        _item('Adam fed their gradients', _fed_step(reference), tenth),
        _item('whole step', _whole_step(reference), tenth),
    ]


def error(ours: Tensor, theirs: Tensor) -> float:
    """Return ``max|ours - theirs| / max|theirs|``; 0 where both are nothing but zeros."""
    difference = float((ours.detach() - theirs).abs().max())
    return difference / max(float(theirs.abs().max()), 1e-30)


def _item(name: str, tensors: Iterable[Named], limit: float) -> Item:
    errors = {where: error(ours, theirs) for where, ours, theirs in tensors}
    # NaN is larger than any number.
    worst = max(errors, key=lambda where: (errors[where] != errors[where], errors[where]))
    return Item(name, errors[worst], worst, limit)


def _losses(reference: ReferenceFile) -> Iterator[Named]:
    losses = reference.update().losses(reference.batch(), reference.noise())
    info = losses.info
    zero = torch.zeros(())  # with best-of-n there is nothing to distil; theirs logs a 0
    yield from (
        (name, ours.detach(), reference.tensor(f'loss/{name}'))
        for name, ours in {
            'critic/critic_loss': losses.critic,
            'critic/q_mean': info['q_mean'],
            'critic/q_min': info['q_min'],
            'critic/q_max': info['q_max'],
            'actor/bc_flow_loss': losses.behavior,
            'actor/distill_loss': info.get('loss_distillation', zero),
            'actor/actor_loss': losses.behavior + losses.policy,
        }.items()
    )


def _total(reference: ReferenceFile) -> Iterator[Named]:
    losses = reference.update().losses(reference.batch(), reference.noise())
    yield 'total', losses.total, reference.tensor('loss/total')


def _gradients(reference: ReferenceFile) -> Iterator[Named]:
    update = reference.update()
    update.losses(reference.batch(), reference.noise()).total.backward()
    for name, parameter in update.networks.named_parameters():
        # No gradient here is a gradient of zeros there: the target critics', and the distilled
        # policy's with best-of-n.
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        yield name, ours, reference.parameter('grads', name, parameter)


def _stepped(reference: ReferenceFile) -> Update:
    update = reference.update()
    update.step(reference.batch(), reference.noise())
    return update


def _targets(reference: ReferenceFile) -> Iterator[Named]:
    for name, parameter in _stepped(reference).networks.named_parameters():
        if not parameter.requires_grad:
            yield name, parameter, reference.parameter('updated', name, parameter)


def _whole_step(reference: ReferenceFile) -> Iterator[Named]:
    """From weights, batch and noise to the weights after, where the gradient is large."""
    for name, parameter in _stepped(reference).networks.named_parameters():
        if parameter.requires_grad:
            theirs = reference.parameter('updated', name, parameter)
            gradient = reference.parameter('grads', name, parameter).abs()
            large = gradient >= LARGE * gradient.max()  # all, where all are 0
            yield name, torch.where(large, parameter, theirs), theirs


def _fed_step(reference: ReferenceFile) -> Iterator[Named]:
    update = reference.update()
    for name, parameter in update.networks.named_parameters():
        if parameter.requires_grad:
            parameter.grad = reference.parameter('grads', name, parameter).clone()
    update.apply_gradients()
    for name, parameter in update.networks.named_parameters():
        if parameter.requires_grad:
            yield name, parameter, reference.parameter('updated', name, parameter)


def _flow(reference: ReferenceFile) -> Iterator[Named]:
    state, noise = reference.batch().state, reference.chunks('noise/policy')
    flow = reference.update().networks.behavior.sample(state, noise=noise)
    yield 'flow_actions', flow, reference.chunks('flow_actions')


def _policy(reference: ReferenceFile) -> Iterator[Named]:
    state, noise = reference.batch().state, reference.chunks('noise/policy')
    policy = reference.update().networks.policy(state, noise)
    key = 'policy_actions_unclipped'
    yield key, policy, reference.chunks(key)


def _q_values(reference: ReferenceFile) -> Iterator[Named]:
    batch = reference.batch()
    values = reference.update().networks.critic.values(batch.state, batch.chunk)
    yield 'q', values, reference.tensor('q', *values.shape)


def _best_of_n(reference: ReferenceFile) -> tuple[Named, Named]:
    """Return the chosen actions, and for each state whether we chose as they did (1) or not."""
    nets, state = reference.update().networks, reference.batch().state
    noise, theirs = reference.candidates(), reference.chunks('best_of_n_actions')
    ours = best_of_n(nets.behavior, nets.critic, state, noise, reference.config)
    # They record the chosen action alone: its index is that of our nearest sample.
    count = noise.shape[1]
    repeated = state.repeat_interleave(count, dim=0)
    with torch.no_grad():
        samples = nets.behavior.sample(repeated, noise=noise.flatten(0, 1)).reshape(noise.shape)
    same = _nearest(samples, ours) == _nearest(samples, theirs)
    return (
        ('best_of_n_actions', ours, theirs),
        ('share of states with another sample', same.float().mean(), torch.ones(())),
    )


def _nearest(samples: Tensor, chunk: Tensor) -> Tensor:
    """Return the index, (batch,), of the sample (batch, N, chunk, action_dim) nearest to chunk."""
    return (samples - chunk[:, None]).abs().amax((2, 3)).argmin(1)
