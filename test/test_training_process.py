# SPDX-License-Identifier: Apache-2.0
"""The trainer process at the end of its socket."""

import csv
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from practice_data import random_events

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.algorithm.normalizer import Normalizer
from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.contract import load_contract
from qcfql_ros.data.replay import Replay
from qcfql_ros.data.steps import SegmentEnd, Step, step_digest
from qcfql_ros.training.buffers import Buffers
from qcfql_ros.training.checkpoint import TrainingState
from qcfql_ros.training.frames import FrameReader, pack_events, unpack_events
from qcfql_ros.training.link import TrainerLink
from qcfql_ros.training.online import OnlineTraining
from qcfql_ros.training.pace import Pace
from qcfql_ros.training.process import parser, prepare
from qcfql_ros.training.setup import empty_replay


def wait_for(
    link: TrainerLink, holds: Callable[[dict], bool], timeout_s: float = 180.0
) -> list[dict]:
    """Return the messages up to and with the one that `holds` holds for."""
    deadline = time.monotonic() + timeout_s
    seen: list[dict] = []
    while time.monotonic() < deadline:
        for message in link.poll():
            seen.append(message)
            if holds(message):
                return seen
        time.sleep(0.01)
    raise AssertionError(f'not seen in {timeout_s} s; last: {seen[-2:]}')


def start(run_dir: Path, *more: str) -> TrainerLink:
    arguments = ['--contract', 'point_reach', '--run-dir', str(run_dir)]
    pace = ['--warmup-steps', '20', '--utd-ratio', '0.5', '--publish-every-s', '0.2']
    return TrainerLink.start([*arguments, *pace, *more])


@pytest.fixture
def events() -> list[Step | SegmentEnd]:
    contract = load_contract('point_reach')
    return random_events(5, 20, contract.state_dim, contract.action.dim)


def test_events_survive_their_frames(events) -> None:
    blob = pack_events(events)
    reader = FrameReader()
    frames = reader.push(blob[:1000]) + reader.push(blob[1000:])
    again = [event for header, payload in frames for event in unpack_events(header, payload)]
    assert len(again) == len(events)
    for ours, theirs in zip(again, events, strict=True):
        assert type(ours) is type(theirs)
        if isinstance(ours, Step):
            assert step_digest(ours) == step_digest(theirs)
        else:
            assert np.array_equal(ours.final_observation, theirs.final_observation)
            assert (ours.truncated, ours.reason) == (theirs.truncated, theirs.reason)


def test_updates_follow_the_ratio_and_a_new_policy_and_checkpoint_come_out(
    events, tmp_path: Path
) -> None:
    link = start(tmp_path)
    try:
        link.send_events(events)  # 100 steps: (100 - 20) * 0.5 = 40 updates, not one more
        seen = wait_for(link, lambda m: m['kind'] == 'status' and m['updates'] >= 40)
        policies = [message for message in seen if message['kind'] == 'policy']
        assert policies
        for message in policies:
            assert ChunkPolicy.load(message['path']).digest == message['digest']
        later = wait_for(link, lambda m: m['kind'] == 'status')[-1]
        assert seen[-1]['updates'] == later['updates'] == 40
        assert later['steps'] == 100
    finally:
        link.close()
    assert link.process.returncode == 0
    state = TrainingState.load(tmp_path / 'checkpoints' / 'last.safetensors')
    assert (state.update.count, state.environment_steps) == (40, 100)
    policy = ChunkPolicy.load(tmp_path / 'checkpoints' / 'policy.safetensors')
    assert policy.digest == state.policy().digest
    assert (tmp_path / 'training.csv').read_text().startswith('updates,')


def test_a_trainer_started_again_goes_on_from_its_checkpoint(events, tmp_path: Path) -> None:
    for _ in range(2):  # the second is given the same history and finds its updates done
        link = start(tmp_path)
        link.send_events(events)
        wait_for(link, lambda m: m['kind'] == 'status' and m['updates'] == 40)
        link.close()
    state = TrainingState.load(tmp_path / 'checkpoints' / 'last.safetensors')
    assert (state.update.count, state.environment_steps) == (40, 100)


