# SPDX-License-Identifier: Apache-2.0
"""Many steps as arrays: what bulk decoding makes, the replay takes and the cache keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcfql_ros.data.steps import SegmentEnd, Source, Step

BLOCK_STEPS = 4096
_OF_STEPS = (
    'stamp_ns', 'observation', 'action', 'reward', 'terminated', 'success', 'source', 'chunk',
    'index', 'episode',
)  # fmt: skip
_OF_ENDS = ('final_observation', 'truncated', 'episode_end', 'reason')


@dataclass(frozen=True, eq=False)
class StepBlock:
    """n steps in order, and the e ends of segments among them.

    A block may begin and end in the middle of a segment. `events` gives the same as `Step` and
    `SegmentEnd` objects.

    Attributes:
        stamp_ns: (n,) int64.
        observation: (n, state_dim) float32.
        action: (n, action_dim) float32.
        reward: (n,) float64.
        terminated, success: (n,) bool.
        source: (n,) uint8, `Source`.
        chunk, index, episode: (n,) int64.
        planned_row: (m,) int64, ascending: the steps that have a planned chunk.
        planned: (m, k, action_dim) float32.
        end_after: (e,) int64, ascending: how many steps of the block come before the end; 0 where
            the segment's last step is in the block before.
        final_observation: (e, state_dim) float32.
        truncated, episode_end: (e,) bool.
        reason: one word for each end.
    """

    stamp_ns: np.ndarray
    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    success: np.ndarray
    source: np.ndarray
    chunk: np.ndarray
    index: np.ndarray
    episode: np.ndarray
    planned_row: np.ndarray
    planned: np.ndarray
    end_after: np.ndarray
    final_observation: np.ndarray
    truncated: np.ndarray
    episode_end: np.ndarray
    reason: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.stamp_ns)

    def part(self, steps: slice, ends: slice) -> StepBlock:
        """Return some of the steps and of the segment ends; both slices have start and stop."""
        plans = slice(*np.searchsorted(self.planned_row, (steps.start, steps.stop)).tolist())
        rows = {name: getattr(self, name)[steps] for name in _OF_STEPS}
        rows |= {name: getattr(self, name)[ends] for name in _OF_ENDS}
        return StepBlock(
            **rows,
            planned_row=self.planned_row[plans] - steps.start,
            planned=self.planned[plans],
            end_after=self.end_after[ends] - steps.start,
        )

    def events(self) -> Iterator[Step | SegmentEnd]:
        """Yield the steps and the segment ends in order."""
        planned = dict(zip(self.planned_row.tolist(), self.planned, strict=True))
        stamps, rewards = self.stamp_ns.tolist(), self.reward.tolist()
        terminated, success = self.terminated.tolist(), self.success.tolist()
        sources = [Source(number) for number in self.source.tolist()]
        chunks, indices = self.chunk.tolist(), self.index.tolist()
        episodes = self.episode.tolist()
        ends = self.end_after.tolist()
        end = 0
        for row in range(len(self) + 1):
            while end < len(ends) and ends[end] == row:
                yield SegmentEnd(
                    self.final_observation[end],
                    bool(self.truncated[end]),
                    self.reason[end],
                    bool(self.episode_end[end]),
                )
                end += 1
            if row < len(self):
                yield Step(
                    stamp_ns=stamps[row],
                    observation=self.observation[row],
                    action=self.action[row],
                    reward=rewards[row],
                    terminated=terminated[row],
                    success=success[row],
                    source=sources[row],
                    chunk=chunks[row],
                    index=indices[row],
                    episode=episodes[row],
                    planned=planned.get(row),
                )


def blocks_of_events(
    events: Iterable[Step | SegmentEnd],
    state_dim: int,
    action_dim: int,
    most_steps: int = BLOCK_STEPS,
) -> Iterator[StepBlock]:
    """Yield the same as blocks; a planned chunk of another length begins a new one."""
    gathered: list[Step | SegmentEnd] = []
    steps = 0
    length: int | None = None
    for event in events:
        if isinstance(event, Step):
            other = (
                event.planned is not None and length is not None and len(event.planned) != length
            )
            if steps >= most_steps or other:
                yield _block(gathered, state_dim, action_dim)
                gathered, steps, length = [], 0, None
            if event.planned is not None:
                length = len(event.planned)
            steps += 1
        gathered.append(event)
    if gathered:
        yield _block(gathered, state_dim, action_dim)


def _block(events: list[Step | SegmentEnd], state_dim: int, action_dim: int) -> StepBlock:
    steps: list[Step] = []
    ends: list[SegmentEnd] = []
    end_after = []
    for event in events:
        if isinstance(event, Step):
            steps.append(event)
        else:
            ends.append(event)
            end_after.append(len(steps))
    planned_row = [row for row, step in enumerate(steps) if step.planned is not None]
    planned = [steps[row].planned for row in planned_row]
    chunk = len(planned[0]) if planned and planned[0] is not None else 0
    return StepBlock(
        stamp_ns=np.array([s.stamp_ns for s in steps], np.int64),
        observation=_rows([s.observation for s in steps], (state_dim,)),
        action=_rows([s.action for s in steps], (action_dim,)),
        reward=np.array([s.reward for s in steps], np.float64),
        terminated=np.array([s.terminated for s in steps], bool),
        success=np.array([s.success for s in steps], bool),
        source=np.array([int(s.source) for s in steps], np.uint8),
        chunk=np.array([s.chunk for s in steps], np.int64),
        index=np.array([s.index for s in steps], np.int64),
        episode=np.array([s.episode for s in steps], np.int64),
        planned_row=np.array(planned_row, np.int64),
        planned=_rows(planned, (chunk, action_dim)),
        end_after=np.array(end_after, np.int64),
        final_observation=_rows([e.final_observation for e in ends], (state_dim,)),
        truncated=np.array([e.truncated for e in ends], bool),
        episode_end=np.array([e.episode_end for e in ends], bool),
        reason=tuple(e.reason for e in ends),
    )


def _rows(rows: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(len(rows), *shape)
