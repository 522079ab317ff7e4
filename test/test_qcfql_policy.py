# SPDX-License-Identifier: Apache-2.0
"""QCFQLPolicy as its users call it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import qcfql_ros
from qcfql_ros import QCFQLConfig, QCFQLPolicy
from qcfql_ros.algorithm.batch import Noise
from qcfql_ros.algorithm.feature_batch import windows_from_features
from qcfql_ros.errors import ParameterError

# The usual training loop, with the user's names; `dataloader`, `obs` and the optimizers are ours.
CONFIGURATION = """
config = QCFQLConfig(
    action_chunk_size=4,      # k=4: predict 4 actions at a time
    num_critics=10,           # Ensemble of 10 critics
    distillation_weight=1.0,  # λ=1.0: Wasserstein constraint strength
    state_dim=128,
    action_dim=16,
    discount=0.99,
)

# Create policy
policy = QCFQLPolicy(config)
"""
TRAINING = """
# Training
for batch in dataloader:
    # Compute losses
    losses = policy.forward(batch)
    
    # Update behavior policy
    loss_behavior = losses["loss_behavior"]
    optimizer_behavior.zero_grad()
    loss_behavior.backward()
    optimizer_behavior.step()
    
    # Update critic
    loss_critic = losses["loss_critic"]
    optimizer_critic.zero_grad()
    loss_critic.backward()
    optimizer_critic.step()
    
    # Update target networks
    policy.update_target_networks()
    
    # Update policy
    loss_policy = losses["loss_policy"]
    optimizer_policy.zero_grad()
    loss_policy.backward()
    optimizer_policy.step()

