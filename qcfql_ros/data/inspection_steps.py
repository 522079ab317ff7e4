# SPDX-License-Identifier: Apache-2.0
"""What the steps of a recording are: episodes, segments, windows, and the range of each number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.step_block import StepBlock
from qcfql_ros.data.steps import Source

SAMPLE = 4096  # rows kept of each feature, at most twice as many
AT_LIMIT = 1e-3  # of the range: so near to a limit is at it
OUTSIDE = 1e-5


@dataclass(frozen=True)
class Segment:
    """An unbroken run of steps.

    Attributes:
        start_ns, end_ns: stamps of its first and its last step.
        steps: in it.
        windows: starts that can be learned from.
        reason: why it ended.
        outcome: of the episode that ends with it: ``success``, ``failure``, or the reason why it
            was truncated; empty where the episode does not end here.
    """

    start_ns: int
    end_ns: int
    steps: int
    windows: int
    reason: str
    outcome: str


@dataclass(frozen=True, eq=False)
class NumberReport:
    """One named number of a feature.

    Attributes:
        name: of it.
        low, high: smallest and largest value.
        mean, std: of all values.
        at_limits: share at one of its two limits; 0 where it has none.
        outside: share beyond them.
        sample: (n,) float32, some of the values, evenly spread.
    """

    name: str
    low: float
    high: float
    mean: float
    std: float
    at_limits: float
    outside: float
    sample: np.ndarray

    @property
    def constant(self) -> bool:
        """Whether it never changes."""
        return self.low == self.high


class Numbers:
    """Range, mean and spread of rows, gathered block by block.

    Args:
        names: of the numbers in a row.
        low, high: limits of each; None for none.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        low: tuple[float, ...] | None = None,
        high: tuple[float, ...] | None = None,
    ) -> None:
        self.names = names
        self.count = 0
        size = len(names)
        self._low = np.full(size, -np.inf) if low is None else np.array(low)
        self._high = np.full(size, np.inf) if high is None else np.array(high)
        self._limited = low is not None
        self._min, self._max = np.full(size, np.inf), np.full(size, -np.inf)
        self._mean, self._square = np.zeros(size), np.zeros(size)
        self._at, self._out = np.zeros(size), np.zeros(size)
        self._kept: list[np.ndarray] = []
        self._every, self._next = 1, 0

    def add(self, rows: np.ndarray) -> None:
        """Take (n, size) rows."""
        if not len(rows):
            return
        exact = rows.astype(np.float64)
        self._min = np.minimum(self._min, exact.min(axis=0))
        self._max = np.maximum(self._max, exact.max(axis=0))
        # Chan, Golub and LeVeque 1983: means and sums of squares of two parts become one.
        mean, count = exact.mean(axis=0), self.count + len(rows)
        apart = mean - self._mean
        self._square += ((exact - mean) ** 2).sum(axis=0)
        self._square += apart**2 * (self.count * len(rows) / count)
        self._mean += apart * (len(rows) / count)
        if self._limited:
            span = self._high - self._low
            inside = np.minimum(exact - self._low, self._high - exact)
            self._out += (inside < -OUTSIDE * span).sum(axis=0)
            self._at += (np.abs(inside) <= AT_LIMIT * span).sum(axis=0)
        self._sample(rows)
        self.count = count

    def _sample(self, rows: np.ndarray) -> None:
        """Keep every n-th row; when there are too many, every second of those."""
        taken = rows[self._next :: self._every]
        self._next += len(taken) * self._every - len(rows)
        self._kept += [row.copy() for row in taken]
        while len(self._kept) > 2 * SAMPLE:
            self._next += (len(self._kept) % 2) * self._every
            self._kept = self._kept[::2]
            self._every *= 2

    def reports(self) -> tuple[NumberReport, ...]:
        """Return what was found of each number; nothing where there was no row."""
        if not self.count:
            return ()
        kept = np.array(self._kept, np.float32)
        return tuple(
            NumberReport(
                name,
                float(self._min[i]),
                float(self._max[i]),
                float(self._mean[i]),
                float(np.sqrt(self._square[i] / self.count)),
                float(self._at[i] / self.count),
                float(self._out[i] / self.count),
                kept[:, i],
            )
            for i, name in enumerate(self.names)
        )


