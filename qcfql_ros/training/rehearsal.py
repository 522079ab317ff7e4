# SPDX-License-Identifier: Apache-2.0
"""A run of a few updates on made-up steps: what a training takes, before the real one begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.contract import Contract, load_contract
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.errors import ParameterError
from qcfql_ros.training.buffers import Buffers
from qcfql_ros.training.checkpoint import TrainingState
from qcfql_ros.training.offline import OfflineTraining, Schedule
from qcfql_ros.training.setup import empty_replay
from qcfql_ros.training.validation import Validation


def training_bytes(contract: str, config: AlgorithmConfig, device: str, tensorboard: bool) -> int:
    """Return the most memory that a training takes beside its replay.

    Measured on a process of its own, from its start to its very end: torch takes most of it, and
    more than anywhere else when the process ends.

    Raises:
        ParameterError: it does not even train on made-up steps.
    """
    given = json.dumps([contract, config.to_dict(), device, tensorboard])
    process = subprocess.Popen(
        [sys.executable, '-m', __name__, given],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = (said.strip().splitlines() or [f'exit status {process.returncode}'])[-1]
        raise ParameterError(f'--memory-limit: training does not work here: {last}')
    return int(usage.ru_maxrss) << 10


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


if __name__ == '__main__':
    _contract, _config, _device, _board = json.loads(sys.argv[1])
    rehearse(load_contract(_contract), AlgorithmConfig.from_dict(_config), _device, _board)
