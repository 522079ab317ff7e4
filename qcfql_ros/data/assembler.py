# SPDX-License-Identifier: Apache-2.0
"""Messages to steps: one function of the recorded sequence, live and from a bag alike.

The clock is ``policy/step``. For the step stamped s, with period p::

    observation        lockstep: the message stamped s of every stream
                       wall:     the latest of every stream stamped <= s - lead; what has no
                                 stamp counts from when it was received
    action             the step's own, as executed
    reward and ends    the outcome stamped s
    next observation   the observation rule at s + p
    previous action    where the contract has it in the observation: the row of the step stamped
                       s - n p, n from `previous_ticks`, of the same episode

A step is given out when all of these are decided. It is dropped, and the segment cut there, when
one cannot come any more: a later message of that topic is here, or the sequence has gone on for
``lateness_s`` (from the step's receipt; in lockstep from that of the step after it, for a robot
that waits for credits is not late). No clock is read: time is the receive stamps of the sequence.

A segment goes on while stamps are exactly p apart and policy and robot say the same episode.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from qcfql_ros.contract.chunk_record import ChunkRecord, decode_chunk
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.named_vector import Outcome, StepRecord, decode_outcome, decode_step
from qcfql_ros.contract.previous import NO_ROW, previous_ticks
from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import (
    CHUNK_TOPIC,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    STEP_TOPIC,
    absolute,
)
from qcfql_ros.data.cdr import CdrReader, peek_stamp_ns
from qcfql_ros.data.received import Pending, Received, Tick
from qcfql_ros.data.session_mark import session_topic
from qcfql_ros.data.steps import SegmentEnd, Source, Step
from qcfql_ros.data.stream_buffer import Pick, StreamBuffer
from qcfql_ros.errors import MessageError

Event = Step | SegmentEnd
MOST_CHUNKS = 256  # announced and not used yet
_WAIT = 'wait'
_SOURCES = frozenset(int(source) for source in Source)


class Assembler:
    """Makes steps and segment ends of one robot's messages.

    Args:
        contract: what the messages mean.
        namespace: of the robot's topics.

    Attributes:
        counters: messages, steps, segments, and by reason everything dropped.
        last_tick: of the robot, from its last outcome.
        last_chunk: the chunk announced last.
    """

    def __init__(self, contract: Contract, namespace: str = '') -> None:
        self.contract = contract
        self.counters: Counter[str] = Counter()
        self.last_tick = 0
        self.last_chunk: ChunkRecord | None = None
        self._read = CdrReader()
        self._decoder = Decoder(contract)
        self._lateness_ns = round(contract.lateness_s * 1e9)
        self._tolerance_ns = round(contract.stamp_tolerance_s * 1e9)
        self._store = Received(
            {name: StreamBuffer(self._tolerance_ns) for name in contract.streams}
        )
        self._last: Tick | None = None  # the step that the open segment ends with so far
        self._now_ns: int | None = None
        self._built: tuple[dict[str, int], np.ndarray] | None = None
        self._stream_of = {absolute(s.topic, namespace): s for s in contract.streams.values()}
        self._outcome_topic = absolute(contract.outcome.topic, namespace)
        self._step_topic = absolute(STEP_TOPIC, namespace)
        self._chunk_topic = absolute(CHUNK_TOPIC, namespace)
        self._session_topic = session_topic(namespace)

    def push(self, topic: str, receive_ns: int, data: bytes) -> list[Event]:
        """Take the next message of the sequence and return what it completes, in order.

        Args:
            topic: absolute name; topics that make no steps are ignored.
            receive_ns: receive stamp.
            data: CDR bytes; whatever is in them, nothing is raised.
        """
        events: list[Event] = []
        self.counters['messages'] += 1
        if self._now_ns is not None and receive_ns < self._now_ns:
            self._restart(events, 'clock_set_back')
        self._now_ns = receive_ns
        try:
            self._take(topic, receive_ns, data, events)
        except MessageError:
            self.counters['bad_message'] += 1
        if self._store.pending:
            self._advance(events, final=False)
        return events

    def finish(self, reason: str = 'shutdown') -> list[Event]:
        """End the sequence: return what can still be decided, and the end of an open segment."""
        events: list[Event] = []
        self._restart(events, reason)
        self._now_ns = None
        return events

    def _take(self, topic: str, receive_ns: int, data: bytes, events: list[Event]) -> None:
        """Put a message where it belongs.

        Raises:
            MessageError: it cannot be used.
        """
        stream = self._stream_of.get(topic)
        store = self._store
        if stream is not None:
            values = None
            stamp_ns: int | None
            try:
                decoded = self._decoder.decode_cdr(stream.name, data, self._read)
                stamp_ns, values = decoded.stamp_ns, decoded.values
            except MessageError:
                self.counters['bad_message'] += 1
                stamp_ns = peek_stamp_ns(data) if stream.stamped else 0
                if stamp_ns is None:
                    return
            stamp_ns = stamp_ns or receive_ns
            buffer = store.streams[stream.name]
            self._backward(buffer.last_ns, stamp_ns, events)
            if not buffer.add(stamp_ns, receive_ns, values):
                self.counters['duplicate'] += 1
        elif topic == self._outcome_topic:
            self._take_outcome(data, events)
        elif topic == self._step_topic:
            record = decode_step(self._read(data, JOINT_STATE), self.contract)
            self._backward(store.last_step_ns, record.stamp_ns, events)
            if record.stamp_ns == store.last_step_ns:
                self.counters['duplicate'] += 1
                return
            store.last_step_ns = record.stamp_ns
            if store.first_step_ns is None:
                store.first_step_ns = record.stamp_ns
            if self.contract.wants_previous:
                store.executed[record.stamp_ns] = record
            store.pending.append(Pending(record, receive_ns))
        elif topic == self._chunk_topic:
            chunk = decode_chunk(self._read(data, JOINT_TRAJECTORY), self.contract)
            self.last_chunk = store.chunks[chunk.stamp_ns] = chunk
            if len(store.chunks) > MOST_CHUNKS:
                del store.chunks[next(iter(store.chunks))]
        elif topic == self._session_topic:
            self._restart(events, 'restart')

    def _take_outcome(self, data: bytes, events: list[Event]) -> None:
        store = self._store
        outcome: Outcome | None = None
        try:
            outcome = decode_outcome(self._read(data, JOINT_STATE))
            stamp_ns: int | None = outcome.stamp_ns
            self.last_tick = outcome.tick
        except MessageError:
            self.counters['bad_message'] += 1
            stamp_ns = peek_stamp_ns(data)
            if stamp_ns is None:
                return
        assert stamp_ns is not None
        self._backward(store.last_outcome_ns, stamp_ns, events)
        if stamp_ns in store.outcomes:
            self.counters['duplicate'] += 1
            return
        store.outcomes[stamp_ns] = outcome
        store.last_outcome_ns = stamp_ns

    def _backward(self, last_ns: int | None, stamp_ns: int, events: list[Event]) -> None:
        """Begin anew when a topic's stamps jump back: its sender was started again."""
        if last_ns is not None and stamp_ns < last_ns:
            self._restart(events, 'stamps_went_back')

    def _restart(self, events: list[Event], reason: str) -> None:
        """Decide what can be decided, cut, and forget everything."""
        self._advance(events, final=True)
        self._cut(events, reason)
        if reason != 'shutdown' and self._store.last_step_ns is not None:
            self.counters[reason] += 1
        self._store.clear()
        self._built = None

    def _advance(self, events: list[Event], final: bool) -> None:
        """Give out, or give up, the oldest steps that are decided."""
        store = self._store
        while store.pending:
            record = store.pending[0].record
            tick = self._judge(record, final or self._expired())
            if tick == _WAIT:
                return
            store.pending.popleft()
            if isinstance(tick, Tick):
                self._emit(tick, events)
            else:
                self.counters[f'dropped_{tick}'] += 1
                self._cut(events, tick)
            self._forget(record)

    def _expired(self) -> bool:
        """Say whether the oldest pending step has waited for too long."""
        pending = self._store.pending
        since = pending[0].receive_ns
        if pending[0].record.lockstep:
            if len(pending) == 1:
                return False
            since = pending[1].receive_ns
        assert self._now_ns is not None
        return self._now_ns > since + self._lateness_ns

    def _judge(self, record: StepRecord, decided: bool) -> Tick | str:
        """Return the tick, ``wait``, or the reason why it cannot be.

        Args:
            decided: nothing more is coming for it.
        """
        store, stamp_ns = self._store, record.stamp_ns
        if record.source == Source.HALT:
            return 'halt'
        if record.source not in _SOURCES:
            return 'bad_step'
        if self.contract.wants_previous:
            assert store.first_step_ns is not None
            if self._previous_ns(record, stamp_ns) < store.first_step_ns:
                return 'unknown_previous'  # what was executed before is not in this sequence
        before = self._previous(record, stamp_ns)
        if stamp_ns not in store.outcomes:
            later = store.last_outcome_ns is not None and store.last_outcome_ns > stamp_ns
            return 'missing_outcome' if decided or later else _WAIT
        outcome = store.outcomes[stamp_ns]
        if outcome is None:
            return 'bad_outcome'
        picked = self._pick(record, stamp_ns, decided)
        if isinstance(picked, Pick):
            if picked is Pick.WAIT and not decided:
                return _WAIT
            return 'bad_observation' if picked is Pick.BAD else 'missing_observation'
        # On the wall clock, after the end of an episode, the streams may fall silent.
        after = self._pick(record, stamp_ns + self.contract.period_ns, decided and _ends(outcome))
        if isinstance(after, Pick):
            if after is Pick.WAIT and not decided:
                return _WAIT
            return 'missing_next_observation'
        planned = None
        if record.index == 0 and record.chunk >= 0 and record.source == Source.POLICY:
            chunk = store.chunks.get(stamp_ns)
            if chunk is None and not decided:
                return _WAIT
            if chunk is None or chunk.chunk != record.chunk:
                self.counters['missing_chunk'] += 1
            elif chunk.observation_stamps and not chunk.observed(_stamps(picked, before)):
                return 'observation_mismatch'
            else:
                planned = chunk.actions
        return Tick(
            record,
            outcome,
            self._observation(picked, before),
            self._observation(after, self._previous(record, stamp_ns + self.contract.period_ns)),
            planned,
        )

    def _previous_ns(self, record: StepRecord, stamp_ns: int) -> int:
        ticks = previous_ticks(self.contract, record.lead_ns, record.lockstep)
        return stamp_ns - ticks * self.contract.period_ns

    def _previous(self, record: StepRecord, stamp_ns: int) -> StepRecord | None:
        """Return the step whose row an observation at `stamp_ns` has, None for none."""
        if not self.contract.wants_previous:
            return None
        found = self._store.executed.get(self._previous_ns(record, stamp_ns))
        return found if found is not None and found.episode == record.episode else None

    def _pick(
        self, record: StepRecord, stamp_ns: int, decided: bool
    ) -> dict[str, tuple[int, np.ndarray]] | Pick:
        """Return (stamp, values) by stream for the observation rule of `record` at `stamp_ns`."""
        picked: dict[str, tuple[int, np.ndarray]] = {}
        for name, buffer in self._store.streams.items():
            if record.lockstep:
                found = buffer.exact(stamp_ns)
            else:
                found = buffer.latest(stamp_ns - record.lead_ns, self._lateness_ns, decided)
            if isinstance(found, Pick):
                return found
            picked[name] = found
        return picked

    def _observation(
        self, picked: dict[str, tuple[int, np.ndarray]], before: StepRecord | None
    ) -> np.ndarray:
        # The next observation of one step is the observation of the next: build it once.
        key = _stamps(picked, before)
        if self._built is None or self._built[0] != key:
            values = {name: entry[1] for name, entry in picked.items()}
            previous = NO_ROW if before is None else before.action
            state = self._decoder.observation(values, previous)
            state.setflags(write=False)
            self._built = (key, state)
        return self._built[1]

    def _emit(self, tick: Tick, events: list[Event]) -> None:
        record, outcome = tick.record, tick.outcome
        if not (np.isfinite(tick.observation).all() and np.isfinite(tick.next_observation).all()):
            self.counters['dropped_bad_observation'] += 1  # beyond float32
            self._cut(events, 'bad_observation')
            return
        if self._last is not None and not _follows(self._last, tick, self.contract.period_ns):
            self._cut(events, 'gap')
        reward, price = outcome.reward, self.contract.outcome.failure_reward
        if price is not None and outcome.terminated and not outcome.success:
            reward += price
        self.counters['steps'] += 1
        events.append(
            Step(
                stamp_ns=record.stamp_ns,
                observation=tick.observation,
                action=record.action,
                reward=reward,
                terminated=outcome.terminated,
                success=outcome.success,
                source=Source(record.source),
                chunk=record.chunk,
                index=record.index,
                episode=record.episode,
                planned=tick.planned,
            )
        )
        self._last = tick
        if _ends(outcome):
            self.counters['episodes'] += 1
            self._cut(events, 'terminated' if outcome.terminated else 'timeout', True)

    def _cut(self, events: list[Event], reason: str, episode_end: bool = False) -> None:
        """End the open segment, if there is one, with the observation after its last step."""
        if self._last is None:
            return
        self.counters['segments'] += 1
        events.append(
            SegmentEnd(
                final_observation=self._last.next_observation,
                truncated=not self._last.outcome.terminated,
                reason=reason,
                episode_end=episode_end,
            )
        )
        self._last = None

    def _forget(self, record: StepRecord) -> None:
        """Drop what no later step can ask for."""
        store = self._store
        for stamp_ns in [s for s in store.outcomes if s <= record.stamp_ns]:
            del store.outcomes[stamp_ns]
        for stamp_ns in [s for s in store.chunks if s <= record.stamp_ns]:
            del store.chunks[stamp_ns]
        if self.contract.wants_previous:
            oldest_ns = self._previous_ns(record, record.stamp_ns)
            for stamp_ns in [s for s in store.executed if s <= oldest_ns]:
                del store.executed[stamp_ns]
        # On the wall clock a lead may grow from one episode to the next.
        margin_ns = 0 if record.lockstep else record.lead_ns + self._lateness_ns
        for buffer in store.streams.values():
            buffer.forget(record.stamp_ns - margin_ns)


def _ends(outcome: Outcome) -> bool:
    """Say whether the robot's episode ends here. Play data go on after a terminated tick."""
    return outcome.ended or outcome.truncated


def _follows(last: Tick, tick: Tick, period_ns: int) -> bool:
    """Say whether `tick` is the next one of the same run."""
    before, record = last.record, tick.record
    return (
        record.stamp_ns == before.stamp_ns + period_ns
        and record.episode == before.episode
        and record.lead_ns == before.lead_ns
        and record.lockstep == before.lockstep
        and tick.outcome.episode == last.outcome.episode
    )


def _stamps(
    picked: dict[str, tuple[int, np.ndarray]], before: StepRecord | None
) -> dict[str, int]:
    """Return what a chunk announces of its observation."""
    stamps = {name: entry[0] for name, entry in picked.items()}
    return stamps if before is None else {**stamps, STEP_TOPIC: before.stamp_ns}
