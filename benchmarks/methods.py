#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The methods side by side on the point robot: offline, same buffer, same networks and updates.

    python benchmarks/methods.py [--quick] [--json PATH] [--seeds 5] [--updates 1000]

success: of 200 episodes a seed, seeds pooled, with Wilson's 95 % interval; each: successes in per
cent of each seed; ticks: mean length of an episode, 40 without success; updates/s: for each
second of one core's time, whoever else uses the machine. SAC is another setting: it learns online
from nothing, with as many steps of the robot as the buffer holds (pip install '.[benchmark]').
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'test'))

from point_task import (
    DISTILLATION_WEIGHTS,
    Episodes,
    evaluate,
    play,
    run_episodes,
    settings,
    train,
)

from qcfql_ros.training.wilson import wilson_interval

PLAY_SEED = 7
EVALUATION_SEED = 10_000
EPISODES = 200

#: Row: the method, and what is changed.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    'bc': ('bc', {}),
    'bfn': ('bfn', {}),
    'qc': ('qc', {}),
    'fql': ('fql', {}),
    'fql_n': ('fql_n', {}),
    'qc_fql': ('qc_fql', {}),
    'qc_fql_5_critics': ('qc_fql', {'num_critics': 5}),
    'qc_fql_5_critics_mean_minus_std': (
        'qc_fql',
        {'num_critics': 5, 'critic_aggregation': 'mean_minus_std', 'pessimism': 0.5},
    ),
    'qc_fql_normalize_q_loss': (
        'qc_fql',
        {'normalize_q_loss': True, 'distillation_weight': DISTILLATION_WEIGHTS['normalized']},
    ),
    'qc_fql_value_weighted': ('qc_fql', {'behavior_weighting': 'value'}),
}


def one_run(
    row: str, events: list, updates: int, weight: float | None, seed: int, episodes_seed: int
) -> tuple[Episodes, float]:
    """Return how the episodes went, and updates for each second of processor time."""
    name, changes = ROWS[row]
    if name in DISTILLATION_WEIGHTS:
        changes = {'distillation_weight': DISTILLATION_WEIGHTS[name], **changes}
    if weight is not None:
        changes = {**changes, 'distillation_weight': weight}
    begin_s = time.process_time()
    update = train(settings(name, **changes), events, updates, seed)
    rate = updates / (time.process_time() - begin_s)
    return evaluate(update, EPISODES, episodes_seed), rate


def one_sac_run(steps: int, seed: int, episodes_seed: int) -> tuple[Episodes, float]:
    """Return the same for SAC; raises ModuleNotFoundError where it is not installed."""
    from point_sac import train_sac

    begin_s = time.process_time()
    planner, updates = train_sac(steps, seed)
    rate = updates / (time.process_time() - begin_s)
    return run_episodes(planner, EPISODES, episodes_seed), rate


def summary(results: list[tuple[Episodes, float]]) -> dict[str, float]:
    """Return the numbers of a row, seeds pooled."""
    count = sum(episodes.count for episodes, _ in results)
    successes = sum(episodes.successes for episodes, _ in results)
    low, high = wilson_interval(successes, count)
    return {
        'success_percent': round(100.0 * successes / count, 1),
        'low_percent': round(100.0 * low, 1),
        'high_percent': round(100.0 * high, 1),
        'ticks': round(sum(episodes.mean_ticks for episodes, _ in results) / len(results), 1),
        'updates_per_s': round(sum(rate for _, rate in results) / len(results), 1),
    }


def main() -> int:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='one seed, 300 updates')
    parser.add_argument('--json', type=Path, help='write a flat object, name to number')
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--updates', type=int, default=1000)
    parser.add_argument('--play-episodes', type=int, default=50, help='of 200 steps')
    parser.add_argument('--first-seed', type=int, default=0, help='also moves the episodes')
    parser.add_argument('--distillation-weight', type=float, help='instead of the chosen one')
    parser.add_argument('--rows', nargs='+', choices=[*ROWS, 'sac'], default=[*ROWS, 'sac'])
    options = parser.parse_args()
    torch.set_num_threads(1)
    episodes_seed = EVALUATION_SEED + options.first_seed
    seeds, updates = (1, 300) if options.quick else (options.seeds, options.updates)
    run_seeds = range(options.first_seed, options.first_seed + seeds)
    events = play(options.play_episodes, PLAY_SEED)
    steps = 200 * options.play_episodes
    if options.quick:
        steps //= 10
    flat: dict[str, float] = {
        'seeds': seeds,
        'updates': updates,
        'steps': 200 * options.play_episodes,
    }
    print(f'{updates} updates on {flat["steps"]} steps of play, {seeds} seeds of 200 episodes')
    print(f'{"":32}{"success":>9}{"95 %":>15}{"ticks":>7}{"updates/s":>11}  each')
    for row in options.rows:
        if row == 'sac':
            if importlib.util.find_spec('stable_baselines3') is None:
                print("sac: skipped; pip install '.[benchmark]' for stable-baselines3")
                continue
            results = [one_sac_run(steps, seed, episodes_seed) for seed in run_seeds]
        else:
            results = [
                one_run(row, events, updates, options.distillation_weight, seed, episodes_seed)
                for seed in run_seeds
            ]
        numbers = summary(results)
        each = ' '.join(f'{100 * e.successes / e.count:.0f}' for e, _ in results)
        print(
            f'{row:32}{numbers["success_percent"]:>8} %'
            f'{numbers["low_percent"]:>8} to {numbers["high_percent"]}'.ljust(58)
            + f'{numbers["ticks"]:>5}{numbers["updates_per_s"]:>11}  {each}',
            flush=True,
        )
        flat |= {f'{row}_{name}': value for name, value in numbers.items()}
        if options.json:
            options.json.write_text(json.dumps(flat, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
