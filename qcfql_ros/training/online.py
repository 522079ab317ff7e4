# SPDX-License-Identifier: Apache-2.0
"""Learning while the robot works: updates paced by the steps that came in."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.training.board import Board
from qcfql_ros.training.buffers import Buffers
from qcfql_ros.training.checkpoint import TrainingState
from qcfql_ros.training.csv_log import CsvLog
from qcfql_ros.training.diagnosis import diagnose, left_behavior, short_segments
from qcfql_ros.training.durable_file import write_policy
from qcfql_ros.training.metrics import ONLINE_COLUMNS, Metrics, all_finite
from qcfql_ros.training.pace import Pace

DIAGNOSE_EVERY_UPDATES = 1000


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class OnlineTraining:
    """One practice run: takes steps, does the updates they allow, publishes and saves.

    Args:
        state: where to start; its notes keep the counters of the run's start, so that a
            restarted run counts on.
        buffers: what to draw from.
        pace: see `Pace`.
        run_dir: gets ``policies/``, ``checkpoints/``, ``training.csv`` and ``tensorboard/``.
        clock: seconds, monotonic.
        tensorboard: False writes none.
        say: takes a line for a person.
    """

    def __init__(
        self,
        state: TrainingState,
        buffers: Buffers,
        pace: Pace,
        run_dir: Path,
        clock: Callable[[], float] = time.monotonic,
        tensorboard: bool = True,
        say: Callable[[str], None] = _to_stderr,
    ) -> None:
        self.state = state
        self.buffers = buffers
        self.pace = pace
        self.run_dir = run_dir
        self.clock = clock
        self.metrics = Metrics()
        self.latest: dict[str, float] = {}
        self.stopped_because = ''
        self.disk_error = ''
        self.warning = ''
        self._say = say
        self._log = CsvLog(run_dir / 'training.csv', ONLINE_COLUMNS, say)
        self._on_disk(lambda: self._log.resume(updates=state.update.count))
        self._board = Board(
            run_dir / 'tensorboard' if tensorboard else None, state.update.count, say
        )
        if 'run_base_updates' not in state.notes:  # a new run warns again
            state.notes.pop('warned_behavior_share', None)
        self._base_updates = state.notes.setdefault('run_base_updates', state.update.count)
        self._base_steps = state.notes.setdefault(
            'run_base_environment_steps', state.environment_steps
        )
        if state.remark:
            say(state.remark)
        now = clock()
        self._last_publish = self._last_save = self._rate_start = now
        self._rate_updates = state.update.count
        self._published_at = self._diagnosed_at = state.update.count

    @property
    def updates(self) -> int:
        """Updates of this run."""
        return self.state.update.count - self._base_updates

    @property
    def updates_due(self) -> int:
        """Updates that the steps so far allow and that have not been done."""
        if self.stopped_because or not len(self.buffers):
            return 0
        steps = self.buffers.practice.steps - self.pace.warmup_steps
        return max(0, int(steps * self.pace.update_to_data_ratio) - self.updates)

    def add(self, events: Sequence[Step | SegmentEnd]) -> None:
        """Take what the assembler made."""
        self.buffers.add(events)
        self.state.environment_steps = self._base_steps + self.buffers.practice.steps

    def work(self, most: int) -> int:
        """Do at most `most` of the updates due and return how many were done."""
        count = min(most, self.updates_due)
        size = self.state.update.config.batch_size
        for _ in range(count):
            batch = self.buffers.sample(size, self.state.sampler)
            self.metrics.add(self.state.update.step(batch.to(self.state.update.device)))
        return count

    def report(self) -> dict[str, Any]:
        """Return the status message, and log a row of metrics."""
        now, count = self.clock(), self.state.update.count
        rate = (count - self._rate_updates) / max(now - self._rate_start, 1e-6)
        self._rate_start, self._rate_updates = now, count
        means = self.metrics.take()
        if means:
            self.latest = means
            self._write_row(rate, means)
        return {
            'kind': 'status',
            'ready': True,
            'updates': self.updates,
            'total_updates': count,
            'updates_per_s': rate,
            'steps': self.buffers.practice.steps,
            'buffer': self.buffers.practice.steps,
            'windows': len(self.buffers),
            'policy_version': self.state.policy_version,
            'losses': self.latest,
            'stopped': self.stopped_because,
            'disk_error': self.disk_error,
            'warning': self.warning,
        }

    def _write_row(self, rate: float, means: dict[str, float]) -> None:
        state, count = self.state, self.state.update.count
        row: dict[str, float] = {
            'updates': count,
            'steps': self.buffers.practice.steps,
            'updates_per_s': rate,
            'short_segments': short_segments(self.buffers),
            **means,
        }
        if not all_finite(means):
            self.stopped_because = f'losses are not finite at update {count}: {means}'
        elif count - self._diagnosed_at >= DIAGNOSE_EVERY_UPDATES:
            self._diagnosed_at = count
            row |= diagnose(state.update, self.buffers, state.normalizer)

        def write() -> None:
            self._log.row(row)
            self._board.write(row, count)

        self._on_disk(write)
        line = left_behavior(state.notes, means, state.update)
        if line:
            self.warning = line
            self._say(f'warning: {line}')

    def _is_sound(self) -> bool:
        """Whether learning goes on and every weight is finite; if not, it stops here."""
        if not self.stopped_because and not self.state.update.is_finite():
            self.stopped_because = f'weights are not finite at update {self.state.update.count}'
        return not self.stopped_because

    def publish_if_due(self, force: bool = False) -> dict[str, Any] | None:
        """Write a new policy file if it is time and there is something new; return its message."""
        now, state = self.clock(), self.state
        due = force or now - self._last_publish >= self.pace.publish_every_s
        if not due or state.update.count == self._published_at or not self._is_sound():
            return None
        self._last_publish, self._published_at = now, state.update.count
        state.policy_version += 1
        policy, folder = state.policy(), self.run_dir / 'policies'
        if not self._on_disk(lambda: write_policy(policy.to_bytes(), policy.digest, folder)):
            return None
        return {
            'kind': 'policy',
            'path': str(folder / f'{policy.digest}.safetensors'),
            'version': state.policy_version,
            'digest': policy.digest,
        }

    def save_if_due(self, force: bool = False) -> None:
        """Write ``last.safetensors`` and its policy into ``checkpoints/`` if it is time."""
        if not force and self.clock() - self._last_save < self.pace.checkpoint_every_s:
            return
        if self._is_sound():
            self._on_disk(self._save)
        self._last_save = self.clock()

    def _save(self) -> None:
        folder = self.run_dir / 'checkpoints'
        write_policy(self.state.policy().to_bytes(), 'policy', folder)
        self.state.save(folder / 'last.safetensors')

    def _on_disk(self, write: Callable[[], object]) -> bool:
        """Try to write; a full disk is reported, and learning goes on."""
        try:
            write()
        except (OSError, SafetensorError) as error:
            self.disk_error = f'{self.run_dir}: {error}'
            return False
        self.disk_error = ''
        return True
