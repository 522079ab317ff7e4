# SPDX-License-Identifier: Apache-2.0
"""Updates on recorded data alone, logged, validated, and kept by their score."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qcfql_ros.algorithm.batch import Batch, Info
from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.errors import CheckpointError, ModelError, ParameterError
from qcfql_ros.training.board import Board
from qcfql_ros.training.buffers import Buffers
from qcfql_ros.training.checkpoint import TrainingState
from qcfql_ros.training.csv_log import CsvLog
from qcfql_ros.training.diagnosis import diagnose, left_behavior, short_segments
from qcfql_ros.training.durable_file import write_policy
from qcfql_ros.training.metrics import (
    EVALUATION_COLUMNS,
    OFFLINE_COLUMNS,
    Metrics,
    all_finite,
)
from qcfql_ros.training.validation import Validation, over_training
from qcfql_ros.training.wilson import wilson_interval


@dataclass(frozen=True)
class Schedule:
    """When an offline run logs, saves and evaluates, in updates.

    Attributes:
        updates: of all three losses, to reach in all.
        behavior_updates: of the behaviour flow alone, before those.
        log_every: rows of the log; there is one at each save too, so that a state and the log
            up to it belong together.
        save_every: ``last.safetensors``.
        evaluate_every: 0 for never.
        evaluate_episodes: episodes of one evaluation.
    """

    updates: int
    behavior_updates: int = 0
    log_every: int = 500
    save_every: int = 5000
    evaluate_every: int = 0
    evaluate_episodes: int = 50

    def __post_init__(self) -> None:
        for name in ('log_every', 'save_every', 'evaluate_episodes'):
            if getattr(self, name) < 1:
                raise ParameterError(f'{name}: got {getattr(self, name)}, wanted at least 1')
        for name in ('updates', 'behavior_updates', 'evaluate_every'):
            if getattr(self, name) < 0:
                raise ParameterError(f'{name}: got {getattr(self, name)}, wanted at least 0')


class OfflineTraining:
    """One run: trains up to the schedule's updates, from where `state` stands.

    Writes ``last.safetensors`` (state), ``policy.safetensors`` (newest policy),
    ``training.csv``, with an evaluation ``evaluation.csv``, and ``best.safetensors`` with
    ``best_policy.safetensors``: the state with the most successes, or without an evaluation the
    saved one with the lowest behaviour loss on held-out segments; the earlier one on a tie. Its
    notes name which (`best_by`).

    Args:
        state: moved on in place.
        buffers: to draw from.
        schedule: see `Schedule`.
        output_dir: for the files above.
        evaluate: number of episodes to successes.
        validation: losses on held-out segments.
        tensorboard: write ``tensorboard/`` too.
        say: takes a line for a person.
    """

    def __init__(
        self,
        state: TrainingState,
        buffers: Buffers,
        schedule: Schedule,
        output_dir: Path,
        *,
        evaluate: Callable[[int], int] | None = None,
        validation: Validation | None = None,
        tensorboard: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self.state = state
        self.buffers = buffers
        self.schedule = schedule
        self.output_dir = output_dir
        self._evaluate_episodes = evaluate if schedule.evaluate_every else None
        self._validation = validation
        self._say = say
        self._metrics = Metrics()
        self._log = CsvLog(output_dir / 'training.csv', OFFLINE_COLUMNS, say)
        self._evaluations = CsvLog(output_dir / 'evaluation.csv', EVALUATION_COLUMNS, say)
        update = state.update
        self._log.resume(updates=update.count, behavior_updates=update.behavior_count)
        self._evaluations.resume(updates=update.count)
        self._board = Board(output_dir / 'tensorboard' if tensorboard else None, self._step, say)
        self._held_out_loss: float | None = None  # of the newest row
        self._mark = time.monotonic()
        self._since_mark = 0
        if state.remark:
            say(state.remark)

    @property
    def _step(self) -> int:
        return self.state.update.count + self.state.update.behavior_count

    def run(self) -> None:
        """Do the updates that are left.

        Raises:
            CheckpointError: a loss is not finite; the files keep the last good state.
        """
        update, schedule = self.state.update, self.schedule
        try:
            while update.count == 0 and update.behavior_count < schedule.behavior_updates:
                self._take(update.behavior_step(self._draw()))
                self._keep(update.behavior_count, schedule.behavior_updates, 'behaviour ')
            while update.count < schedule.updates:
                self._take(update.step(self._draw()))
                self._keep(update.count, schedule.updates)
        finally:
            self._board.close()

    def _draw(self) -> Batch:
        update = self.state.update
        batch = self.buffers.sample(update.config.batch_size, self.state.sampler)
        return batch.to(update.device)

    def _take(self, info: Info) -> None:
        self._metrics.add(info)
        self._since_mark += 1

    def _keep(self, done: int, goal: int, stage: str = '') -> None:
        """Log, evaluate and save, each if it is time."""
        schedule, last = self.schedule, done == goal
        saves = last or done % schedule.save_every == 0
        every = schedule.evaluate_every
        evaluates = self._evaluate_episodes and not stage and (last or done % every == 0)
        logs = saves or done % schedule.log_every == 0
        if logs:
            self._write_row(done, goal, stage)
        if evaluates:
            self._evaluate()
        if saves:
            self._keep_lowest()
            self._log.sync()
            self._evaluations.sync()
            self._save('last', 'policy')
        if logs or evaluates:  # the rate is that of updates alone
            self._mark, self._since_mark = time.monotonic(), 0

    def _write_row(self, done: int, goal: int, stage: str) -> None:
        update, state = self.state.update, self.state
        rate = self._since_mark / max(time.monotonic() - self._mark, 1e-9)
        means = self._metrics.take()
        if not all_finite(means):
            raise CheckpointError(
                f'losses are not finite at update {done}: {means}; {self.output_dir} keeps the '
                'last good state: lower the learning rate or check the data'
            )
        row: dict[str, float] = {
            'updates': update.count,
            'behavior_updates': update.behavior_count,
            'updates_per_s': rate,
            'steps': self.buffers.practice.steps,
            'short_segments': short_segments(self.buffers),
        }
        if self.buffers.demonstrations is not None:
            row['steps'] += self.buffers.demonstrations.steps
        looked = {} if stage else diagnose(update, self.buffers, state.normalizer)
        if self._validation is not None:
            looked |= self._validation.losses(update)
        if stage:  # critics and policy have not been trained
            looked = {name: looked[name] for name in looked if name.endswith('loss_behavior')}
        row |= means | looked
        self._log.row(row)
        self._board.write(row, self._step)
        losses = {name.removeprefix('loss_'): means[name] for name in means if 'loss' in name}
        shown = ', '.join(f'{name} {value:.3g}' for name, value in losses.items())
        left = (goal - done) / max(rate, 1e-9) / 60
        self._say(f'{done}/{goal} {stage}updates, {rate:.1f}/s, {left:.0f} min left; loss {shown}')
        self._watch(row)

    def _watch(self, row: dict[str, float]) -> None:
        """Warn of what a person should know."""
        notes, update = self.state.notes, self.state.update
        warnings = [left_behavior(notes, row, update)]
        loss = self._held_out_loss = row.get('validation_loss_behavior')
        if loss is not None:
            warnings.append(over_training(notes, loss, self._step))
        for line in filter(None, warnings):
            self._say(f'warning: {line}')

    def _keep_lowest(self) -> None:
        """Without an evaluation, keep the state that does best on held-out segments."""
        loss, notes = self._held_out_loss, self.state.notes
        evaluated = self._evaluate_episodes or notes.get('best_by') == 'success'
        if loss is None or evaluated or not self.state.update.count:
            return
        if loss < notes.get('best_validation_loss_behavior', math.inf):
            self._keep_best('validation_loss_behavior', loss)

    def _evaluate(self) -> None:
        assert self._evaluate_episodes is not None
        count, episodes = self.state.update.count, self.schedule.evaluate_episodes
        successes = self._evaluate_episodes(episodes)
        success = successes / episodes
        low, high = wilson_interval(successes, episodes)
        score = {'success': success, 'success_low': low, 'success_high': high}
        self._evaluations.row({'updates': count, 'episodes': episodes, **score})
        self._board.write(score, self._step, 'evaluation/')
        self._say(
            f'{count} updates: {successes} of {episodes} episodes succeed '
            f'({100 * success:.0f} %, 95 % interval {100 * low:.0f} to {100 * high:.0f})'
        )
        if success > float(self.state.notes.get('best_success', -1.0)):
            self._keep_best('success', success)

    def _keep_best(self, by: str, value: float) -> None:
        self.state.notes |= {
            'best_by': by,
            f'best_{by}': value,
            'best_updates': self.state.update.count,
        }
        self._save('best', 'best_policy')

    def _save(self, name: str, policy: str) -> None:
        """Save state and policy; raises CheckpointError rather than replace a good state."""
        state = self.state
        if not state.update.is_finite():
            raise CheckpointError(
                f'weights are not finite at update {state.update.count}; {self.output_dir} keeps '
                'the last good state: lower the learning rate or check the data'
            )
        # The state last: a run killed in between does this work, and both files, again.
        write_policy(state.policy().to_bytes(), policy, self.output_dir)
        state.save(self.output_dir / f'{name}.safetensors')


def restore_policy(state: TrainingState, output_dir: Path) -> None:
    """Write ``policy.safetensors`` of `state`, where it is missing, damaged or another one."""
    policy = state.policy()
    try:
        there = ChunkPolicy.load(output_dir / 'policy.safetensors')
    except ModelError:
        there = None
    if there is None or (there.digest, there.info) != (policy.digest, policy.info):
        write_policy(policy.to_bytes(), 'policy', output_dir)
