# SPDX-License-Identifier: Apache-2.0
"""Windows that can be learned from, each with the same chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from qcfql_ros.algorithm.batch import Batch

if TYPE_CHECKING:
    from qcfql_ros.data.replay import Replay


class LegalSampling:
    """Draws the windows of a replay that lie in one segment.

    ::

        s0 s1 s2 s3 F     n = 3, s3 terminated: [s0 s1 s2] and [s1 s2 s3] are complete,
                          [s2 s3 .] and [s3 . .] end in the termination.

    A start is legal when its n steps lie in one segment and the observation behind them is
    known, or, with `terminal_windows`, when the segment ends inside the window after a terminated
    step. The list of legal starts is itself a ring, in the order of the rows.

    Args:
        replay: whose rows are drawn.
        terminal_windows: see above.
        imitate_short_segments: rows of segments without a legal start are drawn too, with weight
            0 for the critic.
    """

    def __init__(
        self, replay: Replay, terminal_windows: bool, imitate_short_segments: bool
    ) -> None:
        self._replay = replay
        self.terminal_windows = terminal_windows
        self.imitate_short_segments = imitate_short_segments
        self._starts = np.zeros(replay.capacity, np.int32)  # places, oldest row first
        self._head = 0  # of the starts ever added, the first that is still kept
        self._tail = 0
        self._planned: dict[int, np.ndarray] = {}  # place of a chunk's start -> planned chunk
        self._discounts = replay.discount ** np.arange(replay.window_steps, dtype=np.float64)

    def __len__(self) -> int:
        """Return the number of starts that can be drawn."""
        return self._tail - self._head

    @property
    def nbytes(self) -> int:
        """Bytes of the list of starts."""
        return self._starts.nbytes

    def starts(self) -> np.ndarray:
        """Return all places that can be drawn, oldest first."""
        return self._starts[np.arange(self._head, self._tail) % len(self._starts)]

    def add_step(self, row: int, steps: int) -> None:
        """Take note that the step at `row` is complete, the segment's `steps`-th that is kept."""
        if steps >= self._replay.window_steps:
            self._add(row - self._replay.window_steps + 1)

    def add_steps(self, first: int, stop: int, segment_start: int) -> None:
        """Take note that the steps of rows `first` to before `stop` are complete.

        As many `add_step`s; none of their starts is forgotten before the last of them.

        Args:
            first, stop: rows.
            segment_start: first row of their segment that is kept.
        """
        size = self._replay.window_steps
        rows = np.arange(max(first - size + 1, segment_start), stop - size + 1)
        slots = np.arange(self._tail, self._tail + len(rows)) % len(self._starts)
        self._starts[slots] = rows % self._replay.capacity
        self._tail += len(rows)

    def end_segment(
        self, first: int, final: int, ended: np.ndarray, plan: tuple[int, np.ndarray] | None
    ) -> bool:
        """Add the windows that run over a segment's end; returns whether the critic has any.

        Args:
            first: row of the first step kept.
            final: row of the final observation.
            ended: (steps,) bool, the terminated ones.
            plan: row at which the last chunk was planned, and that chunk.
        """
        cut = max(first, final - self._replay.window_steps + 1)  # first row whose window is cut
        stop = cut
        if self.terminal_windows and ended.any():
            stop = max(cut, first + int(np.flatnonzero(ended)[-1]) + 1)
        learned = cut > first or stop > cut
        if not learned and self.imitate_short_segments:
            stop = final
        for row in range(cut, stop):
            self._add(row)
        if plan is not None and cut <= plan[0] < stop:
            self._planned[plan[0] % self._replay.capacity] = plan[1]
        return learned

    def forget(self, place: int) -> None:
        """Take note that the row at `place` is about to be overwritten."""
        if self._head < self._tail and self._starts[self._head % len(self._starts)] == place:
            self._head += 1
        if self._planned:
            self._planned.pop(place, None)

    def forget_all(self, places: np.ndarray) -> None:
        """Take note that the rows at `places`, one behind the other, are to be overwritten."""
        count, capacity = len(places), self._replay.capacity
        slots = np.arange(self._head, min(self._tail, self._head + count)) % len(self._starts)
        # They are kept in the order of the rows, and so are they forgotten.
        self._head += int(np.count_nonzero((self._starts[slots] - places[0]) % capacity < count))
        if self._planned:
            for place in self._planned.keys() & set(places.tolist()):
                del self._planned[place]

    def _add(self, row: int) -> None:
        self._starts[self._tail % len(self._starts)] = row % self._replay.capacity
        self._tail += 1

    def draw(self, batch: int, generator: np.random.Generator) -> np.ndarray:
        """Return the places of `batch` starts, drawn uniformly."""
        drawn = generator.integers(self._head, self._tail, size=batch)
        return self._starts[drawn % len(self._starts)]

    def windows(self, starts: np.ndarray) -> Batch:
        """Return the windows that begin at the places `starts`, (batch,)."""
        replay, chunk_size = self._replay, self._replay.chunk
        starts = starts.astype(np.int64)
        places = (starts[:, None] + np.arange(replay.window_steps)) % replay.capacity
        # The row behind a segment's last step is no step: here a window ends.
        recorded = np.logical_and.accumulate(replay.is_step[places], axis=1)
        ended = replay.terminated[places] & recorded
        reward, terminal = returns(
            np.where(recorded, replay.rewards[places], np.float32(0.0)),
            ended,
            self._discounts,
            replay.rewards_after_termination,
        )
        complete = recorded[:, -1]
        recorded, places = recorded[:, :chunk_size], places[:, :chunk_size]
        chunk = np.where(recorded[:, :, None], replay.actions[places], np.float32(0.0))
        unknown = ~recorded
        self._fill_planned(starts, chunk, unknown)
        bootstraps = complete & ~terminal
        behind = np.where(bootstraps, starts + replay.window_steps, starts) % replay.capacity
        bootstrap = np.where(bootstraps, replay.discount**replay.window_steps, 0.0)
        weight = complete | terminal if self.terminal_windows else complete
        return Batch(
            state=torch.from_numpy(replay.observations[starts]),
            chunk=torch.from_numpy(chunk),
            valid=torch.from_numpy((recorded & replay.imitated[places]).astype(np.float32)),
            tail_unknown=torch.from_numpy(unknown),
            reward=torch.from_numpy(reward),
            bootstrap=torch.from_numpy(bootstrap.astype(np.float32)),
            next_state=torch.from_numpy(replay.observations[behind]),
            weight=torch.from_numpy(weight.astype(np.float32)),
        )

    def _fill_planned(self, starts: np.ndarray, chunk: np.ndarray, unknown: np.ndarray) -> None:
        """Put into `chunk` what was planned where nothing was recorded."""
        for index in np.flatnonzero(unknown[:, -1]) if self._planned else ():
            plan = self._planned.get(int(starts[index]))
            if plan is not None:
                # A plan may be shorter than the chunk: an older policy's, with another size.
                planned = np.flatnonzero(unknown[index, : len(plan)])
                chunk[index, planned] = plan[planned]
                unknown[index, planned] = False


def returns(
    rewards: np.ndarray, terminated: np.ndarray, discounts: np.ndarray, after_termination: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the discounted sums of windows, (batch,) float32, and which hold a termination.

    Args:
        rewards: (batch, n).
        terminated: (batch, n) bool.
        discounts: (n,) float64, powers of the discount.
        after_termination: rewards behind the first terminated step count.
    """
    if not after_termination:
        behind = np.cumsum(terminated, axis=1) - terminated > 0
        rewards = np.where(behind, np.float32(0.0), rewards)
    return (rewards @ discounts).astype(np.float32), np.asarray(terminated.any(axis=1))
