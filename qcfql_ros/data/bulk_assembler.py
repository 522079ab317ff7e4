# SPDX-License-Identifier: Apache-2.0
"""The assembler for recordings: whole stretches at once where nothing is out of the ordinary.

`Assembler`, which takes message after message, is the definition. This one gives the same steps,
ends and counters, and is in the same state behind any message, so that either can go on where the
other one stopped::

    messages  |..............................|x|....|........................|
              |<-- a stretch, in columns ->|        x: a duplicate, a NaN, a new session ...
                                           |<------>| one by one

One by one are looked at what is odd, and what lies between the last step that a stretch decides
and its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from qcfql_ros.contract.named_vector import Outcome, StepRecord
from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.assembler import Assembler, Event
from qcfql_ros.data.bag_file import Message
from qcfql_ros.data.collection import collection_held_off
from qcfql_ros.data.held import hold
from qcfql_ros.data.received import Pending, Tick
from qcfql_ros.data.received_block import (
    BlockDecoders,
    Columns,
    ReceivedBlock,
    outcome_record,
    step_record,
)
from qcfql_ros.data.step_block import StepBlock, blocks_of_events
from qcfql_ros.data.stretch import Stretch

_SINGLE = 64  # messages that are looked at one by one where a stretch ended, at least
_MOST_SINGLE = 4096
_SHORTEST = 512  # messages of a stretch
_LONGEST = 1 << 20


class BulkAssembler(Assembler):
    """Makes steps and segment ends of one robot's messages, many at a time.

    Args:
        contract: what the messages mean.
        namespace: of the robot's topics.
    """

    def __init__(self, contract: Contract, namespace: str = '') -> None:
        super().__init__(contract, namespace)
        self._decoders = BlockDecoders(contract, namespace)
        self._length = _LONGEST  # of the next stretch to try
        self._single = _SINGLE
        self._events: list[Event] = []

    def push_all(self, messages: Sequence[Message]) -> Iterator[StepBlock]:
        """Take the next messages of the sequence and yield what they complete, in order."""
        if not messages:
            return
        try:
            with collection_held_off():
                block = ReceivedBlock(messages, self._decoders)
        except OverflowError:  # receive stamps beyond the year 2262
            self._push(messages)
            yield from self._gathered()
            return
        odd = [*np.flatnonzero(block.odd).tolist(), len(messages)]
        at = number = 0
        while at < len(messages):
            while odd[number] < at:
                number += 1
            limit = min(odd[number], at + self._length)
            stop = self._ordinary(block, at, limit)
            all_well = stop == limit < odd[number]
            stretch = self._try(block, at, stop)
            if stretch is None:
                behind, more = at, False
                if stop - at >= _SINGLE:
                    self._single = min(2 * self._single, _MOST_SINGLE)
                if all_well:
                    self._length = min(2 * self._length, _LONGEST)
            else:
                yield from self._gathered()
                behind = int(stretch.decided_at[stretch.count - 1]) + 1
                yield from self._emit_all(stretch)
                self._become(block, stretch, at, behind)
                done = behind - at
                more = 2 * done >= stop - at
                self._length = max(2 * done, _SHORTEST)
                self._single = _SINGLE
            if all_well and more:
                at = behind
                continue
            at = min(behind + self._single, len(messages))
            if not all_well and stop < at:
                at = min(stop + 1, len(messages))
            self._push(messages[behind:at])
        yield from self._gathered()

    def finish_all(self, reason: str = 'shutdown') -> Iterator[StepBlock]:
        """End the sequence; as `finish`."""
        self._events += self.finish(reason)
        yield from self._gathered()

    def _push(self, messages: Sequence[Message]) -> None:
        for topic, receive_ns, _, data in messages:
            self._events += self.push(topic, receive_ns, data)

    def _gathered(self) -> Iterator[StepBlock]:
        """Yield what single messages gave."""
        contract = self.contract
        if self._events:
            yield from blocks_of_events(self._events, contract.state_dim, contract.action_dim)
            self._events = []

    def _ordinary(self, block: ReceivedBlock, first: int, stop: int) -> int:
        """Return where the stretch ends that begins at `first` and is above all before it."""
        store = self._store
        if self._now_ns is not None and block.receive_ns[first] < self._now_ns:
            return first
        newest = [
            (block.steps, store.last_step_ns),
            (block.outcomes, store.last_outcome_ns),
            (block.chunks, next(reversed(store.chunks), None)),
            *((block.streams[name], buffer.last_ns) for name, buffer in store.streams.items()),
        ]
        for columns, last_ns in newest:
            row = int(np.searchsorted(columns.at, first))
            if last_ns is not None and row < len(columns) and columns.stamp_ns[row] <= last_ns:
                stop = min(stop, int(columns.at[row]))
        return max(stop, first)

    def _try(self, block: ReceivedBlock, first: int, stop: int) -> Stretch | None:
        """Return the stretch; None where no step of it is decided, or where it is too short."""
        if stop - first < _SINGLE:
            return None
        held = hold(self._store, self.contract.action_dim, self._decoders.widths)
        if held is None:
            return None
        stretch = Stretch(self.contract, block, first, stop, held)
        return stretch if stretch.count else None

    def _emit_all(self, stretch: Stretch) -> Iterator[StepBlock]:
        """Yield the decided steps with the segment ends among them, and count them."""
        count, steps = stretch.count, stretch.steps
        terminated = stretch.outcome_of('terminated') == 1.0
        success = stretch.outcome_of('success') == 1.0
        reward = stretch.outcome_of('reward')
        price = self.contract.outcome.failure_reward
        if price is not None:
            reward = np.where(terminated & ~success, reward + price, reward)
        ended = (stretch.outcome_of('ended') == 1.0) | (stretch.outcome_of('truncated') == 1.0)
        follows = self._follows_all(stretch)
        begun = np.concatenate([[self._last is not None], ~ended[:-1]])
        gap = np.flatnonzero(begun & ~follows)  # an end before the step
        end = np.flatnonzero(ended) + 1  # behind it
        after = np.concatenate([gap, end])
        order = np.argsort(after)
        # The step that each end is the end of; -1 for the one before the stretch.
        last = after[order] - 1
        final, cut = stretch.next_observation[last], ~terminated[last]
        if len(last) and last[0] < 0:
            assert self._last is not None
            final[0], cut[0] = self._last.next_observation, not self._last.outcome.terminated
        is_gap = order < len(gap)
        reasons = np.where(is_gap, 'gap', np.where(cut, 'timeout', 'terminated'))
        planned_row = np.flatnonzero(stretch.plan[:count] >= 0)
        records = [stretch.chunk_records[row] for row in stretch.plan[planned_row].tolist()]
        plans = [record.actions for record in records if record is not None]
        for name, number in (('steps', count), ('episodes', len(end)), ('segments', len(after))):
            if number:
                self.counters[name] += number
        block = StepBlock(
            stamp_ns=steps.stamp_ns[:count],
            observation=stretch.observation[:count],
            action=steps.values[:count, : self.contract.action_dim].astype(np.float32),
            reward=reward,
            terminated=terminated,
            success=success,
            source=stretch.meta('source')[:count].astype(np.uint8),
            chunk=stretch.meta('chunk')[:count],
            index=stretch.meta('index')[:count],
            episode=stretch.meta('episode')[:count],
            planned_row=planned_row,
            planned=np.zeros((len(plans), 0, self.contract.action_dim), np.float32),
            end_after=after[order],
            final_observation=final,
            truncated=cut,
            episode_end=~is_gap,
            reason=tuple(reasons.tolist()),
        )
        yield from _with_plans(block, plans)

    def _follows_all(self, stretch: Stretch) -> np.ndarray:
        """Say of each decided step whether it goes on the one before, (count,) bool."""
        count, before = stretch.count, self._last
        columns = [
            stretch.steps.stamp_ns[:count] - self.contract.period_ns * np.arange(count),
            stretch.meta('episode')[:count],
            stretch.lead_ns[:count],
            stretch.outcome_of('episode'),
        ]
        follows = np.ones(count, bool)
        for values in columns:
            follows[1:] &= values[1:] == values[:-1]
        if before is not None:
            record = before.record
            last = (
                record.stamp_ns + self.contract.period_ns,
                record.episode,
                record.lead_ns,
                before.outcome.episode,
            )
            follows[0] = tuple(int(values[0]) for values in columns) == last
            follows[0] &= record.lockstep == stretch.lockstep
        return follows

    def _become(self, block: ReceivedBlock, stretch: Stretch, first: int, behind: int) -> None:
        """Be as if all up to before `behind` had been pushed one by one."""
        store, last = self._store, stretch.count - 1
        done_ns = int(stretch.steps.stamp_ns[last])
        self.counters['messages'] += behind - first
        self._now_ns = int(block.receive_ns[behind - 1])
        self._built = None
        outcome = _outcome(stretch.outcomes, int(stretch.outcome[last]))
        self._last = None
        if not (outcome.ended or outcome.truncated):
            self._last = Tick(
                _step(stretch.steps, last),
                outcome,
                stretch.observation[last].copy(),
                stretch.next_observation[last].copy(),
                None,
            )
        arrived = int(np.searchsorted(stretch.steps.at, behind))
        store.pending = deque(
            Pending(_step(stretch.steps, row), int(stretch.steps.receive_ns[row]))
            for row in range(last + 1, arrived)
        )
        store.first_step_ns = stretch.first_step_ns
        store.last_step_ns = int(stretch.steps.stamp_ns[arrived - 1])
        store.executed = {}
        if self.contract.wants_previous:
            rows = _kept(stretch.executed, int(stretch.previous_ns[last]) + 1, behind)
            store.executed = {
                record.stamp_ns: record for record in (_step(stretch.executed, r) for r in rows)
            }
        outcomes = stretch.outcomes
        kept = [_outcome(outcomes, row) for row in _kept(outcomes, done_ns + 1, behind)]
        store.outcomes = {outcome.stamp_ns: outcome for outcome in kept}
        newest = int(np.searchsorted(outcomes.at, behind)) - 1
        store.last_outcome_ns = int(outcomes.stamp_ns[newest])
        if outcomes.at[newest] >= 0:
            self.last_tick = _outcome(outcomes, newest).tick
        newest = int(np.searchsorted(stretch.chunks.at, behind)) - 1
        if newest >= 0 and stretch.chunks.at[newest] >= 0:
            self.last_chunk = stretch.chunk_records[newest]
        store.chunks = {}
        for row in _kept(stretch.chunks, done_ns + 1, behind):
            record = stretch.chunk_records[row]
            assert record is not None
            store.chunks[record.stamp_ns] = record
        for name, columns in stretch.streams.items():
            usable = stretch.usable[name]
            last_ns = int(columns.stamp_ns[int(np.searchsorted(columns.at, behind)) - 1])
            store.streams[name].restore(
                last_ns,
                [
                    (
                        int(columns.stamp_ns[row]),
                        int(columns.receive_ns[row]),
                        None
                        if row < len(usable) and not usable[row]
                        else columns.values[row].copy(),
                    )
                    for row in _kept(columns, int(stretch.limit_ns[last]), behind)
                ],
            )
        # The message that completed the last step may have decided the next one otherwise.
        self._advance(self._events, final=False)


def _with_plans(block: StepBlock, plans: list[np.ndarray]) -> Iterator[StepBlock]:
    """Yield a block with its planned chunks, in parts in which they have one length."""
    lengths = [len(plan) for plan in plans]
    cuts = [i for i in range(1, len(plans)) if lengths[i] != lengths[i - 1]]
    first = step = end = 0
    for stop in [*cuts, len(plans)]:
        last = stop == len(plans)
        last_step = len(block) if last else int(block.planned_row[stop])
        last_end = len(block.end_after)
        if not last:
            last_end = int(np.searchsorted(block.end_after, last_step, side='right'))
        part = block.part(slice(step, last_step), slice(end, last_end))
        yield replace(part, planned=np.stack(plans[first:stop])) if first < stop else part
        first, step, end = stop, last_step, last_end


def _kept(columns: Columns, from_ns: int, behind: int) -> range:
    """Return the rows stamped from `from_ns` on that came before the message `behind`."""
    first = int(np.searchsorted(columns.stamp_ns, from_ns))
    return range(first, int(np.searchsorted(columns.at, behind)))


def _step(columns: Columns, row: int) -> StepRecord:
    return step_record(int(columns.stamp_ns[row]), columns.values[row])


def _outcome(columns: Columns, row: int) -> Outcome:
    return outcome_record(int(columns.stamp_ns[row]), columns.values[row])