# Inference
action = policy.select_action({"observation.state": obs})
"""  # noqa: W293


def loader(batches: int, config: QCFQLConfig, size: int = 64) -> list[dict[str, Tensor]]:
    """Return batches in which the action follows from the state; half of them end."""
    draw = torch.Generator().manual_seed(0)
    steps, made = config.action_chunk_size, []
    for _ in range(batches):
        state = torch.randn(size, config.state_dim, generator=draw)
        action = torch.tanh(state[:, :1]).expand(-1, config.action_dim)
        made.append(
            {
                'observation.state': state,
                'action': action[:, None].repeat(1, steps, 1),
                'next.reward': torch.ones(size, steps),
                'next.observation.state': torch.randn(size, config.state_dim, generator=draw),
                'next.terminated': torch.rand(size, generator=draw) < 0.5,
            }
        )
    return made


def test_the_usual_loop_lowers_all_three_losses() -> None:
    scope = {'QCFQLConfig': QCFQLConfig, 'QCFQLPolicy': QCFQLPolicy}
    exec(CONFIGURATION, scope)
    policy, config = scope['policy'], scope['config']
    for name, network in {'behavior': policy.behavior_policy, 'critic': policy.critic}.items():
        scope[f'optimizer_{name}'] = torch.optim.Adam(network.parameters(), lr=3e-4)
    scope['optimizer_policy'] = torch.optim.Adam(policy.policy.parameters(), lr=3e-4)
    scope['dataloader'] = loader(100, config)
    scope['obs'] = torch.randn(1, 128)
    fixed, draw = loader(1, config, 256)[0], torch.Generator().manual_seed(1)
    noise = Noise.draw(256, config, draw)
    names = ('loss_behavior', 'loss_critic', 'loss_policy')
    losses = policy.forward(fixed, noise)
    before = {name: losses[name].item() for name in names}
    exec(TRAINING, scope)
    losses = policy.forward(fixed, noise)
    for name in names:
        assert losses[name].item() < 0.9 * before[name], name
    assert scope['action'].shape == (1, 16)


SMALL = QCFQLConfig(
    state_dim=3, action_dim=2, action_chunk_size=3, num_critics=2, hidden_dims=(8, 8)
)


def test_the_result_unpacks_as_total_and_info() -> None:
    policy = QCFQLPolicy(SMALL)
    losses = policy.forward(loader(1, SMALL, 8)[0])
    total, info = losses
    names = ('loss_behavior', 'loss_critic', 'loss_policy')
    assert float(total.detach()) == pytest.approx(sum(losses[n].item() for n in names), rel=1e-6)
    assert set(names) | {'q_mean', 'loss_distillation', 'clip_fraction'} <= set(losses.keys())
    assert not any(value.requires_grad for value in info.values())
    total.backward()
    assert all(p.grad is not None for p in policy.policy.parameters())
    assert all(p.grad is None for p in policy.target_critic.parameters())


def test_the_usual_loop_runs_with_an_actor_that_distils_nothing() -> None:
    policy = QCFQLPolicy(SMALL.with_changes(actor='best_of_n', num_action_samples=4))
    optimizers = {
        'loss_behavior': torch.optim.Adam(policy.behavior_policy.parameters()),
        'loss_critic': torch.optim.Adam(policy.critic.parameters()),
        'loss_policy': torch.optim.Adam(policy.policy.parameters()),
    }
    before = [
        [p.detach().clone() for p in o.param_groups[0]['params']] for o in optimizers.values()
    ]
    losses = policy.forward(loader(1, SMALL, 8)[0])
    for name, optimizer in optimizers.items():
        assert name in losses
        optimizer.zero_grad()
        losses[name].backward()
        optimizer.step()
    moved = [
        any(not torch.equal(a, b) for a, b in zip(old, o.param_groups[0]['params'], strict=True))
        for old, o in zip(before, optimizers.values(), strict=True)
    ]
    assert moved == [True, True, False]
    assert dict(losses.items()).keys() == set(losses.keys())
    assert 'loss_other' not in losses


def test_networks_have_the_users_shapes() -> None:
    policy, state = QCFQLPolicy(SMALL), torch.randn(5, 3)
    chunk, time = torch.randn(5, 3, 2), torch.rand(5)
    assert policy.behavior_policy.forward(state, chunk, time).shape == (5, 3, 2)
    sample = policy.behavior_policy.sample(state, num_steps=4)
    assert sample.shape == (5, 3, 2)
    assert sample.detach().abs().max().item() <= 1.0
    assert policy.critic(state, chunk).shape == (5, 1)
    assert policy.policy(state, torch.randn(5, 3, 2)).shape == (5, 3, 2)
    critic = qcfql_ros.ChunkedCritic(3, 2, 3, (8, 8))
    assert critic(state, chunk).shape == (5, 1)


@pytest.mark.parametrize('actor', ['distilled', 'best_of_n'])
def test_a_chunk_is_played_one_action_a_call(actor: str) -> None:
    config = SMALL.with_changes(actor=actor, num_action_samples=4)
    policy, state = QCFQLPolicy(config), torch.randn(2, 3)
    torch.manual_seed(7)
    chunk = policy.predict_action_chunk({'observation.state': state})
    assert chunk.shape == (2, 3, 2)
    torch.manual_seed(7)
    played = [policy.select_action({'observation.state': state}) for _ in range(3)]
    assert torch.equal(torch.stack(played, 1), chunk)
    policy.select_action({'observation.state': state})
    torch.manual_seed(7)
    policy.reset()
    assert torch.equal(policy.select_action({'observation.state': state}), chunk[:, 0])


def test_a_single_observation_gives_a_single_action() -> None:
    policy = QCFQLPolicy(SMALL)
    assert policy.select_action({'observation.state': torch.randn(3)}).shape == (2,)
    with pytest.raises(ParameterError, match=r'call reset\(\) first'):
        policy.select_action({'observation.state': torch.randn(2, 3)})


def test_the_targets_move_towards_the_critics() -> None:
    policy = QCFQLPolicy(SMALL.with_changes(critic_target_update_tau=0.25))
    with torch.no_grad():
        for parameter in policy.critic.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in policy.target_critic.parameters()]
    policy.update_target_networks()
    for old, new in zip(before, policy.target_critic.parameters(), strict=True):
        assert torch.allclose(new, old + 0.25)


def features(**changes: Tensor) -> dict[str, Tensor]:
    made = {
        'observation.state': torch.zeros(2, 3),
        'next.observation.state': torch.ones(2, 3),
        'action': torch.zeros(2, 3, 2),
        'next.reward': torch.tensor([[1.0, 10.0, 100.0], [1.0, 10.0, 100.0]]),
        'next.terminated': torch.tensor([[False, True, False], [False, False, False]]),
    }
    made.update(changes)
    return made


def test_rewards_behind_a_termination_do_not_count() -> None:
    windows = windows_from_features(features(), SMALL)
    assert windows.reward.tolist() == pytest.approx([1 + 9.9, 1 + 9.9 + 98.01])
    assert windows.bootstrap.tolist() == pytest.approx([0.0, 0.99**3])
    assert windows.weight.tolist() == [1.0, 1.0]
    on = SMALL.with_changes(rewards_after_termination=True)
    assert windows_from_features(features(), on).reward[0] == pytest.approx(1 + 9.9 + 98.01)


def test_a_window_cut_short_without_a_termination_teaches_the_critic_nothing() -> None:
    pad = torch.tensor([[False, False, True], [False, False, True]])
    windows = windows_from_features(features(action_is_pad=pad), SMALL)
    assert windows.weight.tolist() == [1.0, 0.0]  # the first one is padded behind its end
    assert windows.valid.tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    assert windows.tail_unknown[0].tolist() == [False, False, True]
    cut = torch.tensor([[False, False, True], [False, True, False]])
    windows = windows_from_features(features(**{'next.truncated': cut}), SMALL)
    assert windows.weight.tolist() == [1.0, 0.0]


def test_done_with_success_is_terminated_and_without_it_truncated() -> None:
    made = features()
    del made['next.terminated']
    done, success = torch.tensor([True, True]), torch.tensor([True, False])
    windows = windows_from_features(made | {'next.done': done, 'next.success': success}, SMALL)
    assert windows.bootstrap.tolist() == pytest.approx([0.0, 0.99**3])
    assert windows_from_features(made | {'done': done}, SMALL).bootstrap.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ('ends', 'terminated', 'weight'),
    [
        # (done, truncated, success) at the middle one of three steps; None: not in the batch
        ((1, None, None), True, 1.0),
        ((1, 0, None), True, 1.0),
        ((1, 1, None), False, 0.0),
        ((1, None, 1), True, 1.0),
        ((1, None, 0), False, 0.0),
        ((1, 0, 0), True, 1.0),  # a failure
        ((1, 1, 0), False, 0.0),
        ((1, 1, 1), False, 0.0),
        ((0, 0, 0), False, 1.0),
    ],
)
def test_an_end_is_terminated_or_truncated_and_never_one_for_the_other(
    ends: tuple, terminated: bool, weight: float
) -> None:
    made = features()
    del made['next.terminated']
    for name, value in zip(('next.done', 'next.truncated', 'next.success'), ends, strict=True):
        if value is not None:
            made[name] = torch.tensor([[0, value, 0]] * 2)
    windows = windows_from_features(made, SMALL)
    assert windows.bootstrap[0].item() == pytest.approx(0.0 if terminated else 0.99**3)
    assert windows.weight[0].item() == weight


def test_one_end_for_a_padded_window_stands_where_the_padding_begins() -> None:
    pad = torch.tensor([[False, True, True], [False, False, False]])
    ended = torch.tensor([True, False])
    made = features(**{'next.terminated': ended, 'action_is_pad': pad})
    windows = windows_from_features(made, SMALL)
    assert windows.weight.tolist() == [1.0, 1.0]
    assert windows.bootstrap.tolist() == pytest.approx([0.0, 0.99**3])
    assert windows.reward[0].item() == pytest.approx(1.0)


def test_two_observations_stand_for_both_ends_of_the_window() -> None:
    both = torch.stack([torch.zeros(2, 3), torch.full((2, 3), 4.0)], 1)
    windows = windows_from_features(features(**{'observation.state': both}), SMALL)
    assert windows.next_state.tolist() == [[4.0] * 3] * 2


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'action': torch.zeros(2, 4, 2)}, r'action has shape \(2, 4, 2\), wanted \(2, 3, 2\)'),
        ({'observation.state': torch.zeros(2, 5)}, r'observation.state has shape \(2, 5\)'),
        ({'next.reward': torch.zeros(2, 7)}, 'next.reward has shape'),
        ({'next.terminated': torch.zeros(2, 2)}, 'next.terminated has shape'),
    ],
)
def test_a_wrong_shape_is_named(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        QCFQLPolicy(SMALL).forward(features(**changes))


@pytest.mark.parametrize('name', sorted(features()))
def test_a_missing_feature_is_named(name: str) -> None:
    made = features()
    del made[name]
    with pytest.raises(ParameterError, match=f'batch has no {name!r}'):
        QCFQLPolicy(SMALL).forward(made)


def test_public_names_are_there_and_others_are_not() -> None:
    for name in qcfql_ros.__all__:
        assert getattr(qcfql_ros, name)
    with pytest.raises(AttributeError, match='QCFQL'):
        _ = qcfql_ros.QCFQL
