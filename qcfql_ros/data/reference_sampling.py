# SPDX-License-Identifier: Apache-2.0
"""Windows as the authors' code draws them: any start, illegal windows with weight 0.

From ``utils/datasets.py`` (`sample_sequence`) of the code of arXiv 2507.07969. Preset `paper`
draws so, so that the distribution over windows is the authors'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from qcfql_ros.algorithm.batch import Batch
from qcfql_ros.data.windows import returns

if TYPE_CHECKING:
    from qcfql_ros.data.replay import Replay


class ReferenceSampling:
    """Draws a start uniformly from the stored steps, except the last n - 1 of the array.

    The array is the ring in the order of its places, without the rows that hold final
    observations; a step is stored once the observation behind it is.

    ::

        places          0  1  2  3  4  5  6      the steps a0 a1 a2 b0 b1, n = 3:
        rows           a0 a1 a2 Fa b0 b1 Fb      starts a0, a1 and a2
        window of a1   a1 a2 b0                  weight 0, behaviour valid 1 1 0

    A window over the end of a segment gets weight 0 in the critic's loss, and its behaviour is
    valid up to the end; it keeps its place in the batch, and its actions and rewards are those
    that follow in the array. The ring's seam is not masked, on purpose, for it is not masked
    there: a window over the write position is taken as it lies, newest steps before the oldest.
    (There the array is larger than any run, so that it never happens.)
    """

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._stored = 0
        self._discounts = replay.discount ** np.arange(replay.window_steps, dtype=np.float64)
        # n steps lie in so many places: a final observation behind each, and at the seam an
        # incomplete step and another final observation, whose steps are overwritten.
        self._reach = np.arange(2 * replay.window_steps + 2)

    nbytes = 0

    def __len__(self) -> int:
        """Return the number of starts that can be drawn."""
        return max(0, self._stored - self._replay.window_steps + 1)

    def starts(self) -> np.ndarray:
        """Return all places that can be drawn, in the order of the array."""
        return np.flatnonzero(self._replay.is_step)[: len(self)]

    def add_step(self, row: int, steps: int) -> None:
        """Take note that the step at `row` is complete."""
        self._stored += 1

    def add_steps(self, first: int, stop: int, segment_start: int) -> None:
        """Take note that the steps of rows `first` to before `stop` are complete."""
        self._stored += stop - first

    def end_segment(
        self, first: int, final: int, ended: np.ndarray, plan: tuple[int, np.ndarray] | None
    ) -> bool:
        """Return whether the segment from row `first` to before `final` has a legal window."""
        return final - first >= self._replay.window_steps

    def forget(self, place: int) -> None:
        """Take note that the row at `place` is about to be overwritten."""
        self._stored -= int(self._replay.is_step[place])

    def forget_all(self, places: np.ndarray) -> None:
        """Take note that the rows at `places` are about to be overwritten."""
        self._stored -= int(self._replay.is_step[places].sum())

    def draw(self, batch: int, generator: np.random.Generator) -> np.ndarray:
        """Return the places of `batch` starts, drawn uniformly."""
        replay = self._replay
        # The last place from which n steps follow in the array, itself included.
        filled = min(replay.rows, replay.capacity)
        tail = filled - 1 - self._reach[: min(filled, len(self._reach))]
        end = int(tail[np.flatnonzero(replay.is_step[tail])[replay.window_steps - 1]]) + 1
        drawn = generator.integers(0, end, size=batch)
        while (wrong := np.flatnonzero(~replay.is_step[drawn])).size:
            drawn[wrong] = generator.integers(0, end, size=wrong.size)
        return drawn

    def windows(self, starts: np.ndarray) -> Batch:
        """Return the windows that begin at the places `starts`, (batch,)."""
        replay = self._replay
        reach = starts[:, None] + self._reach
        is_step = replay.is_step[np.minimum(reach, replay.capacity - 1)]
        is_step &= reach < replay.capacity
        order = np.argsort(~is_step, axis=1, kind='stable')[:, : replay.window_steps]
        places = np.take_along_axis(reach, order, axis=1)
        behind = (places + 1) % replay.capacity
        last = ~replay.is_step[behind]  # of its segment: a final observation follows
        if replay.rows > replay.segment_start:
            last &= behind != (replay.rows - 1) % replay.capacity  # an incomplete step follows
        inside = np.cumsum(last, axis=1) - last == 0
        reward, terminal = returns(
            replay.rewards[places],
            replay.terminated[places],
            self._discounts,
            replay.rewards_after_termination,
        )
        final_discount = replay.discount**replay.window_steps
        bootstrap = np.where(terminal, 0.0, final_discount).astype(np.float32)
        chunk = places[:, : replay.chunk]
        valid = inside[:, : replay.chunk] & replay.imitated[chunk]
        return Batch(
            state=torch.from_numpy(replay.observations[starts]),
            chunk=torch.from_numpy(replay.actions[chunk]),
            valid=torch.from_numpy(valid.astype(np.float32)),
            tail_unknown=torch.zeros(chunk.shape, dtype=torch.bool),
            reward=torch.from_numpy(reward),
            bootstrap=torch.from_numpy(bootstrap),
            next_state=torch.from_numpy(replay.observations[behind[:, -1]]),
            weight=torch.from_numpy(inside[:, -1].astype(np.float32)),
        )
