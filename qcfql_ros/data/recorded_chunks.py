# SPDX-License-Identifier: Apache-2.0
"""The chunks in a recording, each with the observation that it was planned from.

::

    sensors        |s0       |s1       |s2            kept by stamp
    policy/chunk                 {observation_stamps: s1}      the observation at s1, decoded again

A message that a chunk names may have been received after it: the chunk waits for it a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcfql_ros.contract.chunk_record import ChunkRecord, decode_chunk
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.named_vector import decode_step
from qcfql_ros.contract.previous import NO_ROW, NoRow
from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import (
    CHUNK_TOPIC,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    STEP_TOPIC,
    absolute,
)
from qcfql_ros.data.cdr import CdrReader
from qcfql_ros.data.reader import read_bag
from qcfql_ros.errors import MessageError

_KEPT = 4096  # messages of a topic
_WAIT_NS = 5_000_000_000


@dataclass(frozen=True, eq=False)
class RecordedChunk:
    """One chunk.

    Attributes:
        record: as it was announced.
        observation: (state_dim,) float32; None if it cannot be made again.
        missing: why not; empty if it can.
    """

    record: ChunkRecord
    observation: np.ndarray | None
    missing: str = ''


class ChunkObservations:
    """Messages in, chunks with their observations out, in the order of announcement.

    Args:
        contract: of the recording.
        namespace: of its topics.

    Attributes:
        bad_messages: that could not be decoded.
    """

    def __init__(self, contract: Contract, namespace: str = '') -> None:
        self._contract = contract
        self._decoder = Decoder(contract)
        self._read = CdrReader()
        self._stream_of = {absolute(s.topic, namespace): s.name for s in contract.streams.values()}
        self._chunk_topic = absolute(CHUNK_TOPIC, namespace)
        self._step_topic = absolute(STEP_TOPIC, namespace)
        self.topics = (*self._stream_of, self._chunk_topic, self._step_topic)
        self.bad_messages = 0
        self._values: dict[str, dict[int, np.ndarray]] = {n: {} for n in contract.streams}
        self._rows: dict[int, np.ndarray] = {}
        self._pending: list[tuple[ChunkRecord, int]] = []

    def push(self, topic: str, receive_ns: int, data: bytes) -> list[RecordedChunk]:
        """Take the next message; return the chunks that are complete, or will never be."""
        try:
            self._take(topic, receive_ns, data)
        except MessageError:
            self.bad_messages += 1
        return self._give(lambda since_ns: receive_ns - since_ns > _WAIT_NS)

    def finish(self) -> list[RecordedChunk]:
        """Return the chunks that still wait."""
        return self._give(lambda since_ns: True)

    def _take(self, topic: str, receive_ns: int, data: bytes) -> None:
        if topic in self._stream_of:
            name = self._stream_of[topic]
            decoded = self._decoder.decode_cdr(name, data, self._read)
            # The newest with a stamp: a robot in lockstep counts anew when it is started again.
            _keep(self._values[name], decoded.stamp_ns, decoded.values)
        elif topic == self._step_topic:
            step = decode_step(self._read(data, JOINT_STATE), self._contract)
            _keep(self._rows, step.stamp_ns, step.action)
        elif topic == self._chunk_topic:
            record = decode_chunk(self._read(data, JOINT_TRAJECTORY), self._contract)
            self._pending.append((record, receive_ns))

    def _give(self, given_up: Callable[[int], bool]) -> list[RecordedChunk]:
        ready = []
        while self._pending:
            record, since_ns = self._pending[0]
            chunk = self._observe(record)
            if chunk.missing and not given_up(since_ns):
                break
            ready.append(chunk)
            del self._pending[0]
        return ready

    def _observe(self, record: ChunkRecord) -> RecordedChunk:
        stamps, values = record.observation_stamps, {}
        for name in self._contract.streams:
            if stamps.get(name) == 0:
                missing = f'stream {name!r}: without stamps it is not known which one was used'
                return RecordedChunk(record, None, missing)
            found = self._values[name].get(stamps[name]) if name in stamps else None
            if found is None:
                stamp = stamps.get(name, 'none')
                return RecordedChunk(record, None, f'stream {name!r}: no message stamped {stamp}')
            values[name] = found
        previous: np.ndarray | NoRow = NO_ROW
        if STEP_TOPIC in stamps:
            if stamps[STEP_TOPIC] not in self._rows:
                missing = f'no step stamped {stamps[STEP_TOPIC]}'
                return RecordedChunk(record, None, missing)
            previous = self._rows[stamps[STEP_TOPIC]]
        return RecordedChunk(record, self._decoder.observation(values, previous))


def recorded_chunks(
    bag: str | Path, contract: Contract, namespace: str = ''
) -> Iterator[RecordedChunk]:
    """Yield the chunks of a recording.

    Raises:
        BagError: missing or damaged.
    """
    observations = ChunkObservations(contract, namespace)
    for topic, receive_ns, data in read_bag(bag, observations.topics):
        yield from observations.push(topic, receive_ns, data)
    yield from observations.finish()


def _keep(messages: dict[int, np.ndarray], stamp_ns: int, values: np.ndarray) -> None:
    messages.pop(stamp_ns, None)
    messages[stamp_ns] = values
    if len(messages) > _KEPT:
        del messages[next(iter(messages))]
