# SPDX-License-Identifier: Apache-2.0
"""Replay: a ring of rows from which windows for learning are drawn.

One row is one step; the observation after the last step of a segment is a row of its own, so no
observation is stored twice: the next observation of a row is the next row's. A row takes
``4 (state_dim + action_dim) + 16`` bytes, and 8 more for each legal start.

::

    rows   s0 s1 s2 s3 F | s0 s1 s2 ...      F: final observation, no action
           [-- h=3 --]^bootstrap row
"""

from __future__ import annotations

import numpy as np
import torch

from qcfql_ros.algorithm.batch import Batch
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.errors import ParameterError


class Replay:
    """Fixed-size ring of segments with constant-time drawing of legal windows.

    A start is legal when its window of `chunk` steps lies in one segment and the observation
    behind it is known, or when the segment ends inside the window after a terminated step.

    Args:
        capacity: rows kept; the oldest are overwritten.
        state_dim: size of the observation.
        action_dim: size of an action row.
        chunk: steps in a window [h].
        discount: per step.
        terminal_windows: False drops the windows that the segment's end cuts short.
        imitate_success_only: behaviour is learned from segments with a success, once they ended.
    """

    def __init__(
        self,
        capacity: int,
        state_dim: int,
        action_dim: int,
        chunk: int,
        discount: float,
        terminal_windows: bool = True,
        imitate_success_only: bool = False,
    ) -> None:
        if capacity <= chunk + 1:
            raise ParameterError(f'replay capacity: got {capacity}, wanted above {chunk + 1}')
        self.capacity = capacity
        self.chunk = chunk
        self.terminal_windows = terminal_windows
        self.imitate_success_only = imitate_success_only
        self.observations = np.zeros((capacity, state_dim), np.float32)
        self.actions = np.zeros((capacity, action_dim), np.float32)
        self.rewards = np.zeros(capacity, np.float32)
        self.terminated = np.zeros(capacity, bool)
        self.is_step = np.zeros(capacity, bool)
        self.segments = np.full(capacity, -1, np.int64)
        self.imitated = np.ones(capacity, bool)  # behaviour is learned from these rows
        self.discounts = discount ** np.arange(chunk, dtype=np.float64)
        self.final_discount = float(discount**chunk)
        self.rows = 0  # rows ever appended; row i lives at i % capacity
        self.steps = 0  # steps ever appended
        self.segment = 0  # number of the segment being written
        self._segment_start = 0  # first row of that segment
        self._segment_success = False
        self._starts = np.zeros(1024, np.int64)  # legal starts, ascending
        self._head = 0
        self._tail = 0
        self._planned: dict[int, np.ndarray] = {}  # row of a chunk's start -> planned chunk
        self._last_plan: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Return the number of legal starts."""
        return self._tail - self._head

    @property
    def oldest(self) -> int:
        """Number of the oldest row still kept."""
        return max(0, self.rows - self.capacity)

    def append(self, event: Step | SegmentEnd) -> None:
        """Add a step, or close the segment being written."""
        if isinstance(event, Step):
            self._append_step(event)
        else:
            self._end_segment(event)

    def _append_step(self, step: Step) -> None:
        row = self._write_row(step.observation, is_step=True)
        place = row % self.capacity
        self.actions[place] = step.action
        self.rewards[place] = step.reward
        self.terminated[place] = step.terminated
        self.imitated[place] = not self.imitate_success_only
        self._segment_success |= step.success
        self.steps += 1
        if step.planned is not None:
            self._last_plan = (row, step.planned)
        start = row - self.chunk
        if start >= self._segment_start:
            self._add_start(start)

    def _end_segment(self, end: SegmentEnd) -> None:
        steps = self.rows - self._segment_start
        if steps == 0:
            return
        final = self._write_row(end.final_observation, is_step=False)
        if final - self.chunk >= self._segment_start:
            self._add_start(final - self.chunk)
        if self.terminal_windows:
            first = max(self._segment_start, final - self.chunk + 1)
            rows = np.arange(first, final)
            ended = np.flatnonzero(self.terminated[rows % self.capacity])
            if ended.size:
                for start in range(first, int(rows[ended[-1]]) + 1):
                    self._add_start(start)
                if self._last_plan is not None and self._last_plan[0] >= first:
                    self._planned[self._last_plan[0]] = self._last_plan[1]
        if self._segment_success:
            self.imitated[np.arange(self._segment_start, final) % self.capacity] = True
        self._last_plan, self._segment_success = None, False
        self.segment += 1
        self._segment_start = self.rows

    def _write_row(self, observation: np.ndarray, is_step: bool) -> int:
        row = self.rows
        place = row % self.capacity
        self.observations[place] = observation
        self.is_step[place] = is_step
        self.terminated[place] = False
        self.rewards[place] = 0.0
        self.segments[place] = self.segment
        self.rows += 1
        oldest = self.oldest
        while self._head < self._tail and self._starts[self._head] < oldest:
            self._planned.pop(int(self._starts[self._head]), None)
            self._head += 1
        self._segment_start = max(self._segment_start, oldest)
        return row

    def _add_start(self, row: int) -> None:
        if row < self.oldest:
            return
        if self._tail == len(self._starts):
            kept = self._starts[self._head : self._tail]
            if self._head < len(self._starts) // 2:
                grown = np.zeros(2 * len(self._starts), np.int64)
            else:
                grown = np.zeros(len(self._starts), np.int64)
            grown[: len(kept)] = kept
            self._starts, self._head, self._tail = grown, 0, len(kept)
        self._starts[self._tail] = row
        self._tail += 1

    def sample(self, batch: int, generator: np.random.Generator) -> Batch:
        """Draw `batch` windows uniformly from the legal starts; raises ParameterError if none."""
        if not len(self):
            raise ParameterError(
                f'replay: no window of {self.chunk} steps can be drawn from {self.steps} steps; '
                'record more, or lower action_chunk_size'
            )
        draws = generator.integers(self._head, self._tail, size=batch)
        return self.windows(self._starts[draws])

    def windows(self, starts: np.ndarray) -> Batch:
        """Return the windows that begin at the rows `starts`, (batch,) int64."""
        rows = starts[:, None] + np.arange(self.chunk)
        places = rows % self.capacity
        recorded = self.is_step[places] & (self.segments[places] == self.segments[places[:, :1]])
        recorded &= rows < self.rows
        recorded = np.logical_and.accumulate(recorded, axis=1)
        ended = self.terminated[places] & recorded
        before_end = np.cumsum(ended, axis=1) - ended == 0  # up to and with the first terminated
        live = recorded & before_end
        rewards = np.where(live, self.rewards[places], 0.0) @ self.discounts
        terminal = ended.any(axis=1)
        chunk = np.where(recorded[:, :, None], self.actions[places], np.float32(0.0))
        unknown = ~recorded
        for index in np.flatnonzero(unknown[:, -1]) if self._planned else ():
            plan = self._planned.get(int(starts[index]))
            if plan is not None:
                # A plan may be shorter than the window: an older policy's, with another chunk.
                planned = np.flatnonzero(unknown[index, : len(plan)])
                chunk[index, planned] = plan[planned]
                unknown[index, planned] = False
        behind = np.where(terminal, starts, starts + self.chunk) % self.capacity
        bootstrap = np.where(terminal, 0.0, self.final_discount)
        return Batch(
            state=torch.from_numpy(self.observations[places[:, 0]]),
            chunk=torch.from_numpy(chunk),
            valid=torch.from_numpy((recorded & self.imitated[places]).astype(np.float32)),
            tail_unknown=torch.from_numpy(unknown),
            reward=torch.from_numpy(rewards.astype(np.float32)),
            bootstrap=torch.from_numpy(bootstrap.astype(np.float32)),
            next_state=torch.from_numpy(self.observations[behind]),
            weight=torch.ones(len(starts)),
        )
