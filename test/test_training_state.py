# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a run that was cut goes on bit for bit; damaged files are refused by name."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from practice_data import random_events
from safetensors import safe_open
from safetensors.torch import save_file

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.algorithm.normalizer import Normalizer
from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.algorithm.policy_info import PolicyInfo
from qcfql_ros.data.replay import Replay
from qcfql_ros.errors import CheckpointError, ModelError
from qcfql_ros.training.buffers import Buffers
from qcfql_ros.training.checkpoint import TrainingState
from qcfql_ros.training.durable_file import replace_file
from qcfql_ros.training.offline import OfflineTraining, Schedule
from qcfql_ros.training.validation import Validation

CONFIG = AlgorithmConfig(3, 2, num_critics=2, hidden_dims=(16, 16), batch_size=8)


def buffers(state: TrainingState) -> Buffers:
    practice = Replay(500, 3, 2, 4, CONFIG.discount)
    for event in random_events(4, 12, 3, 2):
        practice.append(event)
    return Buffers(practice, None, None, state.normalizer)


def quiet(_: str) -> None:
    pass


def train(state: TrainingState, updates: int, folder: Path) -> TrainingState:
    schedule = Schedule(updates, log_every=5)
    OfflineTraining(state, buffers(state), schedule, folder, say=quiet).run()
    return state


def test_ten_updates_equal_five_then_a_restart_then_five(tmp_path: Path) -> None:
    whole = train(TrainingState.start(CONFIG, 'c', 'h', seed=3), 10, tmp_path / 'whole')
    train(TrainingState.start(CONFIG, 'c', 'h', seed=3), 5, tmp_path / 'parts')
    resumed = TrainingState.load(tmp_path / 'parts' / 'last.safetensors')
    assert resumed.update.count == 5
    train(resumed, 10, tmp_path / 'parts')
    for ours, theirs in zip(
        resumed.update.networks.parameters(), whole.update.networks.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_best_evaluation_is_kept_beside_the_last(tmp_path: Path) -> None:
    state = TrainingState.start(CONFIG, 'c', 'h')
    scores = iter([3, 7, 5])
    schedule = Schedule(6, log_every=2, evaluate_every=2, evaluate_episodes=10)
    OfflineTraining(
        state, buffers(state), schedule, tmp_path, evaluate=lambda _: next(scores), say=quiet
    ).run()
    best = TrainingState.load(tmp_path / 'best.safetensors')
    assert (best.update.count, best.notes['best_by']) == (4, 'success')
    assert ChunkPolicy.load(tmp_path / 'best_policy.safetensors').info.updates == 4
    assert ChunkPolicy.load(tmp_path / 'policy.safetensors').info.updates == 6


def test_without_evaluations_the_lowest_loss_on_held_out_segments_is_kept(
    tmp_path: Path, monkeypatch
) -> None:
    state = TrainingState.start(CONFIG, 'c', 'h')
    drawn = buffers(state)
    validation = Validation(drawn.practice, state.normalizer, state.update, 0)
    # Of the flow alone at first: however good, its policy was never trained.
    losses = iter([0.1, 0.9, 0.5, 0.7])
    monkeypatch.setattr(
        validation, 'losses', lambda update: {'validation_loss_behavior': next(losses)}
    )
    schedule = Schedule(6, behavior_updates=2, log_every=2, save_every=2)
    OfflineTraining(state, drawn, schedule, tmp_path, validation=validation, say=quiet).run()
    best = TrainingState.load(tmp_path / 'best.safetensors')
    assert (best.update.count, best.notes['best_by']) == (4, 'validation_loss_behavior')
    assert best.notes['best_validation_loss_behavior'] == 0.5
    assert ChunkPolicy.load(tmp_path / 'best_policy.safetensors').info.updates == 4


def test_everything_in_a_state_comes_back(tmp_path: Path) -> None:
    state = TrainingState.start(CONFIG, 'c', 'h', Normalizer.fit(np.eye(3)), seed=5)
    drawn = buffers(state)
    for _ in range(3):
        state.update.behavior_step(drawn.sample(8, state.sampler))
    for _ in range(2):
        state.update.step(drawn.sample(8, state.sampler))
    state.update.distillation_weight = 7.0
    state.environment_steps, state.policy_version, state.notes = 11, 13, {'seed': [5]}
    state.save(tmp_path / 'a.safetensors')
    again = TrainingState.load(tmp_path / 'a.safetensors')
    again.save(tmp_path / 'b.safetensors')
    first, second = (safe_open(tmp_path / f'{name}.safetensors', 'pt') for name in 'ab')
    assert first.metadata() == second.metadata()
    names = set(first.keys())
    assert names == set(second.keys())
    assert all(torch.equal(first.get_tensor(name), second.get_tensor(name)) for name in names)
    assert 'generator' in names and 'networks.target_critic.network.kernels.0' in names
    for part, steps in (('behavior', 5), ('policy', 2), ('critic', 2)):
        name = f'{part}.network.kernels.0'
        assert float(first.get_tensor(f'adam.step.{name}')) == steps
        assert {f'adam.exp_avg.{name}', f'adam.exp_avg_sq.{name}'} <= names
    assert (again.update.count, again.update.behavior_count) == (2, 3)
    assert again.update.config == CONFIG
    assert again.update.distillation_weight == 7.0
    assert (again.environment_steps, again.policy_version) == (11, 13)
    assert (again.contract_name, again.contract_hash, again.notes) == ('c', 'h', {'seed': [5]})
    assert torch.equal(again.normalizer.std, state.normalizer.std)
    ours, theirs = (one.sampler.integers(1 << 60, size=4) for one in (again, state))
    assert np.array_equal(ours, theirs)


def saved_as_on(device: str | None, generator: torch.Tensor, path: Path) -> Path:
    """Write a state whose generator lived on `device`, None for a state that does not say."""
    TrainingState.start(CONFIG, 'c', 'h').save(path)
    with safe_open(path, 'pt') as file:
        about = json.loads(file.metadata()['qcfql_state'])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert about.pop('generator_device') == 'cpu'
    if device is not None:
        about['generator_device'] = device
    save_file(tensors | {'generator': generator}, path, {'qcfql_state': json.dumps(about)})
    return path


@pytest.mark.parametrize(('device', 'size'), [('cuda', 16), ('cuda', 5056), (None, 16)])
def test_a_state_trained_on_another_kind_of_device_goes_on_with_noise_seeded_from_its_bytes(
    device: str | None, size: int, tmp_path: Path
) -> None:
    bytes_of = [torch.full((size,), value, dtype=torch.uint8) for value in (1, 1, 2)]
    path = tmp_path / 'a.safetensors'
    states = [TrainingState.load(saved_as_on(device, given, path)) for given in bytes_of]
    assert all('seeded anew' in state.remark for state in states)
    draws = [torch.randn(4, generator=state.update.generator) for state in states]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    states[0].update.step(buffers(states[0]).sample(8, states[0].sampler))
    assert states[0].update.is_finite()
    states[0].save(path)  # on this device now
    assert not TrainingState.load(path).remark


def test_a_state_of_a_cpu_that_does_not_name_its_device_goes_on_with_its_noise(
    tmp_path: Path,
) -> None:
    generator = torch.Generator().manual_seed(99)
    state = TrainingState.load(saved_as_on(None, generator.get_state(), tmp_path / 'a'))
    assert not state.remark
    assert torch.equal(state.update.generator.get_state(), generator.get_state())


def test_a_state_of_an_earlier_version_loads_and_goes_on() -> None:
    shipped = Path(__file__).parent.parent / 'models' / 'ur5e_cube_offline'
    state = TrainingState.load(shipped / 'state.safetensors')
    update = state.update
    assert (update.count, update.behavior_count) == (50000, 0)
    config = update.config
    shape = (config.action_chunk_size, config.action_dim)
    ring = Replay(100, config.state_dim, shape[1], shape[0], config.discount)
    for event in random_events(1, 40, config.state_dim, config.action_dim):
        ring.append(event)
    update.step(ring.sample(8, state.sampler))
    assert update.count == 50001 and update.is_finite()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / 'folder' / 'file'
    synced: list[str] = []
    monkeypatch.setattr(
        'os.fsync', lambda handle: synced.append(os.readlink(f'/proc/self/fd/{handle}'))
    )
    replace_file(path, lambda file: file.write_text('whole'))
    assert [Path(name).name.startswith('.file') for name in synced] == [True, False]
    assert synced[1] == str(path.parent)

    def broken(file: Path) -> None:
        file.write_text('ha')
        raise OSError('no space left')

    with pytest.raises(OSError, match='no space'):
        replace_file(path, broken)
    assert path.read_text() == 'whole'
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize('generator', [None, torch.zeros(5056, dtype=torch.uint8)])
def test_a_state_without_its_generator_or_with_a_garbled_one_is_refused_by_name(
    generator: torch.Tensor | None, tmp_path: Path
) -> None:
    path = tmp_path / 'state.safetensors'
    TrainingState.start(CONFIG, 'c', 'h').save(path)
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del tensors['generator']
    save_file(tensors if generator is None else tensors | {'generator': generator}, path, metadata)
    with pytest.raises(CheckpointError, match=r'state\.safetensors'):
        TrainingState.load(path)


def test_a_state_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / 'state.safetensors'
    TrainingState.start(CONFIG, 'c', 'h').save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r'state\.safetensors'):
        TrainingState.load(path)


