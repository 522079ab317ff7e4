# SPDX-License-Identifier: Apache-2.0
"""A replay as plain lists and loops: what the real one must say, in the slowest way.

The observation of a row is the number of the row, so that every window can be recognised.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qcfql_ros.data.steps import SegmentEnd, Step


@dataclass
class SlowStep:
    row: int
    reward: float
    terminated: bool
    success: bool
    planned: int  # actions planned from here; 0 for none

    def event(self) -> Step:
        plan = None
        if self.planned:
            plan = np.array([[self.row + 0.25 + i] for i in range(self.planned)], np.float32)
        return Step(
            self.row,
            np.array([self.row], np.float32),
            np.array([-self.row], np.float32),
            self.reward,
            self.terminated,
            self.success,
            planned=plan,
        )


@dataclass
class SlowSegment:
    steps: list[SlowStep] = field(default_factory=list)
    closed: bool = False

    @property
    def known(self) -> list[SlowStep]:
        """The steps behind which the observation is known."""
        return self.steps if self.closed else self.steps[:-1]


@dataclass
class SlowWindow:
    reward: float
    bootstrap: float
    next_state: int | None  # None where it does not matter
    chunk: list[float | None]  # None where it does not matter, or is unknown
    valid: list[float]
    unknown: list[bool]
    weight: float


@dataclass
class SlowReplay:
    capacity: int
    chunk: int
    discount: float
    return_steps: int = 0
    terminal_windows: bool = True
    rewards_after_termination: bool = False
    window_sampling: str = 'legal'
    imitate_success_only: bool = False
    price_failure: bool = False
    imitate_short_segments: bool = False
    rows: int = 0
    segments: list[SlowSegment] = field(default_factory=lambda: [SlowSegment()])

    @property
    def n(self) -> int:
        return self.return_steps or self.chunk

    def step(
        self, reward: float, terminated: bool = False, success: bool = False, planned: int = 0
    ) -> Step:
        """Append a step; returns it as the real replay takes it."""
        step = SlowStep(self.rows, reward, terminated, success, planned)
        self.segments[-1].steps.append(step)
        self.rows += 1
        return step.event()

    def end(self) -> SegmentEnd:
        """End the segment; returns the end as the real replay takes it."""
        final = np.array([self.rows], np.float32)
        steps = self.segments[-1].steps
        if steps:
            self.segments[-1].closed = True
            self.segments.append(SlowSegment())
            self.rows += 1
        return SegmentEnd(final, truncated=not (steps and steps[-1].terminated), reason='test')

    def paid(self, step: SlowStep) -> float:
        """Return the reward with the price of failure."""
        if self.price_failure and step.terminated and not step.success:
            return step.reward + min(step.reward, 0.0) * self.discount / (1.0 - self.discount)
        return step.reward

    def kept(self, step: SlowStep) -> bool:
        return step.row >= self.rows - self.capacity

    def imitated(self, segment: SlowSegment) -> bool:
        if not self.imitate_success_only:
            return True
        return segment.closed and any(step.success for step in segment.steps)

    def sum_up(self, steps: list[SlowStep]) -> tuple[float, bool]:
        """Return the discounted sum, and whether a step is terminated."""
        total, terminal = 0.0, False
        for index, step in enumerate(steps):
            if not terminal or self.rewards_after_termination:
                total += self.discount**index * self.paid(step)
            terminal |= step.terminated
        return total, terminal

    def windows(self) -> dict[int, SlowWindow]:
        """Return all windows that can be drawn, by the row they begin at."""
        if self.window_sampling == 'reference':
            return self.reference_windows()
        found = {}
        for segment in self.segments:
            for start, step in enumerate(segment.steps):
                window = self.legal_window(segment, start) if self.kept(step) else None
                if window is not None:
                    found[step.row] = window
        return found

    def has_critic_window(self, segment: SlowSegment) -> bool:
        if len(segment.known) >= self.n:
            return True
        ended = any(step.terminated for step in segment.steps)
        return segment.closed and ended and self.terminal_windows

    def legal_window(self, segment: SlowSegment, start: int) -> SlowWindow | None:
        steps = segment.known[start : start + self.n]
        reward, terminal = self.sum_up(steps)
        complete = len(steps) == self.n
        cut_by_an_end = segment.closed and terminal and self.terminal_windows
        if not complete and not cut_by_an_end:
            short = segment.closed and not self.has_critic_window(segment)
            if not (short and self.imitate_short_segments):
                return None
        weight = float(complete or cut_by_an_end)
        known = [-float(step.row) for step in steps[: self.chunk]]
        valid = [float(self.imitated(segment))] * len(known) + [0.0] * (self.chunk - len(known))
        plans = [index for index, step in enumerate(segment.steps) if step.planned]
        chunk: list[float | None] = list(known)
        for index in range(len(known), self.chunk):
            first = segment.steps[start]
            is_plan = bool(plans) and plans[-1] == start and index < first.planned
            chunk.append(first.row + 0.25 + index if is_plan else None)
        return SlowWindow(
            reward,
            self.discount**self.n if complete and not terminal else 0.0,
            steps[-1].row + 1 if complete and not terminal else None,
            chunk,
            valid,
            [action is None for action in chunk],
            weight,
        )

    def reference_windows(self) -> dict[int, SlowWindow]:
        """Imitate the authors' sampler on an array of transitions.

        The transitions lie in the order of the ring's places; each knows its next observation,
        and whether its trajectory ends with it.
        """
        array = [
            (segment, step, segment.closed and step is segment.steps[-1])
            for segment in self.segments
            for step in segment.known
            if self.kept(step)
        ]
        array.sort(key=lambda transition: transition[1].row % self.capacity)
        found = {}
        for first in range(len(array) - self.n + 1):
            window = array[first : first + self.n]
            reward, terminal = self.sum_up([step for _, step, _ in window])
            inside, gone = [], False
            for _, _, ends in window:
                inside.append(not gone)
                gone |= ends
            found[window[0][1].row] = SlowWindow(
                reward,
                0.0 if terminal else self.discount**self.n,
                window[-1][1].row + 1,
                [-float(step.row) for _, step, _ in window[: self.chunk]],
                [float(inside[i] and self.imitated(window[i][0])) for i in range(self.chunk)],
                [False] * self.chunk,
                float(inside[-1]),
            )
        return found
