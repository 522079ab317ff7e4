# SPDX-License-Identifier: Apache-2.0
"""Updates on recorded data alone, with checkpoints kept by their evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qcfql_ros.errors import CheckpointError
from qcfql_ros.training.buffers import Buffers
from qcfql_ros.training.checkpoint import TrainingState
from qcfql_ros.training.metrics import Metrics, all_finite
from qcfql_ros.training.online import write_policy
from qcfql_ros.training.wilson import wilson_interval


@dataclass(frozen=True)
class Schedule:
    """When an offline run logs, saves and evaluates, in updates.

    Attributes:
        updates: to reach in all.
        log_every: rows of the log.
        save_every: ``last.safetensors``.
        evaluate_every: 0 for never.
        evaluate_episodes: episodes of one evaluation.
    """

    updates: int
    log_every: int = 500
    save_every: int = 5000
    evaluate_every: int = 0
    evaluate_episodes: int = 50


def pretrain(
    state: TrainingState,
    buffers: Buffers,
    schedule: Schedule,
    output_dir: Path,
    evaluate: Callable[[int], int] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train up to ``schedule.updates`` updates of all three losses, from where `state` stands.

    Writes ``last.safetensors`` (state), ``policy.safetensors`` (newest policy),
    ``training.csv``, and with an evaluation ``evaluation.csv``, ``best.safetensors`` and
    ``best_policy.safetensors``: the state with the most successes, the earlier one on a tie.

    Args:
        state: moved on in place.
        buffers: to draw from.
        schedule: see `Schedule`.
        output_dir: for the files above.
        evaluate: number of episodes to successes.
        say: takes a line for a person.

    Raises:
        CheckpointError: a loss is not finite; the files keep the last good state.
    """
    metrics, evaluations = Metrics(output_dir / 'training.csv'), Metrics(None)
    evaluations.path = output_dir / 'evaluation.csv'
    size = state.update.config.batch_size
    started, first = time.monotonic(), state.update.count
    while state.update.count < schedule.updates:
        metrics.add(state.update.step(buffers.sample(size, state.sampler)))
        count = state.update.count
        if count % schedule.log_every == 0:
            means = metrics.take()
            if not all_finite(means):
                raise CheckpointError(
                    f'losses are not finite at update {count}: {means}; {output_dir} keeps the '
                    'last good state: lower the learning rate or check the data'
                )
            rate = (count - first) / (time.monotonic() - started)
            left = (schedule.updates - count) / rate
            metrics.row({'updates': float(count), 'updates_per_s': rate, **means})
            say(
                f'{count}/{schedule.updates} updates, {rate:.1f}/s, {left / 60:.0f} min left, '
                f'critic {means["loss_critic"]:.3g}, behaviour {means["loss_behavior"]:.3g}, '
                f'distillation {means["loss_distillation"]:.3g}, q {means["q_mean"]:.3g}'
            )
        last = count == schedule.updates
        if evaluate and schedule.evaluate_every and (count % schedule.evaluate_every == 0 or last):
            _evaluate(state, schedule, output_dir, evaluate, evaluations, say)
        if count % schedule.save_every == 0 or last:
            _refuse_broken(state, output_dir)
            state.save(output_dir / 'last.safetensors')
            write_policy(state.policy().to_bytes(), 'policy', output_dir)


def _evaluate(
    state: TrainingState,
    schedule: Schedule,
    output_dir: Path,
    evaluate: Callable[[int], int],
    evaluations: Metrics,
    say: Callable[[str], None],
) -> None:
    count, episodes = state.update.count, schedule.evaluate_episodes
    successes = evaluate(episodes)
    low, high = wilson_interval(successes, episodes)
    row = {'updates': float(count), 'episodes': float(episodes), 'success': successes / episodes}
    evaluations.row({**row, 'success_low': low, 'success_high': high})
    best = float(state.notes.get('best_success', -1.0))
    say(
        f'{count} updates: {successes} of {episodes} episodes succeed '
        f'({100 * successes / episodes:.0f} %, 95 % interval {100 * low:.0f} to {100 * high:.0f})'
    )
    if successes / episodes > best:
        state.notes['best_success'] = successes / episodes
        state.notes['best_updates'] = count
        _refuse_broken(state, output_dir)
        state.save(output_dir / 'best.safetensors')
        write_policy(state.policy().to_bytes(), 'best_policy', output_dir)


def _refuse_broken(state: TrainingState, output_dir: Path) -> None:
    """Raise CheckpointError rather than replace the last good state."""
    if not state.update.is_finite():
        raise CheckpointError(
            f'weights are not finite at update {state.update.count}; {output_dir} keeps the last '
            'good state: lower the learning rate or check the data'
        )