def test_a_policy_survives_its_file_and_a_damaged_one_is_refused() -> None:
    info = PolicyInfo('c', 'h', 3, 2, 4, (16, 16))
    policy = ChunkPolicy.random(info, seed=1)
    blob = policy.to_bytes()
    again = ChunkPolicy.load(blob)
    observation = np.arange(3, dtype=np.float32)
    assert again.digest == policy.digest
    assert np.array_equal(again.plan(observation, 5), policy.plan(observation, 5))
    assert not np.array_equal(again.plan(observation, 5), policy.plan(observation, 6))
    for damaged in (b'', blob[:50], blob[:-4], blob[:-4] + b'\x00\x00\x80\x3f', b'x' * 100):
        with pytest.raises(ModelError):
            ChunkPolicy.load(damaged)


def test_flow_matching_and_distillation_are_learned() -> None:
    config = CONFIG.with_changes(distillation_weight=100.0)
    state = TrainingState.start(config, 'c', 'h')
    drawn = buffers(state)
    infos = [state.update.step(drawn.sample(8, state.sampler)) for _ in range(800)]
    for name, share in (('loss_behavior', 0.93), ('loss_distillation', 0.5)):
        before = np.mean([float(info[name]) for info in infos[:40]])
        after = np.mean([float(info[name]) for info in infos[-40:]])
        assert after < share * before, (name, before, after)
