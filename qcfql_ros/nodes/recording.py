# SPDX-License-Identifier: Apache-2.0
"""From what is heard to the bag, and from the bag to steps. No ROS."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import CHUNK_TOPIC, absolute
from qcfql_ros.data.assembler import Assembler, Event
from qcfql_ros.data.bag_metadata import Topic
from qcfql_ros.data.reader import read_splits, split_number, split_paths
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.retention import first_needed
from qcfql_ros.data.session_history import earlier_events, note_session
from qcfql_ros.data.session_mark import session_mark, session_topic
from qcfql_ros.data.spool import Item, Spool
from qcfql_ros.data.step_log import StepLog
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.data.writer_thread import WriterThread
from qcfql_ros.errors import BagError

# Keys of the bag's custom data.
POLICIES, OUTCOMES, STEPS = 'qcfql.policies', 'qcfql.outcomes', 'qcfql.steps'
REPLAYED_FROM = 'qcfql.replayed_from'
WHATEVER = 2**62
_BACKLOG = 20_000
_DRAIN_S = 20.0


class Recording:
    """Records a session and makes steps of exactly what is in the bag.

    Args:
        recorder: of this session.
        spool: bridges a stalled disk.
        contract: what the messages mean.
        namespace: of the robot.
        log: gets a digest of every step; written on the recorder's thread.
        write_s: messages of this long are written together.
        capacity: steps that the replay holds; None when nobody learns.
        wake: called from the recorder's thread when there is something for `events`.
        clock: time of receipt in ns.
        begun: the session begins now; else with `begin`, or the first message.

    Attributes:
        assembler: its counters say what became of the messages.
        stopped: why recording has stopped; empty while it goes on.
        outcomes: episodes of the bag, by how they ended.
    """

    def __init__(
        self,
        recorder: BagRecorder,
        spool: Spool,
        contract: Contract,
        namespace: str,
        log: StepLog,
        *,
        write_s: float,
        capacity: int | None,
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = time.time_ns,
        begun: bool = True,
    ) -> None:
        self._clock, self._begun = clock, begun
        self._recorder, self._log, self._capacity = recorder, log, capacity
        self._contract, self._namespace = contract, namespace
        self.assembler = Assembler(contract, namespace)
        self.outcomes = Counter(_counts(recorder, OUTCOMES))
        self._steps = Counter({int(k): n for k, n in _counts(recorder, STEPS).items()})
        self._policies = [d for d in recorder.custom.get(POLICIES, '').split(',') if d]
        self._pushed: Counter[int] = Counter()
        self._success = self._finished = False
        self._cut = False  # the open segment was ended because recording has stopped
        self._chunk = absolute(CHUNK_TOPIC, namespace)
        self._flushed_s = 0.0
        self._split = recorder.split
        if capacity is None:
            recorder.first_needed = WHATEVER
        self._session = session_topic(namespace)
        note_session(recorder.custom, recorder.first_split)
        self._writer = WriterThread(
            recorder, spool, self._mark, begun=begun, write_s=write_s, wake=wake
        )
        self.do = self._writer.do

    def _mark(self, now_ns: int | None = None) -> Item:
        now_ns = self._clock() if now_ns is None else now_ns
        mark = session_mark(self._contract.name, self._contract.hash, now_ns)
        return Item(self._session, now_ns, 0, mark)

    @property
    def stopped(self) -> str:
        """Why recording has stopped; empty while it goes on."""
        return self._writer.failed

    @property
    def log_failed(self) -> str:
        """Why ``steps.csv`` ends before the bag; empty while it goes on."""
        return self._log.failed

    @property
    def waiting(self) -> int:
        """How many messages are not yet written, or not yet made steps of."""
        return self._writer.spool.held + self._writer.backlog

    def begin(self, receive_ns: int) -> None:
        """Begin a session: what is open ends here, also for every later reader of the bag."""
        self._begun = True
        self._writer.offer(*self._mark(receive_ns))

    def accept(
        self, topic: str, publish_ns: int, data: bytes, receive_ns: int | None = None
    ) -> None:
        """Take a message, heard just now unless it says when; never waits for the disk."""
        if receive_ns is None:
            receive_ns = self._clock()
        if not self._begun:
            self.begin(receive_ns - 1)
        self._writer.offer(topic, receive_ns, publish_ns, data)

    def replayed_from(self, source: dict[str, str]) -> None:
        """Note in the bag that messages come from another recording."""
        custom = self._recorder.custom
        try:
            sources = list(json.loads(custom.get(REPLAYED_FROM, '[]')))
        except (ValueError, TypeError):
            sources = []
        if source not in sources:
            custom[REPLAYED_FROM] = json.dumps([*sources, source])

    def offered(self, topic: str, profiles: list[dict]) -> None:
        """Note how a topic is offered."""
        known = self._recorder.topics[topic]
        self._recorder.topics[topic] = Topic(topic, known.type_name, offered=tuple(profiles))

    def events(self, budget_s: float = 0.01) -> tuple[list[Event], list[str]]:
        """Assemble what was written since the last call, for about `budget_s`.

        Returns:
            steps and segment ends, and the digests of the policies that planned chunks.
        """
        events: list[Event] = []
        digests: list[str] = []
        until_s = time.monotonic() + (budget_s if self._writer.backlog < _BACKLOG else 1.0)
        for topic, receive_ns, data, split in self._writer.written():
            made = self.assembler.push(topic, receive_ns, data)
            self._pushed[split] += 1
            if made:
                self._steps[split] += sum(isinstance(event, Step) for event in made)
                events += made
            if topic == self._session:
                self._cut = False
                self.assembler.last_tick = 0  # the robot may have gone on unheard
            if topic == self._chunk and self.assembler.last_chunk is not None:
                digests.append(self.assembler.last_chunk.digest)
            if time.monotonic() > until_s:
                break
        if self._writer.cut and not self._writer.backlog and self.stopped and not self._cut:
            # The bag ends here, and so must what is learned from it.
            self._cut = True
            self.assembler.last_tick = 0
            events += self.assembler.finish('recording_stopped')
        self._account(events, digests)
        return events, digests

    def finish(self) -> list[Event]:
        """Write and assemble the rest, and end the open segment.

        Raises:
            BagError: the disk is stuck.
        """
        if not self._writer.stop(_DRAIN_S):
            raise BagError(
                f'{self._writer.spool.held} messages were not written in {_DRAIN_S:g} s: '
                f'the disk of {self._recorder.folder} is stuck'
            )
        events, _ = self.events(WHATEVER)
        if not self._finished:
            self._finished = True
            last = [] if self._cut else self.assembler.finish()
            self._account(last, [])
            events += last
        return events

    def close(self) -> None:
        """Close bag and log, once `finish` has returned.

        Raises:
            BagError: the disk refused; the bag is recovered at the next start.
        """
        try:
            self._recorder.close()
        finally:
            self._log.close()

    def history(self) -> Iterator[Event]:
        """Yield from the bag what this and the earlier sessions gave until now.

        Nothing is deleted from now on, until `loaded` is told that the replay has it.
        """
        recorder = self._recorder
        with recorder.retaining:
            recorder.first_needed = 0
            folder = recorder.folder
            closed = split_paths(folder) if any(folder.glob('*.mcap')) else []
            old = sum(split_number(path) < recorder.first_split for path in closed)
            # By number: while a folder is listed, a file may be renamed and so be missed.
            here = {split: recorder.split_path(split) for split in sorted(self._pushed)}
        messages = sum(self._pushed[split] for split, path in here.items() if path)
        paths = [path for path in here.values() if path]
        parts: list[Iterator[Event]] = []
        if old:
            first, say = recorder.first_split, recorder.notes.append
            parts.append(earlier_events(folder, self._contract, recorder.custom, first, say))
        if messages:
            parts.append(self._again(messages, paths, self._cut))
        return chain.from_iterable(parts)

    def _again(self, messages: int, paths: Sequence[Path], cut: bool) -> Iterator[Event]:
        """Yield what the first `messages` of this session's files gave; its end is open or cut."""
        assembler = Assembler(self._contract, self._namespace)
        recorded = chain.from_iterable(part.messages for part in read_splits(paths))
        for topic, receive_ns, _, data in islice(recorded, messages):
            yield from assembler.push(topic, receive_ns, data)
        if cut:
            yield from assembler.finish()

    def loaded(self) -> None:
        """Let go of what the replay does not hold; to be called while it lives."""
        if self._capacity is not None:
            self._recorder.first_needed = first_needed(self._steps, self._capacity)

    def notes(self) -> list[str]:
        """Return what is to be said about the bag, once."""
        return [self._recorder.notes.popleft() for _ in range(len(self._recorder.notes))]

    def values(self) -> dict[str, object]:
        """Return what the diagnostics say of the disk."""
        spool, recorder = self._writer.spool, self._recorder
        return {
            'bag': str(recorder.folder),
            'split': recorder.split,
            'spool_mb': round(spool.bytes / 1e6, 3),
            'spool_peak_mb': round(spool.peak_bytes / 1e6, 3),
            'spool_s': round(spool.seconds, 3),
            'deleted_splits': len(recorder.deleted),
            'deleted_mb': round(sum(size for _, size in recorder.deleted) / 1e6, 1),
            'refused_messages': self._writer.refused,
            'unwritten_messages': self._writer.lost,
            'recording_stops': self._writer.stops,
        }

    def _account(self, events: list[Event], digests: list[str]) -> None:
        """Keep the log and the bag's custom data in step."""
        self._log.add(events)
        now_s = time.monotonic()
        if now_s > self._flushed_s + 1.0:
            self._flushed_s = now_s
            self._writer.do(self._log.flush)
        custom = self._recorder.custom
        for digest in digests:
            if digest not in self._policies:
                self._policies.append(digest)
                custom[POLICIES] = ','.join(self._policies)
        for event in events:
            if isinstance(event, Step):
                self._success |= event.success
            elif isinstance(event, SegmentEnd) and event.episode_end:
                self.outcomes['success' if self._success else event.reason] += 1
                self._success = False
                custom[OUTCOMES] = json.dumps(self.outcomes, sort_keys=True)
        if self._finished or self._recorder.split != self._split:
            self._split = self._recorder.split
            custom[STEPS] = json.dumps({str(k): n for k, n in sorted(self._steps.items())})


def _counts(recorder: BagRecorder, key: str) -> dict[str, int]:
    """Return counts from the bag's custom data; none from what is not ours."""
    try:
        found = json.loads(recorder.custom.get(key, '{}'))
        return {str(name): int(number) for name, number in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