def test_a_missing_state_is_one_line_and_status_2(tmp_path: Path) -> None:
    link = start(tmp_path, '--state', str(tmp_path / 'none.safetensors'))
    message = wait_for(link, lambda m: m['kind'] == 'error')[-1]
    assert 'none.safetensors: no such training state' in message['text']
    assert link.process.wait(20) == 2
    link.close()


def test_a_state_of_another_contract_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    state = tmp_path / 'state.safetensors'
    TrainingState.start(AlgorithmConfig(3, 2, hidden_dims=(8,)), 'other', 'f' * 64).save(state)
    settings = {'contract': 'point_reach', 'run_dir': tmp_path / 'run', 'model': state}
    options = [word for k, v in settings.items() for word in ('-p', f'{k}:={v}')]
    command = [sys.executable, '-m', 'qcfql_ros.nodes.learner_node', '--ros-args', *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert "made for contract 'other' ffffffffffff" in done.stderr
    assert not (tmp_path / 'run').exists()


def test_a_trainer_in_the_place_of_another_does_not_use_its_versions_again(
    events, tmp_path: Path
) -> None:
    link = start(tmp_path, '--policy-version', '7')
    try:
        link.send_events(events)
        seen = wait_for(link, lambda m: m['kind'] == 'policy')
        assert seen[-1]['version'] == 8
    finally:
        link.close()


def test_weights_that_are_not_finite_are_neither_published_nor_saved(tmp_path: Path) -> None:
    config = AlgorithmConfig(3, 2, num_critics=1, hidden_dims=(8,), batch_size=4)
    state = TrainingState.start(config, 'c', 'h')
    practice = Replay(100, 3, 2, 4, config.discount)
    training = OnlineTraining(
        state, Buffers(practice, None, None, state.normalizer), Pace(1.0, 0), tmp_path
    )
    training.add(random_events(2, 8, 3, 2))
    training.work(2)
    training.save_if_due(force=True)
    good = (tmp_path / 'checkpoints' / 'last.safetensors').read_bytes()
    with torch.no_grad():
        state.update.networks.policy.network.biases[0][0] = float('nan')
    training.work(1)
    training.save_if_due(force=True)
    assert training.publish_if_due(force=True) is None
    assert (tmp_path / 'checkpoints' / 'last.safetensors').read_bytes() == good
    assert 'not finite' in training.report()['stopped']
    assert training.updates_due == 0


def test_a_full_disk_is_reported_and_learning_goes_on(tmp_path: Path) -> None:
    config = AlgorithmConfig(3, 2, num_critics=1, hidden_dims=(8,), batch_size=4)
    state = TrainingState.start(config, 'c', 'h')
    buffers = Buffers(Replay(100, 3, 2, 4, config.discount), None, None, state.normalizer)
    blocked = tmp_path / 'run'
    blocked.write_text('a file where the folder should be')
    training = OnlineTraining(state, buffers, Pace(1.0, 0), blocked)
    training.add(random_events(2, 8, 3, 2))
    assert training.work(2) == 2
    assert training.publish_if_due(force=True) is None
    training.save_if_due(force=True)
    assert str(blocked) in training.report()['disk_error']
    assert training.work(2) == 2


def all_of(state: TrainingState) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in state._tensors().items()}


def online(run_dir: Path, *more: str) -> OnlineTraining:
    """Return the training that the trainer process would have with these arguments."""
    given = ['--fd', '0', '--contract', 'point_reach', '--run-dir', str(run_dir), *more]
    return prepare(parser().parse_args(given))


@pytest.fixture
def pretrained(events, tmp_path: Path) -> Path:
    contract = load_contract('point_reach')
    config = AlgorithmConfig(
        contract.state_dim, contract.action.dim, num_critics=2, hidden_dims=(8,), batch_size=8
    )
    state = TrainingState.start(config, contract.name, contract.hash, seed=3)
    practice = empty_replay(config, 500, contract)
    for event in events:
        practice.append(event)
    for _ in range(5):
        state.update.step(practice.sample(8, state.sampler))
    state.save(tmp_path / 'offline' / 'last.safetensors')
    return tmp_path / 'offline' / 'last.safetensors'


