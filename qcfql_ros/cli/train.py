# SPDX-License-Identifier: Apache-2.0
"""Train a policy from recordings (offline pretraining).

Reads the bags through the contract, does --num_pretrain_steps updates of all three losses and
leaves the newest and the best state and policy in --output_dir. A run that was stopped goes on
where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from qcfql_ros.cli.report import add_json_argument, write_report
from qcfql_ros.errors import CheckpointError, ParameterError

_ALGORITHM = {
    'action_chunk_size': (int, 'actions in a chunk'),
    'num_critics': (int, 'members of the critic ensemble'),
    'critic_aggregation': (str, 'min, mean or mean_minus_std'),
    'pessimism': (float, 'rho of mean_minus_std'),
    'distillation_weight': (float, 'weight of the distillation loss'),
    'discount': (float, 'per step'),
    'critic_target_update_tau': (float, 'rate of the targets'),
    'flow_matching_sigma': (float, 'sigma_min of flow matching'),
    'flow_matching_num_inference_steps': (int, 'Euler steps of the flow'),
    'learning_rate': (float, 'Adam'),
    'batch_size': (int, 'windows in one update'),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; underscores as in the user's guide of QC-FQL."""
    parser.add_argument('--dataset_path', type=Path, nargs='+', required=True, metavar='BAG')
    parser.add_argument('--contract', required=True, help='name or path of the contract')
    parser.add_argument('--output_dir', type=Path, required=True)
    parser.add_argument('--num_pretrain_steps', type=int, default=100_000)
    parser.add_argument('--preset', help='long_horizon, short, complex or paper')
    for name, (kind, text) in _ALGORITHM.items():
        parser.add_argument(f'--{name}', type=kind, help=text)
    parser.add_argument('--hidden_dims', type=int, nargs='+', help='hidden layer sizes')
    parser.add_argument(
        '--normalize_observations', action='store_true', help='by mean and std of the data'
    )
    parser.add_argument('--evaluate_every', type=int, default=0, help='updates; 0 for never')
    parser.add_argument('--evaluate_episodes', type=int, default=50)
    parser.add_argument('--robot', help='simulated robot to evaluate on')
    parser.add_argument('--save_every', type=int, default=5000, help='updates')
    parser.add_argument('--capacity', type=int, default=2_000_000, help='rows of the replay')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, default=0, help='of torch; 0 for its own choice')
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train; see the module's text."""
    import torch

    from qcfql_ros.contract import load_contract
    from qcfql_ros.training.buffers import Buffers
    from qcfql_ros.training.offline import Schedule, pretrain
    from qcfql_ros.training.setup import empty_replay, load_demonstrations

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    contract = load_contract(arguments.contract)
    contract.require_no_images_for_training()
    if arguments.evaluate_every and not arguments.robot:
        raise ParameterError('--evaluate_every needs --robot, the simulated robot to evaluate on')
    settings = algorithm_settings(arguments)
    evaluate = _evaluation(arguments, contract)
    state = _resume(arguments, contract)
    config = state.update.config if state else settings(contract)
    data = load_demonstrations(arguments.dataset_path, contract, config, arguments.capacity)
    assert data is not None  # the path is required
    print(f'{data.steps} steps, {data.segment} segments, {len(data)} windows', flush=True)
    if state is None:
        state = _fresh(arguments, contract, config, data)
    buffers = Buffers(
        empty_replay(config, config.action_chunk_size + 2), data, None, state.normalizer
    )
    schedule = Schedule(
        arguments.num_pretrain_steps,
        save_every=arguments.save_every,
        evaluate_every=arguments.evaluate_every,
        evaluate_episodes=arguments.evaluate_episodes,
    )
    first, started = state.update.count, time.monotonic()

    def score(episodes: int) -> int:
        return evaluate(state.policy(), episodes)

    pretrain(
        state,
        buffers,
        schedule,
        arguments.output_dir,
        score if evaluate else None,
        lambda line: print(line, flush=True),
    )
    seconds = time.monotonic() - started
    write_report(
        arguments.json,
        {
            'updates': state.update.count,
            'updates_per_s': (state.update.count - first) / max(seconds, 1e-9),
            'steps': data.steps,
            'windows': len(data),
            'best_success': state.notes.get('best_success'),
            'best_updates': state.notes.get('best_updates'),
        },
    )
    print(f'done: {arguments.output_dir}/last.safetensors')
    return 0


def algorithm_settings(arguments: argparse.Namespace) -> Any:
    """Return a function from the contract to the AlgorithmConfig that the arguments ask for."""
    from qcfql_ros.algorithm.config import AlgorithmConfig, preset

    values = preset(arguments.preset) if arguments.preset else {}
    for name in _ALGORITHM:
        if getattr(arguments, name) is not None:
            values[name] = getattr(arguments, name)
    if arguments.hidden_dims:
        values['hidden_dims'] = tuple(arguments.hidden_dims)
    AlgorithmConfig(1, 1, **values)  # refuse wrong values before any data is read
    return lambda contract: AlgorithmConfig(contract.state_dim, contract.action.dim, **values)


def _resume(arguments: argparse.Namespace, contract: Any) -> Any:
    """Return the state that an earlier run left in the output folder, or None."""
    from qcfql_ros.training.setup import load_state

    last = arguments.output_dir / 'last.safetensors'
    if not last.is_file():
        if arguments.output_dir.exists() and not arguments.output_dir.is_dir():
            raise CheckpointError(f'--output_dir {arguments.output_dir}: not a folder')
        return None
    state = load_state(last, contract, arguments.device)
    wanted = algorithm_settings(arguments)(contract)
    if state.update.config != wanted:
        raise CheckpointError(
            f'{last}: made with {state.update.config}, but the arguments ask for {wanted}; '
            'give another --output_dir'
        )
    print(f'going on from {last}: {state.update.count} updates', flush=True)
    return state


def _fresh(arguments: argparse.Namespace, contract: Any, config: Any, data: Any) -> Any:
    from qcfql_ros.algorithm.normalizer import Normalizer
    from qcfql_ros.training.checkpoint import TrainingState

    normalizer = None
    if arguments.normalize_observations:
        rows = min(data.rows, data.capacity)
        normalizer = Normalizer.fit(data.observations[:rows])
    state = TrainingState.start(
        config, contract.name, contract.hash, normalizer, arguments.seed, arguments.device
    )
    state.notes['command'] = ' '.join(['qcfql train', *sys.argv[2:]])
    state.notes['seed'] = arguments.seed
    return state


def _evaluation(arguments: argparse.Namespace, contract: Any) -> Any:
    """Return a function (policy, episodes) -> successes, or None."""
    if not arguments.evaluate_every:
        return None
    from qcfql_ros.robots import make_robot
    from qcfql_ros.training.rollout import success_count

    robot = make_robot(arguments.robot, 'task', contract)
    # A seed that neither practice nor `qcfql evaluate` uses by default.
    return lambda policy, episodes: success_count(policy, robot, contract, episodes, 1_000_000)
