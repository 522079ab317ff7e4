# SPDX-License-Identifier: Apache-2.0
"""The steps of a stretch of messages in which nothing is out of the ordinary, judged in columns.

For each step the message that completes it is known: the last one to come of all it needs. The
assembler gives the step out there, if nothing was given up before and the step is one at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.named_vector import META_KINDS, OUTCOME_KINDS
from qcfql_ros.contract.observation import StatePlaces, state_places
from qcfql_ros.contract.previous import NO_ROW, previous_ticks
from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import STEP_TOPIC
from qcfql_ros.data.assembler import MOST_CHUNKS
from qcfql_ros.data.held import Held
from qcfql_ros.data.received_block import Columns, ReceivedBlock
from qcfql_ros.data.steps import Source
from qcfql_ros.data.stream_buffer import CAPACITY

_META = {name: number - len(META_KINDS) for number, name in enumerate(META_KINDS)}
_OUTCOME = {name: number for number, name in enumerate(OUTCOME_KINDS)}


@dataclass(eq=False)
class _Picked:
    """Which messages of a stream the steps look at: rows of its columns."""

    now: np.ndarray
    after: np.ndarray
    columns: Columns = field(repr=False)


class Stretch:
    """Judges the steps of the messages `first` to before `stop` of a block.

    Args:
        contract: what the messages mean.
        block: of messages; none in the stretch is odd, nor below what came before it.
        first, stop: of the block's messages.
        held: from before.

    Attributes:
        count: steps that are decided, the first ones of `steps`.
        steps, outcomes, streams, chunks, executed: what was held and the stretch's own.
        decided_at: (n,) int64, the message of the block after which each step is given out.
        outcome: (n,) int64, row of each step's outcome.
        plan: (n,) int64, row of the chunk that each step begins; -1 for none.
    """

    def __init__(
        self,
        contract: Contract,
        block: ReceivedBlock,
        first: int,
        stop: int,
        held: Held,
    ) -> None:
        self.contract = contract
        self._lateness_ns = round(contract.lateness_s * 1e9)
        self._tolerance_ns = round(contract.stamp_tolerance_s * 1e9)
        own_steps = block.steps.between(first, stop)
        self.steps = own_steps.after(held.steps)
        self.executed = own_steps.after(held.executed)
        self.outcomes = block.outcomes.between(first, stop).after(held.outcomes)
        self.chunks = block.chunks.between(first, stop).after(held.chunks)
        begin, end = np.searchsorted(block.chunks.at, (first, stop)).tolist()
        self.chunk_records = held.chunk_records + block.chunk_records[begin:end]
        self.streams = {
            name: columns.between(first, stop).after(held.streams[name])
            for name, columns in block.streams.items()
        }
        self.usable = held.usable
        self.first_step_ns = held.first_step_ns
        if self.first_step_ns is None and len(self.steps):
            self.first_step_ns = int(self.steps.stamp_ns[0])
        self.count = 0
        if len(self.steps):
            self._judge(block.receive_ns)

    def meta(self, name: str) -> np.ndarray:
        """Return a number of each step, (n,) int64."""
        return self.steps.values[:, _META[f'meta.{name}']].astype(np.int64)

    def outcome_of(self, name: str) -> np.ndarray:
        """Return a number of the outcome of each decided step, (count,) float64."""
        return self.outcomes.values[self.outcome[: self.count], _OUTCOME[name]]

    def _judge(self, receive_ns: np.ndarray) -> None:
        steps = self.steps
        stamp_ns = steps.stamp_ns
        lead_ns, lockstep = self.meta('lead_ns'), self.meta('lockstep')
        self.lockstep = bool(lockstep[0])
        self.lead_ns = lead_ns
        ok = (lockstep == lockstep[0]) & (self.meta('source') < Source.HALT)
        # The first outcome of a stamp is the one that counts, and there is but one.
        self.outcome, found = _exact(self.outcomes, stamp_ns)
        ok &= found
        complete = np.maximum(steps.at, _at(self.outcomes, self.outcome))
        self.picked = {}
        for name, columns in self.streams.items():
            pick = self._in_lockstep if self.lockstep else self._on_the_wall
            self.picked[name], found, last = pick(columns, self.usable[name], stamp_ns, lead_ns)
            ok &= found
            complete = np.maximum(complete, last)
        begins = (
            (self.meta('index') == 0)
            & (self.meta('chunk') >= 0)
            & (self.meta('source') == Source.POLICY)
        )
        self.plan, found = _exact(self.chunks, stamp_ns)
        ok &= found | ~begins
        complete = np.where(begins, np.maximum(complete, _at(self.chunks, self.plan)), complete)
        self.plan = np.where(begins, self.plan, -1)
        if self.contract.wants_previous:
            ok &= self._find_previous(stamp_ns, lead_ns)
        # What a decided step lets go of must be no later one's.
        margin_ns = 0 if self.lockstep else lead_ns + self._lateness_ns
        self.limit_ns = stamp_ns - margin_ns
        ok[1:] &= self.limit_ns[1:] >= self.limit_ns[:-1]
        self.decided_at = np.maximum.accumulate(np.where(ok, complete, -1))
        ok &= self.decided_at >= 0
        ok &= self._in_time(receive_ns)
        ok &= self._fits()
        self.count = _leading(ok)
        self.count = self._agreeing(self.count)
        self._observe(self.count)

    def _in_lockstep(
        self, columns: Columns, usable: np.ndarray, stamp_ns: np.ndarray, lead_ns: np.ndarray
    ) -> tuple[_Picked, np.ndarray, np.ndarray]:
        now, found = _exact(columns, stamp_ns)
        after, found_after = _exact(columns, stamp_ns + self.contract.period_ns)
        found &= found_after & _is_usable(now, usable) & _is_usable(after, usable)
        return _Picked(now, after, columns), found, _at(columns, after)

    def _on_the_wall(
        self, columns: Columns, usable: np.ndarray, stamp_ns: np.ndarray, lead_ns: np.ndarray
    ) -> tuple[_Picked, np.ndarray, np.ndarray]:
        limit_ns = stamp_ns - lead_ns
        now, found = self._latest(columns, usable, limit_ns)
        after, found_after = self._latest(columns, usable, limit_ns + self.contract.period_ns)
        behind = after + 1  # decided by the first message stamped later
        found &= found_after & (behind < len(columns))
        return _Picked(now, after, columns), found, _at(columns, behind)

    def _latest(
        self, columns: Columns, usable: np.ndarray, limit_ns: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        row = np.searchsorted(columns.stamp_ns, limit_ns, side='right') - 1
        found = row >= 0
        if not len(columns):
            return row, found
        row = np.maximum(row, 0)
        picked_ns = columns.stamp_ns[row]
        found &= picked_ns >= limit_ns - self._lateness_ns
        found &= np.abs(columns.receive_ns[row] - picked_ns) <= self._tolerance_ns
        return row, found & _is_usable(row, usable)

    def _find_previous(self, stamp_ns: np.ndarray, lead_ns: np.ndarray) -> np.ndarray:
        """Find the rows of `executed` that the observations have; -1 for none."""
        period_ns, episode = self.contract.period_ns, self.meta('episode')
        leads, inverse = np.unique(lead_ns, return_inverse=True)
        ticks = [previous_ticks(self.contract, int(lead), self.lockstep) for lead in leads]
        self.previous_ns = stamp_ns - np.array(ticks, np.int64)[inverse] * period_ns
        self.previous = []
        of_executed = self.executed.values[:, _META['meta.episode']]
        for wanted_ns in (self.previous_ns, self.previous_ns + period_ns):
            row, found = _exact(self.executed, wanted_ns)
            found &= of_executed[row] == episode
            self.previous.append(np.where(found, row, -1))
        assert self.first_step_ns is not None
        ok = self.previous_ns >= self.first_step_ns
        ok[1:] &= self.previous_ns[1:] > self.previous_ns[:-1]
        return ok

    def _in_time(self, receive_ns: np.ndarray) -> np.ndarray:
        """Return which steps were not given up before they were complete."""
        at_ns = receive_ns[np.maximum(self.decided_at, 0)]
        since_ns = self.steps.receive_ns
        if not self.lockstep:
            return at_ns <= since_ns + self._lateness_ns
        ok = np.ones(len(at_ns), bool)
        waits = self.steps.at[1:] > self.decided_at[:-1]  # the next step is not there yet
        ok[:-1] = waits | (at_ns[:-1] <= since_ns[1:] + self._lateness_ns)
        return ok

    def _fits(self) -> np.ndarray:
        """Return which steps were decided before a buffer ran over."""
        ok = np.ones(len(self.steps), bool)
        buffers = [(columns, self.limit_ns, CAPACITY) for columns in self.streams.values()]
        buffers.append((self.chunks, self.steps.stamp_ns + 1, MOST_CHUNKS))
        for columns, limit_ns, most in buffers:
            arrived = np.searchsorted(columns.at, self.decided_at, side='right')
            kept = arrived.copy()
            kept[1:] -= np.searchsorted(columns.stamp_ns, limit_ns[:-1])
            kept[1:] += arrived[1:] - arrived[:-1]  # those that came late are let go of later
            ok &= kept <= most
        return ok

    def _agreeing(self, count: int) -> int:
        """Return how many steps come before one that its chunk does not agree with."""
        begins = np.flatnonzero(self.plan[:count] >= 0)
        names = list(self.streams)
        stamps = np.array(
            [p.columns.stamp_ns[p.now[begins]] for p in self.picked.values()], np.int64
        ).T
        chunks = self.meta('chunk')[begins].tolist()
        for row, chunk, observed in zip(begins.tolist(), chunks, stamps.tolist(), strict=True):
            record = self.chunk_records[self.plan[row]]
            if record is None or record.chunk != chunk:
                return row
            announced = dict(zip(names, observed, strict=True))
            if self.contract.wants_previous and self.previous[0][row] >= 0:
                before = self.previous[0][row]
                announced[STEP_TOPIC] = int(self.executed.stamp_ns[before])
            if record.observation_stamps and not record.observed(announced):
                return row
        return count

    def _observe(self, count: int) -> None:
        """Make the observations, and end before the first that does not fit a float32."""
        contract = self.contract
        places = state_places(contract.streams, contract.state, contract.action.names)
        both = []
        for after in (False, True):
            state = np.empty((count, self.contract.state_dim), np.float32)
            with np.errstate(over='ignore'):
                for name, numbers in places.streams.items():
                    picked = self.picked[name]
                    rows = (picked.after if after else picked.now)[:count]
                    state[:, numbers] = picked.columns.values[rows]
                if self.contract.wants_previous:
                    self._fill_previous(state, places, self.previous[after][:count], after)
            both.append(state)
        self.observation, self.next_observation = both
        finite = np.isfinite(np.concatenate(both, axis=1))
        self.count = _leading(np.asarray(finite.all(axis=1)))

    def _fill_previous(
        self, state: np.ndarray, places: StatePlaces, previous: np.ndarray, after: bool
    ) -> None:
        action = self.executed.values[:, : self.contract.action_dim].astype(np.float32)
        for part, numbers in places.previous:
            state[:, part] = action[previous][:, numbers]
        without = np.flatnonzero(previous < 0).tolist()
        decoder = Decoder(self.contract) if without else None
        for row in without:
            assert decoder is not None
            values = {
                name: p.columns.values[(p.after if after else p.now)[row]]
                for name, p in self.picked.items()
            }
            state[row] = decoder.observation(values, NO_ROW)


def _exact(columns: Columns, stamp_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with these stamps, and which there are."""
    if not len(columns):
        return np.zeros(len(stamp_ns), np.int64), np.zeros(len(stamp_ns), bool)
    row = np.minimum(np.searchsorted(columns.stamp_ns, stamp_ns), len(columns) - 1)
    return row, columns.stamp_ns[row] == stamp_ns


def _at(columns: Columns, row: np.ndarray) -> np.ndarray:
    if not len(columns):
        return np.full(len(row), -1, np.int64)
    return columns.at[np.minimum(row, len(columns) - 1)]


def _is_usable(row: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return which rows are no messages held that could not be decoded."""
    if usable.all():
        return np.ones(len(row), bool)
    return usable[np.minimum(row, len(usable) - 1)] | (row >= len(usable))


def _leading(ok: np.ndarray) -> int:
    """Return how many are true before the first that is not."""
    return int(np.argmin(ok)) if not ok.all() else len(ok)