def test_weights_targets_moments_and_generators_carry_over_from_offline_to_practice(
    pretrained: Path, events, tmp_path: Path
) -> None:
    offline = TrainingState.load(pretrained)
    training = online(tmp_path / 'run', '--state', str(pretrained), '--warmup-steps', '0')
    assert (training.state.update.count, training.updates) == (5, 0)
    before, after = all_of(offline), all_of(training.state)
    assert before.keys() == after.keys()
    assert any(name.startswith('adam.exp_avg_sq.critic') for name in before)
    assert any(name.startswith('networks.target_critic') for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    # The first update of practice is that of the offline state, on the same windows.
    training.add(events)
    windows = empty_replay(offline.update.config, 1000, load_contract('point_reach'))
    for event in events:
        windows.append(event)
    training.work(1)
    offline.update.step(windows.sample(8, offline.sampler))
    before, after = all_of(offline), all_of(training.state)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert float(after['adam.step.critic.network.kernels.0']) == 6


def test_no_update_before_warm_up_and_then_the_ratio_holds_step_by_step(
    pretrained: Path, events, tmp_path: Path
) -> None:
    pace = ['--warmup-steps', '30', '--utd-ratio', '0.25', '--state', str(pretrained)]
    training, steps = online(tmp_path / 'run', *pace), 0
    for event in events:
        training.add([event])
        steps += isinstance(event, Step)
        training.work(100)
        assert training.updates == max(0, int((steps - 30) * 0.25))
    assert (steps, training.updates) == (100, 17)
    assert training.report()['total_updates'] == 22


@pytest.mark.parametrize('fraction', [0.5, 0.9, None])
def test_batches_mix_demonstrations_and_practice_as_asked(fraction: float | None) -> None:
    config = AlgorithmConfig(3, 2)
    practice, demonstrations = (empty_replay(config, 500) for _ in range(2))
    for event in random_events(1, 20, 3, 2, seed=1):
        practice.append(event)
    for event in random_events(3, 20, 3, 2, seed=2):
        demonstrations.append(event)
    known = {tuple(row) for row in demonstrations.observations.tolist()}
    buffers = Buffers(practice, demonstrations, fraction, Normalizer.identity(3))
    sampler = np.random.default_rng(0)
    states = [tuple(s) for _ in range(40) for s in buffers.sample(256, sampler).state.tolist()]
    share = np.mean([state in known for state in states])
    # Uniformly, the share is that of the windows: 60 of 80. Five standard errors either way.
    wanted = 0.75 if fraction is None else fraction
    assert abs(share - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / len(states))


def test_minus_one_draws_uniformly(pretrained: Path, tmp_path: Path) -> None:
    for given, wanted in (('-1', None), ('0.5', 0.5), ('0', 0.0)):
        training = online(tmp_path / 'run', '--demo-fraction', given, '--state', str(pretrained))
        assert training.buffers.demonstration_fraction == wanted


def test_the_log_of_a_trainer_started_again_holds_each_update_once(
    pretrained: Path, events, tmp_path: Path
) -> None:
    run, pace = tmp_path / 'run', ['--warmup-steps', '0', '--state', str(pretrained)]
    training = online(run, *pace)
    training.add(events)
    for updates in (10, 10, 10):
        training.work(updates)
        training.report()
        if training.updates == 20:
            training.save_if_due(force=True)
    del training  # killed: the last ten were logged and not saved
    again = online(run, *pace)
    again.add(events)
    for updates in (10, 10):
        again.work(updates)
        again.report()
    with open(run / 'training.csv', newline='') as file:
        counts = [int(row['updates']) for row in csv.DictReader(file)]
    assert counts == [15, 25, 35, 45]
