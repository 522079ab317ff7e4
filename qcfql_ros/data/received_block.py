# SPDX-License-Identifier: Apache-2.0
"""Many messages of a recording as columns, a set of them for each topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcfql_ros.contract.chunk_record import ChunkRecord
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.named_vector import (
    META_KINDS,
    OUTCOME_KINDS,
    Outcome,
    StepRecord,
    decode_outcome,
    decode_step,
    outcome_values,
    step_values,
)
from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import CHUNK_TOPIC, STEP_TOPIC, absolute
from qcfql_ros.data.bag_file import Message
from qcfql_ros.data.bulk_chunks import decode_chunks
from qcfql_ros.data.bulk_decode import NamedVectors, StreamDecoder
from qcfql_ros.data.cdr import CdrReader
from qcfql_ros.data.session_mark import session_topic

_OF_KIND = {'real': float, 'flag': bool, 'count': int, 'index': int}


@dataclass(eq=False)
class Columns:
    """The messages of one topic, in order.

    Attributes:
        at: (n,) int64, which messages of the block they are.
        stamp_ns: (n,) int64.
        receive_ns: (n,) int64.
        values: (n, k) float64.
    """

    at: np.ndarray
    stamp_ns: np.ndarray
    receive_ns: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        """Return the number of messages."""
        return len(self.at)

    def between(self, first: int, stop: int) -> Columns:
        """Return those of the messages `first` to before `stop` of the block."""
        part = slice(*np.searchsorted(self.at, (first, stop)).tolist())
        return Columns(
            self.at[part], self.stamp_ns[part], self.receive_ns[part], self.values[part]
        )

    def after(self, earlier: Columns) -> Columns:
        """Return `earlier` ones, and these."""
        if not len(earlier):
            return self
        return Columns(
            np.concatenate([earlier.at, self.at]),
            np.concatenate([earlier.stamp_ns, self.stamp_ns]),
            np.concatenate([earlier.receive_ns, self.receive_ns]),
            np.concatenate([earlier.values, self.values]),
        )


class ReceivedBlock:
    """Messages in the order of the recording.

    Args:
        messages: of the recording.
        decoders: how to decode them.

    Attributes:
        receive_ns: (n,) int64.
        odd: (n,) bool: out of the ordinary, to be looked at by the assembler itself: they cannot
            be decoded, begin a session, or their stamp is not above that of the one before.
        streams: by name.
        steps: values are the action and then `META_KINDS`.
        outcomes: values are `OUTCOME_KINDS`.
        chunks: without values.
        chunk_records: of each row of `chunks`.

    Raises:
        OverflowError: a receive stamp does not fit 63 bits.
    """

    def __init__(self, messages: Sequence[Message], decoders: BlockDecoders) -> None:
        count = len(messages)
        topics, receives, _, self._data = zip(*messages, strict=True)
        self.receive_ns = np.array(receives, np.int64)
        self.odd = np.zeros(count, bool)
        self.odd[1:] = self.receive_ns[1:] < self.receive_ns[:-1]
        numbers = np.fromiter(map(decoders.numbers.__getitem__, topics), np.int16, count)
        self.odd |= numbers == decoders.session
        self.streams: dict[str, Columns] = {}
        for name, (number, decode) in decoders.streams.items():
            self.streams[name] = self._columns(numbers, number, decode, unstamped=True)
        self.steps = self._columns(numbers, decoders.step, decoders.decode_step)
        self.outcomes = self._columns(numbers, decoders.outcome, decoders.decode_outcome)
        outcome = dict(zip(OUTCOME_KINDS, self.outcomes.values.T, strict=True))  # views
        untold = np.isnan(outcome['ended'])
        ends = np.maximum(outcome['terminated'], outcome['truncated'])
        outcome['ended'][untold] = ends[untold]
        self.chunk_records: list[ChunkRecord | None] = []
        self.chunks = self._chunks(numbers, decoders)

    def _columns(
        self,
        numbers: np.ndarray,
        number: int,
        decode: StreamDecoder | NamedVectors,
        unstamped: bool = False,
    ) -> Columns:
        at = np.flatnonzero(numbers == number)
        decoded = decode([self._data[i] for i in at.tolist()])
        receive_ns = self.receive_ns[at]
        stamp_ns = decoded.stamp_ns
        if unstamped:
            stamp_ns = np.where(stamp_ns == 0, receive_ns, stamp_ns)
        self.odd[at[~decoded.good]] = True
        return self._rising(Columns(at, stamp_ns, receive_ns, decoded.values))

    def _chunks(self, numbers: np.ndarray, decoders: BlockDecoders) -> Columns:
        at = np.flatnonzero(numbers == decoders.chunk)
        self.chunk_records = decoders.decode_chunks([self._data[i] for i in at.tolist()])
        self.odd[at] |= np.array([record is None for record in self.chunk_records], bool)
        stamps = np.array([r.stamp_ns if r else 0 for r in self.chunk_records], np.int64)
        return self._rising(Columns(at, stamps, self.receive_ns[at], np.zeros((len(at), 0))))

    def _rising(self, columns: Columns) -> Columns:
        falls = columns.stamp_ns[1:] <= columns.stamp_ns[:-1]
        self.odd[columns.at[1:][falls]] = True
        return columns


class _Numbers(dict[str, int]):
    """Number of each topic, 0 for one that makes no steps."""

    def __missing__(self, topic: str) -> int:
        return 0


class BlockDecoders:
    """Decodes the topics of one robot that make steps.

    Args:
        contract: what the messages mean.
        namespace: of the robot's topics.

    Attributes:
        numbers: by which the topics are told apart.
        streams: number and decoder of each stream.
    """

    session, step, outcome, chunk = 1, 2, 3, 4

    def __init__(self, contract: Contract, namespace: str = '') -> None:
        self._contract = contract
        self._read = read = CdrReader()
        actions = [f'action.{name}' for name in contract.action.names]
        decoder = Decoder(contract)
        self.numbers = _Numbers()
        self.streams = {}
        # In the order in which the assembler looks a topic up, the last one first.
        self.numbers[session_topic(namespace)] = self.session
        self.numbers[absolute(CHUNK_TOPIC, namespace)] = self.chunk
        self.numbers[absolute(STEP_TOPIC, namespace)] = self.step
        self.numbers[absolute(contract.outcome.topic, namespace)] = self.outcome
        for number, stream in enumerate(contract.streams.values(), 5):
            self.numbers[absolute(stream.topic, namespace)] = number
            self.streams[stream.name] = (
                number,
                StreamDecoder(contract, stream.name, decoder, read),
            )
        step_kinds = dict.fromkeys(actions, 'float32') | META_KINDS
        self.decode_step = NamedVectors(step_kinds, frozenset(), self._step, read)
        self.decode_outcome = NamedVectors(
            OUTCOME_KINDS, frozenset({'ended'}), self._outcome, read
        )

    @property
    def widths(self) -> dict[str, int]:
        """How many numbers each stream adds to the state."""
        return {name: decode.width for name, (_, decode) in self.streams.items()}

    def decode_chunks(self, data: Sequence[bytes]) -> list[ChunkRecord | None]:
        """Return the chunk in each message; None where there is none."""
        return decode_chunks(data, self._contract, self._read)

    def _step(self, message: object) -> tuple[int, list[float]]:
        record = decode_step(message, self._contract)
        return record.stamp_ns, step_values(record)

    def _outcome(self, message: object) -> tuple[int, list[float]]:
        outcome = decode_outcome(message)
        return outcome.stamp_ns, outcome_values(outcome)


def step_record(stamp_ns: int, values: np.ndarray) -> StepRecord:
    """Return the step in a row of `ReceivedBlock.steps`."""
    action, meta = np.split(values, [-len(META_KINDS)])
    return StepRecord(stamp_ns, action.astype(np.float32), **_fields(META_KINDS, meta))


def outcome_record(stamp_ns: int, values: np.ndarray) -> Outcome:
    """Return the outcome in a row of `ReceivedBlock.outcomes`."""
    return Outcome(stamp_ns, **_fields(OUTCOME_KINDS, values))


def _fields(kinds: Mapping[str, str], values: np.ndarray) -> dict[str, Any]:
    return {
        name.removeprefix('meta.'): _OF_KIND[kind](value)
        for (name, kind), value in zip(kinds.items(), values.tolist(), strict=True)
    }
