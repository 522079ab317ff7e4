# SPDX-License-Identifier: Apache-2.0
"""From arguments to a training that can run: states, buffers and what must fit together."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.contract import Contract
from qcfql_ros.data.replay import Replay
from qcfql_ros.data.step_block import StepBlock
from qcfql_ros.errors import BagError
from qcfql_ros.training.buffers import Buffers
from qcfql_ros.training.checkpoint import TrainingState
from qcfql_ros.training.file_headers import check_contract_of, read_state_header
from qcfql_ros.training.online import OnlineTraining
from qcfql_ros.training.pace import Pace


def load_state(path: Path, contract: Contract, device: str = 'cpu') -> TrainingState:
    """Read a training state made for `contract`; raises CheckpointError otherwise."""
    check_contract_of(path, read_state_header(path), contract)
    return TrainingState.load(path, device)


def empty_replay(
    config: AlgorithmConfig,
    capacity: int,
    contract: Contract | None = None,
    demonstrations: bool = False,
) -> Replay:
    """Return a replay for windows of `config`.

    Args:
        config: the settings.
        capacity: rows kept.
        contract: whose own price of failure, if it names one, goes before the default.
        demonstrations: imitated without exception.
    """
    priced = contract is not None and contract.outcome.failure_reward is not None
    return Replay(
        capacity,
        config.state_dim,
        config.action_dim,
        config.action_chunk_size,
        config.discount,
        return_steps=config.return_steps,
        terminal_windows=config.terminal_windows,
        rewards_after_termination=config.rewards_after_termination,
        window_sampling=config.window_sampling,
        imitate_success_only=config.behavior_weighting == 'success' and not demonstrations,
        imitate_short_segments=config.imitate_short_segments,
        price_failure=config.price_failure and not priced,
    )


def fill(replay: Replay, blocks: Iterable[StepBlock], source: str) -> None:
    """Append `blocks`; raises BagError if no window of them can be learned from."""
    for block in blocks:
        replay.append_block(block)
    if not len(replay):
        raise BagError(
            f'{source}: {replay.steps} steps, but no unbroken run of {replay.window_steps} to '
            'learn from; record longer episodes, or lower action_chunk_size'
        )


def load_demonstrations(
    paths: Sequence[Path], contract: Contract, config: AlgorithmConfig, capacity: int
) -> Replay | None:
    """Return a replay with the steps of the bags at `paths`; None without paths."""
    if not paths:
        return None
    from qcfql_ros.data.bag_steps import load_bags, open_bags

    bags = open_bags(paths, contract)
    load_bags(bags)
    for line in chain.from_iterable(bag.remarks() for bag in bags):
        print(line, file=sys.stderr, flush=True)
    replay = empty_replay(config, capacity, contract, demonstrations=True)
    blocks = chain.from_iterable(bag.blocks() for bag in bags)
    fill(replay, blocks, ', '.join(str(path) for path in paths))
    return replay


def online_training(arguments: argparse.Namespace, contract: Contract) -> OnlineTraining:
    """Return the practice run of the trainer process's arguments.

    A checkpoint in the run's own folder goes before the state that was named: it is the same
    run, further on.
    """
    last = arguments.run_dir / 'checkpoints' / 'last.safetensors'
    if last.is_file():
        state = load_state(last, contract, arguments.device)
    elif arguments.state is not None:
        state = load_state(arguments.state, contract, arguments.device)
        state.notes = {k: v for k, v in state.notes.items() if not k.startswith('run_base')}
    else:
        config = AlgorithmConfig(contract.state_dim, contract.action.dim)
        state = TrainingState.start(
            config, contract.name, contract.hash, seed=arguments.seed, device=arguments.device
        )
    state.policy_version = max(state.policy_version, arguments.policy_version)
    config = state.update.config
    if arguments.behavior_weighting != 'model':
        config = config.with_changes(behavior_weighting=arguments.behavior_weighting)
    state.update.config = config
    demonstrations = load_demonstrations(arguments.demos, contract, config, arguments.capacity)
    buffers = Buffers(
        empty_replay(config, arguments.capacity, contract),
        demonstrations,
        arguments.demo_fraction if arguments.demo_fraction >= 0.0 else None,
        state.normalizer,
    )
    pace = Pace(
        arguments.utd_ratio,
        arguments.warmup_steps,
        arguments.publish_every_s,
        arguments.checkpoint_every_s,
    )
    return OnlineTraining(state, buffers, pace, arguments.run_dir)