@dataclass(frozen=True, eq=False)
class StepReport:
    """What the steps are.

    Attributes:
        steps: how many.
        segments: in order.
        unfinished: episodes of which the end is missing.
        sources: steps by who chose the action.
        terminated: steps that are.
        reward_low, reward_high, reward_mean: of all steps.
        action, state: their numbers.
    """

    steps: int
    segments: tuple[Segment, ...]
    unfinished: int
    sources: dict[str, int]
    terminated: int
    reward_low: float
    reward_high: float
    reward_mean: float
    action: tuple[NumberReport, ...]
    state: tuple[NumberReport, ...]

    @property
    def windows(self) -> int:
        """Starts that can be learned from."""
        return sum(segment.windows for segment in self.segments)

    @property
    def outcomes(self) -> Counter[str]:
        """Finished episodes by their outcome."""
        return Counter(s.outcome for s in self.segments if s.outcome)

    @property
    def ends(self) -> Counter[str]:
        """Segments by the reason of their end."""
        return Counter(segment.reason for segment in self.segments)

    @property
    def short(self) -> tuple[int, int]:
        """Segments without a window, and the steps in them."""
        short = [segment.steps for segment in self.segments if not segment.windows]
        return len(short), sum(short)


class StepStatistics:
    """Gathers what `StepReport` says, block by block.

    Args:
        contract: names and limits of the numbers.
        window_steps: steps in a window.
        terminal_windows: windows that a termination cuts short count.
    """

    def __init__(self, contract: Contract, window_steps: int, terminal_windows: bool) -> None:
        action = contract.action
        self._state = Numbers(contract.state_names)
        self._action = Numbers(action.names, action.low, action.high)
        self._window, self._terminal = window_steps, terminal_windows
        self._segments: list[Segment] = []
        self._sources: Counter[str] = Counter()
        self._terminated = 0
        self._rewards = Numbers(('reward',))
        self._unfinished = 0
        self._episode: int | None = None  # begun, and not ended
        self._succeeded = False
        # Of the open segment: first and last stamp, steps, steps up to the last terminated one.
        self._start_ns = self._end_ns = self._steps = self._ended = 0

    def add(self, block: StepBlock) -> None:
        """Take the next steps."""
        self._state.add(block.observation)
        self._action.add(block.action)
        self._rewards.add(block.reward[:, None])
        self._terminated += int(block.terminated.sum())
        for source, count in zip(*np.unique(block.source, return_counts=True), strict=True):
            self._sources[Source(int(source)).name.lower()] += int(count)
        start = 0
        for end, after in enumerate(block.end_after.tolist()):
            self._extend(block, start, after)
            self._end(block, end)
            start = after
        self._extend(block, start, len(block))

    def _extend(self, block: StepBlock, start: int, stop: int) -> None:
        if start == stop:
            return
        if not self._steps:
            self._start_ns = int(block.stamp_ns[start])
            episode = int(block.episode[start])
            if self._episode is not None and self._episode != episode:
                self._leave()
            self._episode = episode
        ended = np.flatnonzero(block.terminated[start:stop])
        if len(ended):
            self._ended = self._steps + int(ended[-1]) + 1
        self._succeeded |= bool(block.success[start:stop].any())
        self._steps += stop - start
        self._end_ns = int(block.stamp_ns[stop - 1])

    def _end(self, block: StepBlock, end: int) -> None:
        if not self._steps:
            return
        reason, outcome = block.reason[end], ''
        if block.episode_end[end]:
            outcome = reason if block.truncated[end] else 'failure'
            outcome = 'success' if self._succeeded else outcome
            self._episode, self._succeeded = None, False
        complete = max(0, self._steps - self._window + 1)
        windows = max(complete, self._ended) if self._terminal else complete
        self._segments.append(
            Segment(self._start_ns, self._end_ns, self._steps, windows, reason, outcome)
        )
        self._steps = self._ended = 0

    def _leave(self) -> None:
        """An episode goes on no more, and nothing said how it ended."""
        self._unfinished += 1
        self._episode, self._succeeded = None, False

    def report(self) -> StepReport:
        """Return what was found; to be called once, after the last block."""
        if self._episode is not None:
            self._leave()
        reward = self._rewards.reports()
        return StepReport(
            self._action.count,
            tuple(self._segments),
            self._unfinished,
            dict(self._sources),
            self._terminated,
            reward[0].low if reward else 0.0,
            reward[0].high if reward else 0.0,
            reward[0].mean if reward else 0.0,
            self._action.reports(),
            self._state.reports(),
        )
