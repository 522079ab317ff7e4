# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a run that was cut goes on bit for bit; damaged files are refused by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from practice_data import random_events

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.algorithm.policy import ChunkPolicy, PolicyInfo
from qcfql_ros.data.replay import Replay
from qcfql_ros.errors import CheckpointError, ModelError
from qcfql_ros.training.buffers import Buffers
from qcfql_ros.training.checkpoint import TrainingState
from qcfql_ros.training.offline import Schedule, pretrain

CONFIG = AlgorithmConfig(3, 2, num_critics=2, hidden_dims=(16, 16), batch_size=8)


def buffers(state: TrainingState) -> Buffers:
    practice = Replay(500, 3, 2, 4, CONFIG.discount)
    for event in random_events(4, 12, 3, 2):
        practice.append(event)
    return Buffers(practice, None, None, state.normalizer)


def train(state: TrainingState, updates: int, folder: Path) -> TrainingState:
    pretrain(state, buffers(state), Schedule(updates, log_every=5), folder, say=lambda _: None)
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
    pretrain(state, buffers(state), schedule, tmp_path, lambda _: next(scores), lambda _: None)
    assert TrainingState.load(tmp_path / 'best.safetensors').update.count == 4
    assert ChunkPolicy.load(tmp_path / 'best_policy.safetensors').info.updates == 4
    assert ChunkPolicy.load(tmp_path / 'policy.safetensors').info.updates == 6


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
