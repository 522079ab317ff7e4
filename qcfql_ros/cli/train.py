# SPDX-License-Identifier: Apache-2.0
"""Train a policy from recordings (offline pretraining).

Reads the bags through the contract, does --num_pretrain_steps updates of all three losses and
leaves the newest and the best state and policy in --output_dir, with a log that docs/metrics.md
explains. A run that was stopped or killed goes on where it last saved when the same command is
given again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qcfql_ros.cli.report import add_json_argument, write_report
from qcfql_ros.cli.train_data import Memory, add_data_arguments, load_data
from qcfql_ros.cli.train_settings import add_settings, chosen_settings, differences
from qcfql_ros.errors import CheckpointError, ParameterError

# What a run that goes on must be given again; the rest may change.
_FIXED = ('seed', 'pretrain', 'normalize_observations', 'capacity')
VALIDATION_FRACTION = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; underscores as in the user's guide of QC-FQL."""
    add = parser.add_argument
    add_data_arguments(parser)
    add('--contract', required=True, help='name or path of the contract')
    add('--output_dir', type=Path, required=True)
    add('--num_pretrain_steps', type=int, default=100_000, help='updates of all three losses')
    add(
        '--pretrain',
        choices=('joint', 'behavior'),
        default='joint',
        help='behavior: train the behaviour flow alone first (default joint)',
    )
    add(
        '--num_behavior_steps',
        type=int,
        help='of --pretrain behavior (default: a tenth of --num_pretrain_steps)',
    )
    add('--normalize_observations', action='store_true', help='by mean and std of the data')
    add(
        '--validation_fraction',
        type=float,
        help='of the segments, held out: one of n, with n = 1 / fraction rounded; 0 for none '
        f'(default {VALIDATION_FRACTION})',
    )
    add('--evaluate_every', type=int, default=0, help='updates; 0 for never')
    add('--evaluate_episodes', type=int, default=50)
    add('--robot', help='simulated robot to evaluate on')
    add('--log_every', type=int, default=500, help='updates')
    add('--save_every', type=int, default=5000, help='updates')
    add('--no_tensorboard', action='store_true', help='log to CSV alone')
    add('--seed', type=int, default=0)
    add('--threads', type=int, default=0, help='of torch; 0 for its own choice')
    add('--device', default='cpu', help='cpu or cuda')
    add_json_argument(parser)
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train; see the module's text."""
    import torch

    from qcfql_ros.contract import load_contract
    from qcfql_ros.training.buffers import Buffers
    from qcfql_ros.training.offline import OfflineTraining, restore_policy
    from qcfql_ros.training.rehearsal import training_bytes
    from qcfql_ros.training.setup import empty_replay
    from qcfql_ros.training.validation import Split, Validation

    _check(arguments, torch.cuda.is_available())
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings, schedule = chosen_settings(arguments), _schedule(arguments)
    contract = load_contract(arguments.contract)
    contract.require_no_images_for_training()
    if arguments.evaluate_every and not arguments.robot:
        raise ParameterError('--evaluate_every needs --robot, the simulated robot to evaluate on')
    config = _config(settings, contract)
    split = Split(_validation_fraction(arguments), arguments.seed)
    evaluate = _evaluation(arguments, contract)
    state = _resume(arguments, contract, config)
    if state is not None:
        stage_left = not state.update.count and (
            state.update.behavior_count < schedule.behavior_updates
        )
        if state.update.count >= schedule.updates and not stage_left:
            restore_policy(state, arguments.output_dir)
            _finish(arguments, state, f'nothing to do: {_done(state.update)} updates are done')
            return 0
        split = Split(*_split_of(arguments, state))
    print(f'settings: {_describe(arguments, config)}', flush=True)
    board = not arguments.no_tensorboard
    memory = Memory(
        arguments.memory_limit,
        lambda: training_bytes(arguments.contract, config, arguments.device, board),
    )
    training, held_out = load_data(arguments, contract, config, split, memory)
    if state is None:
        state = _fresh(arguments, contract, config, training, split)
    elif (before := state.notes.get('data_steps', training.steps)) != training.steps:
        print(f'warning: {before} steps before, {training.steps} now: other data', flush=True)
    first, started = state.update.count, time.monotonic()

    def score(episodes: int) -> int:
        assert evaluate is not None
        return evaluate(state.policy(), episodes)

    OfflineTraining(
        state,
        Buffers(empty_replay(config, config.window_steps + 2), training, None, state.normalizer),
        schedule,
        arguments.output_dir,
        evaluate=score if evaluate else None,
        validation=held_out and Validation(held_out, state.normalizer, state.update, 0),
        tensorboard=board,
        say=lambda line: print(line, flush=True),
    ).run()
    rate = (state.update.count - first) / max(time.monotonic() - started, 1e-9)
    data = {'steps': training.steps, 'windows': len(training), **memory.report()}
    _finish(arguments, state, 'done', updates_per_s=rate, **data)
    return 0


def _check(arguments: argparse.Namespace, has_cuda: bool) -> None:
    """Refuse what could only fail later; raises ParameterError."""
    for name, lowest in (('seed', 0), ('threads', 0), ('capacity', 1), ('num_pretrain_steps', 0)):
        value = getattr(arguments, name)
        if value < lowest:
            raise ParameterError(f'--{name} is {value}; wanted at least {lowest}')
    if arguments.seed >= 1 << 63:
        raise ParameterError(f'--seed is {arguments.seed}; wanted less than 2^63')
    if arguments.device not in ('cpu', 'cuda'):
        raise ParameterError(f'--device is {arguments.device!r}; wanted cpu or cuda')
    if arguments.device == 'cuda' and not has_cuda:
        raise ParameterError('--device cuda: torch finds no GPU here; give --device cpu')
    folder = arguments.output_dir
    blocking = next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None)
    if blocking is not None:
        raise ParameterError(f'--output_dir {folder}: {blocking} is not a folder')


