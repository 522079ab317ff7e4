# SPDX-License-Identifier: Apache-2.0
"""A run of a few updates on made-up steps: what a training takes, before the real one begins."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.training.buffers import Buffers
from qcfql_ros.training.checkpoint import TrainingState
from qcfql_ros.training.offline import OfflineTraining, Schedule
from qcfql_ros.training.setup import empty_replay
from qcfql_ros.training.validation import Validation


def rehearse(contract: Contract, config: AlgorithmConfig, device: str, tensorboard: bool) -> None:
    """Train, validate, log and save as a run does, in the temporary folder, and forget it all."""
    steps = 4 * (config.window_steps + config.action_chunk_size)
    replay = empty_replay(config, steps + 1, contract)
    observation = np.zeros(config.state_dim, np.float32)
    action = np.zeros(config.action_dim, np.float32)
    for number in range(steps):
        replay.append(Step(number, observation, action, 0.0, terminated=False, success=True))
    replay.append(SegmentEnd(observation, True, 'rehearsal'))
    state = TrainingState.start(config, contract.name, contract.hash, device=device)
    held_out = Validation(replay, state.normalizer, state.update, 0)
    with tempfile.TemporaryDirectory(prefix='qcfql_rehearsal_') as folder:
        OfflineTraining(
            state,
            Buffers(empty_replay(config, config.window_steps + 2), replay, None, state.normalizer),
            Schedule(updates=4, log_every=2, save_every=2),
            Path(folder),
            validation=held_out,
            tensorboard=tensorboard,
            say=lambda line: None,
        ).run()
