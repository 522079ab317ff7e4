# SPDX-License-Identifier: Apache-2.0
"""The trainer process at the end of its socket."""

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


def wait_for(
    link: TrainerLink, holds: Callable[[dict], bool], timeout_s: float = 60.0
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
