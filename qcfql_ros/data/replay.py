# SPDX-License-Identifier: Apache-2.0
"""Replay: a ring of rows from which windows for learning are drawn.

One row is one step; the observation after the last step of a segment is a row of its own, so no
observation is stored twice: the next observation of a row is the next row's.

::

    rows   s0 s1 s2 s3 F | s0 s1 s2 ...      F: final observation, no action
           [-- n=3 --]^ next_state
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from qcfql_ros.algorithm.batch import Batch
from qcfql_ros.data.reference_sampling import ReferenceSampling
from qcfql_ros.data.step_block import StepBlock
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.data.windows import LegalSampling
from qcfql_ros.errors import ParameterError


class Replay:
    """Fixed-size ring of segments from which windows of n steps are drawn in constant time.

    What may be drawn, and what a window says, is up to `LegalSampling` or `ReferenceSampling`.

    Memory: ``4 (state_dim + action_dim) + 12`` bytes a row: state, action, reward, three flags
    in four bytes, and a place in the list of legal starts (4 bytes, which reference sampling does
    without). The planned chunks of windows that a termination cuts short come on top, one at
    most for each segment. A row is a step, or the final observation of a segment.

    Args:
        capacity: rows kept; the oldest are overwritten.
        state_dim: size of the observation.
        action_dim: size of an action row.
        chunk: actions in a chunk [k].
        discount: per step.
        return_steps: steps in a window [n]; 0 for a whole chunk.
        terminal_windows: False drops the windows that the segment's end cuts short.
        rewards_after_termination: rewards behind the first terminated step of a window count.
        window_sampling: legal, or reference as the authors' code draws.
        imitate_success_only: behaviour is learned from segments with a success, once they ended.
        price_failure: a termination without success costs its step's reward for ever:
            ``r discount / (1 - discount)`` more than r, so that failing sooner is never worth
            more. Only costs are priced: a reward above 0 gains nothing by failing.
        imitate_short_segments: segments too short for the critic are drawn for the behaviour
            alone; with legal sampling only, for reference sampling draws all.

    Attributes:
        steps: ever appended.
        segment: number of the segment being written.
        short_segments: segments ended that hold no window to learn from.
        short_segment_steps: steps in them.

    Raises:
        ParameterError: the capacity is too small, or settings contradict each other.
    """

    def __init__(
        self,
        capacity: int,
        state_dim: int,
        action_dim: int,
        chunk: int,
        discount: float,
        *,
        return_steps: int = 0,
        terminal_windows: bool = True,
        rewards_after_termination: bool = False,
        window_sampling: str = 'legal',
        imitate_success_only: bool = False,
        price_failure: bool = False,
        imitate_short_segments: bool = False,
    ) -> None:
        self.chunk = chunk
        self.window_steps = return_steps or chunk
        if not self.window_steps + 2 <= capacity < 2**31:
            raise ParameterError(
                f'replay capacity: got {capacity}, wanted at least {self.window_steps + 2} for '
                f'windows of {self.window_steps} steps, and less than {2**31}'
            )
        if window_sampling == 'reference' and terminal_windows:
            raise ParameterError(
                'window_sampling: reference cannot learn from windows over an end; set '
                'terminal_windows to false, or window_sampling to legal'
            )
        self.capacity = capacity
        self.discount = discount
        self.rewards_after_termination = rewards_after_termination
        self.imitate_success_only = imitate_success_only
        self.price_failure = price_failure
        row = [
            ('observation', np.float32, (state_dim,)),
            ('action', np.float32, (action_dim,)),
            ('reward', np.float32),
            ('is_step', bool),
            ('terminated', bool),
            ('imitated', bool),
        ]
        # One array, for then a window lies in one place: in a large replay each place is a wait
        # for the memory.
        self.table = np.zeros(capacity, np.dtype(row, align=True))
        self.observations = self.table['observation']
        self.actions = self.table['action']
        self.rewards = self.table['reward']
        self.is_step = self.table['is_step']  # once the observation behind the step is known
        self.terminated = self.table['terminated']
        self.imitated = self.table['imitated']  # behaviour is learned from these rows
        self.rows = 0  # rows ever appended; row i lives at i % capacity
        self.steps = 0
        self.segment = 0
        self.segment_start = 0  # first row of that segment which is still kept
        self.short_segments = 0
        self.short_segment_steps = 0
        self._segment_success = False
        self._last_plan: tuple[int, np.ndarray] | None = None
        self.sampling: LegalSampling | ReferenceSampling
        if window_sampling == 'reference':
            self.sampling = ReferenceSampling(self)
        else:
            self.sampling = LegalSampling(self, terminal_windows, imitate_short_segments)

    def __len__(self) -> int:
        """Return the number of starts that can be drawn."""
        return len(self.sampling)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays; planned chunks come on top."""
        return self.table.nbytes + self.sampling.nbytes

    def append(self, event: Step | SegmentEnd) -> None:
        """Add a step, or close the segment being written.

        Raises:
            ParameterError: the step is a failure whose price is infinite.
        """
        if isinstance(event, Step):
            self._append_step(event)
        else:
            self._end(event.final_observation)

    def append_block(self, block: StepBlock) -> None:
        """Add the steps and ends of a block: the same as to append its events.

        Raises:
            ParameterError: as `append`; the steps before that one are kept.
        """
        begin = 0
        for after, final in zip(block.end_after.tolist(), block.final_observation, strict=True):
            self._append_steps(block, begin, after)
            self._end(final)
            begin = after
        self._append_steps(block, begin, len(block))

    def _append_steps(self, block: StepBlock, begin: int, stop: int) -> None:
        """Add the steps from `begin` to before `stop`, none of which ends its segment before."""
        most = self.capacity - self.window_steps  # so that none of them overwrites another's start
        while begin < stop:
            part = slice(begin, min(stop, begin + most))
            rewards, refused = self._priced(block, part)
            part = slice(begin, begin + len(rewards))
            self._write_rows(block, part, rewards)
            if refused:
                self._refuse_price(float(block.reward[part.stop]))
            begin = part.stop

    def _write_rows(self, block: StepBlock, part: slice, rewards: np.ndarray) -> None:
        count, first = len(rewards), self.rows
        if not count:
            return
        places = np.arange(first, first + count) % self.capacity
        self.sampling.forget_all(places)
        self.observations[places] = block.observation[part]
        self.actions[places] = block.action[part]
        self.rewards[places] = rewards
        self.terminated[places] = block.terminated[part]
        self.imitated[places] = not self.imitate_success_only
        self.is_step[places] = True
        self.is_step[places[-1]] = False
        begins = first == self.segment_start
        if not begins:
            self.is_step[(first - 1) % self.capacity] = True
        complete = first if begins else first - 1  # the first row that is complete now
        self.sampling.add_steps(complete, first + count - 1, self.segment_start)
        self._segment_success |= bool(block.success[part].any())
        self.steps += count
        self.rows += count
        self.segment_start = max(self.segment_start, self.rows - self.capacity)
        plans = np.searchsorted(block.planned_row, (part.start, part.stop))
        if plans[1] > plans[0]:
            row = int(block.planned_row[plans[1] - 1]) - part.start
            self._last_plan = (first + row, np.array(block.planned[plans[1] - 1]))

    def _priced(self, block: StepBlock, part: slice) -> tuple[np.ndarray, bool]:
        """Return rewards with the price of failure, up to a step whose price is infinite."""
        rewards = block.reward[part] + 0.0  # as a price of 0 does to -0
        if not self.price_failure:
            return rewards, False
        failed = block.terminated[part] & ~block.success[part] & (rewards < 0)
        if self.discount >= 1.0:
            return (rewards[: int(np.argmax(failed))], True) if failed.any() else (rewards, False)
        price = rewards * self.discount / (1.0 - self.discount)
        return np.where(failed, rewards + price, rewards), False

    def _append_step(self, step: Step) -> None:
        reward = step.reward + self._price(step)
        row = self._write_row(step.observation)
        place = row % self.capacity
        self.actions[place] = step.action
        self.rewards[place] = reward
        self.terminated[place] = step.terminated
        self.imitated[place] = not self.imitate_success_only
        self._segment_success |= step.success
        self.steps += 1
        if step.planned is not None:
            self._last_plan = (row, step.planned)

    def _price(self, step: Step) -> float:
        """Return what a failure adds to its own step's reward."""
        if not (self.price_failure and step.terminated and not step.success and step.reward < 0):
            return 0.0
        if self.discount >= 1.0:
            self._refuse_price(step.reward)
        return step.reward * self.discount / (1.0 - self.discount)

    def _refuse_price(self, reward: float) -> NoReturn:
        raise ParameterError(
            f'a step with reward {reward:g} ended in failure: at discount 1 its cost for '
            'ever is infinite; give outcome.failure_reward in the contract, or a discount '
            'below 1'
        )

    def _end(self, final_observation: np.ndarray) -> None:
        if self.rows == self.segment_start:
            return
        final = self._write_row(final_observation)
        steps = np.arange(self.segment_start, final) % self.capacity
        if self._segment_success:
            self.imitated[steps] = True
        ended = self.terminated[steps]
        learned = self.sampling.end_segment(self.segment_start, final, ended, self._last_plan)
        if not learned:
            self.short_segments += 1
            self.short_segment_steps += len(steps)
        self._last_plan, self._segment_success = None, False
        self.segment += 1
        self.segment_start = self.rows

    def _write_row(self, observation: np.ndarray) -> int:
        """Write an observation behind the last row, which is complete with it if it is a step."""
        row = self.rows
        place = row % self.capacity
        self.sampling.forget(place)
        self.observations[place] = observation
        self.is_step[place] = False
        self.terminated[place] = False
        self.rows += 1
        if row > self.segment_start:
            self.is_step[(row - 1) % self.capacity] = True
            self.sampling.add_step(row - 1, row - self.segment_start)
        self.segment_start = max(self.segment_start, self.rows - self.capacity)
        return row

    def sample(self, batch: int, generator: np.random.Generator) -> Batch:
        """Draw `batch` windows uniformly; raises ParameterError if there are none."""
        if not len(self):
            raise ParameterError(
                f'replay: no window of {self.window_steps} steps can be drawn from {self.steps} '
                'steps; record more, or lower action_chunk_size'
            )
        return self.sampling.windows(self.sampling.draw(batch, generator))
