# SPDX-License-Identifier: Apache-2.0
"""The chunk being played and the one planned after it.

::

    current  [a0 a1 a2 a3]      take() gives a0, a1, ... one a tick
    next     [b0 b1 b2 b3]      becomes current when a3 has been taken

With an execution horizon h of 3, a3 and b3 are planned and announced, and never taken. What has
been played is counted row by row, never worked out from the time that has passed.

A reset or a halt opens a new epoch: what was planned before it is thrown away, also a plan that
is still being computed and offered later.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PlannedChunk:
    """A chunk as the planner made it.

    Attributes:
        actions: (k, action_dim) float32 in [-1, 1].
        number: counts the chunks of this process.
        episode: for which it was planned.
        seed: of its noise.
        digest: of the policy that planned it.
        version: of that policy.
        observation_stamps: stream to header stamp in ns.
        epoch: of the buffer when planning began.
        noise_scale: on the noise.
        num_samples: candidates of a best-of-N policy; 0 as trained.
    """

    actions: np.ndarray
    number: int
    episode: int
    seed: int
    digest: str
    version: int
    observation_stamps: dict[str, int]
    epoch: int = 0
    noise_scale: float = 1.0
    num_samples: int = 0


class ChunkBuffer:
    """Two chunks deep; the planner offers, the control thread takes.

    Args:
        execution_horizon: how many rows of a chunk are played; 0 plays all.

    Attributes:
        discarded: chunks that were planned and never begun.
    """

    def __init__(self, execution_horizon: int = 0) -> None:
        self._horizon = execution_horizon
        self._lock = threading.Lock()
        self._current: PlannedChunk | None = None
        self._next: PlannedChunk | None = None
        self._index = 0
        self._epoch = 0
        self.discarded = 0

    @property
    def epoch(self) -> int:
        """The current epoch; to be noted before an observation is taken."""
        return self._epoch

    def played(self, chunk: PlannedChunk) -> int:
        """Return how many rows of `chunk` are played."""
        rows = len(chunk.actions)
        return min(self._horizon, rows) if self._horizon else rows

    def rows_left(self) -> int:
        """Rows still to be taken, of both chunks."""
        with self._lock:
            left = 0 if self._current is None else self.played(self._current) - self._index
            return left + (0 if self._next is None else self.played(self._next))

    def offer(self, chunk: PlannedChunk) -> bool:
        """Put a chunk behind the one being played; False if it is of an older epoch."""
        with self._lock:
            if chunk.epoch != self._epoch or self._next is not None:
                self.discarded += 1
                return False
            self._next = chunk
            return True

    def take(self) -> tuple[PlannedChunk, int] | None:
        """Return the chunk being played and the index of the row to play now; None if late."""
        with self._lock:
            if self._current is None or self._index == self.played(self._current):
                self._current, self._next, self._index = self._next, None, 0
            if self._current is None:
                return None
            self._index += 1
            return self._current, self._index - 1

    def peek(self) -> np.ndarray | None:
        """Return the row that `take` would return next, (action_dim,) float32; None if late."""
        with self._lock:
            if self._current is not None and self._index < self.played(self._current):
                return self._current.actions[self._index]
            return None if self._next is None else self._next.actions[0]

    def reset(self) -> None:
        """Throw everything away and open a new epoch."""
        with self._lock:
            self._epoch += 1
            unused = self._current is not None and self._index == 0
            self.discarded += unused + (self._next is not None)
            self._current = self._next = None
            self._index = 0