def _schedule(arguments: argparse.Namespace) -> Any:
    from qcfql_ros.training.offline import Schedule

    updates, behavior = arguments.num_pretrain_steps, arguments.num_behavior_steps
    if arguments.pretrain == 'behavior':
        behavior = updates // 10 if behavior is None else behavior
    elif behavior is not None:
        raise ParameterError('--num_behavior_steps needs --pretrain behavior')
    if not updates and not behavior:
        raise ParameterError('--num_pretrain_steps is 0: nothing to train; wanted at least 1')
    return Schedule(
        updates,
        behavior or 0,
        arguments.log_every,
        arguments.save_every,
        arguments.evaluate_every,
        arguments.evaluate_episodes,
    )


def _config(settings: dict[str, Any], contract: Any) -> Any:
    from qcfql_ros.algorithm.config import AlgorithmConfig

    return AlgorithmConfig(contract.state_dim, contract.action.dim, **settings)


def _describe(arguments: argparse.Namespace, config: Any) -> str:
    chosen = [f'{what} {getattr(arguments, what)}' for what in ('preset', 'method')
              if getattr(arguments, what)]  # fmt: skip
    changed = differences(config)
    other = f'other than by default: {changed}' if changed else 'all by default'
    stage = ', '.join([*chosen, f'pretrain {arguments.pretrain}'])
    return f'{stage}; {other}'


def _validation_fraction(arguments: argparse.Namespace) -> float:
    given = arguments.validation_fraction
    return VALIDATION_FRACTION if given is None else given


def _split_of(arguments: argparse.Namespace, state: Any) -> tuple[float, int]:
    """Return fraction and seed of the split that `state` was trained with."""
    fraction, seed = state.notes.get('validation_split', (0.0, 0))
    asked, given = state.notes.get('validation_fraction', fraction), arguments.validation_fraction
    if given is not None and given not in (asked, fraction):
        raise CheckpointError(
            f'{arguments.output_dir}: trained with --validation_fraction {asked:g}, so '
            f'{given:g} would validate on what was learned; give another --output_dir'
        )
    return fraction, seed


def _resume(arguments: argparse.Namespace, contract: Any, wanted: Any) -> Any:
    """Return the state that an earlier run left in the output folder, or None."""
    from qcfql_ros.training.setup import load_state

    last = arguments.output_dir / 'last.safetensors'
    if not last.is_file():
        return None
    state = load_state(last, contract, arguments.device)
    if state.update.config != wanted:
        raise CheckpointError(
            f'{last}: made with other settings than the arguments ask for: '
            f'{differences(state.update.config, wanted)}; give another --output_dir'
        )
    before = state.notes.get('arguments', {})  # older states do not say
    for name in before:
        if before[name] != getattr(arguments, name):
            raise CheckpointError(
                f'{last}: trained with --{name} {before[name]}, now it is '
                f'{getattr(arguments, name)}; give the same again, or another --output_dir'
            )
    update, wanted_steps = state.update, arguments.num_behavior_steps
    if update.count and wanted_steps is not None and wanted_steps != update.behavior_count:
        raise CheckpointError(
            f'{last}: behaviour was trained alone for {update.behavior_count} updates and that '
            f'stage is over; --num_behavior_steps {wanted_steps} needs another --output_dir'
        )
    print(f'going on from {last}: {_done(state.update)} updates', flush=True)
    return state


def _fresh(
    arguments: argparse.Namespace, contract: Any, config: Any, data: Any, split: Any
) -> Any:
    from qcfql_ros.algorithm.normalizer import Normalizer
    from qcfql_ros.training.checkpoint import TrainingState

    normalizer = None
    if arguments.normalize_observations:
        rows = min(data.rows, data.capacity)
        normalizer = Normalizer.fit(data.observations[:rows])
    state = TrainingState.start(
        config, contract.name, contract.hash, normalizer, arguments.seed, arguments.device
    )
    state.notes |= {
        'command': ' '.join(['qcfql train', *sys.argv[2:]]),
        'seed': arguments.seed,
        'validation_fraction': split.fraction,
        # Where nothing was held out nothing is later: with more data it would have been learned.
        'validation_split': [split.fraction if split.held_out else 0.0, arguments.seed],
        'data_steps': data.steps,
        'arguments': {name: getattr(arguments, name) for name in _FIXED},
    }
    return state


def _evaluation(arguments: argparse.Namespace, contract: Any) -> Callable[[Any, int], int] | None:
    """Return a function (policy, episodes) -> successes, or None."""
    if not arguments.evaluate_every:
        return None
    from qcfql_ros.robots import make_robot
    from qcfql_ros.training.rollout import success_count

    robot = make_robot(arguments.robot, 'task', contract)
    # A seed that neither practice nor `qcfql evaluate` uses by default.
    return lambda policy, episodes: success_count(policy, robot, contract, episodes, 1_000_000)


def _done(update: Any) -> str:
    alone = update.behavior_count and not update.count
    return f'{update.behavior_count} behaviour' if alone else str(update.count)


def _finish(arguments: argparse.Namespace, state: Any, line: str, **report: Any) -> None:
    notes = state.notes
    best = {name: notes.get(name) for name in ('best_by', 'best_success', 'best_updates')}
    write_report(arguments.json, {'updates': state.update.count, **report, **best})
    if notes.get('best_by'):
        print(f'best by {notes["best_by"]}: update {notes["best_updates"]}')
    print(f'{line}: {arguments.output_dir}/last.safetensors')
