# SPDX-License-Identifier: Apache-2.0
"""Sensor messages to ``observation.state``.

Works on rclpy's message objects and on those of the rosbags library alike: only attributes
are read. Imports neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcfql_ros.contract import topics
from qcfql_ros.contract.malformed import refuses_malformed
from qcfql_ros.contract.observation import state_places
from qcfql_ros.contract.previous import NoRow, first_row
from qcfql_ros.contract.schema import Contract, Entry, Stream
from qcfql_ros.errors import ContractError, MessageError, nearest

# Where the fields of a vector message lie; '' for the message itself.
_VECTORS = {
    topics.POSE: '',
    topics.POSE_STAMPED: 'pose',
    topics.TWIST: '',
    topics.TWIST_STAMPED: 'twist',
    topics.WRENCH: '',
    topics.WRENCH_STAMPED: 'wrench',
    topics.IMU: '',
}
UNIT_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class DecodedMessage:
    """One sensor message as numbers.

    Attributes:
        stamp_ns: header stamp; 0 where the sender left it empty.
        values: (n,) float64, the numbers that this stream adds to the state, in file order.
    """

    stamp_ns: int
    values: np.ndarray


class Decoder:
    """Decodes the streams of one contract. Keeps the joint order it saw last: one a thread."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._streams: dict[str, _StreamDecoder] = {}
        places = state_places(contract.streams, contract.state, contract.action.names)
        self._places = {name: np.array(p, dtype=np.intp) for name, p in places.streams.items()}
        self._previous = places.previous
        for name, stream in contract.streams.items():
            entries = [entry for entry in contract.state if entry.stream == name]
            self._streams[name] = _decoder_of(stream.type)(stream, entries)

    @refuses_malformed
    def decode_message(self, stream: str, message: Any) -> DecodedMessage:
        """Return the numbers of a message of `stream`.

        Raises:
            MessageError: a joint is missing, an array has another length, a number is not
                finite, an orientation is no rotation. Names topic and field.
        """
        return DecodedMessage(stamp_of(message), self._streams[stream].values(message))

    def decode_cdr(
        self, stream: str, data: bytes, deserialize: Callable[[bytes, str], Any]
    ) -> DecodedMessage:
        """Return the numbers of a serialised message of `stream`.

        Args:
            stream: name of the stream in the contract.
            data: the message as it was on the wire.
            deserialize: ``deserialize(data, 'package/msg/Name')`` gives a message object.

        Raises:
            MessageError: as `decode_message`.
        """
        return self.decode_message(stream, deserialize(data, self.contract.streams[stream].type))

    def observation(
        self,
        values_by_stream: Mapping[str, np.ndarray],
        previous: np.ndarray | NoRow | None = None,
    ) -> np.ndarray:
        """Return ``observation.state``, (state_dim,) float32.

        Args:
            values_by_stream: `DecodedMessage.values` of every stream of the contract.
            previous: (action_dim,) float32, the action row executed before, or `NO_ROW`; not
                needed where the contract does not want it.

        Raises:
            ContractError: a stream is missing, or `previous`; it is never filled in.
        """
        state = np.empty(self.contract.state_dim, dtype=np.float32)
        for name, places in self._places.items():
            if name not in values_by_stream:
                raise ContractError(f'{self.contract.file}: no message of stream {name!r}')
            with np.errstate(over='ignore'):  # infinite: for the caller to see
                state[places] = values_by_stream[name]
        if self._previous:
            if previous is None:
                raise ContractError(
                    f'{self.contract.file}: observation.state has the previous action, which is '
                    'not known here'
                )
            if isinstance(previous, NoRow):
                previous = first_row(self.contract, values_by_stream)
            for part, numbers in self._previous:
                state[part] = previous[numbers]
        return state


def stamp_of(message: Any) -> int:
    """Return the header stamp of `message` in ns; 0 of a type without a header."""
    if not hasattr(message, 'header'):
        return 0
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


class _StreamDecoder:
    """Shared by the decoders of one stream: the linear map and the check for finite numbers."""

    def __init__(self, stream: Stream, entries: Sequence[Entry]) -> None:
        self.stream = stream
        self.entries = entries
        self.offset = np.array([o for e in entries for o in e.offset])
        self.scale = np.array([s for e in entries for s in e.scale])

    def error(self, text: str) -> MessageError:
        return MessageError(f'topic {self.stream.topic!r}: {text}')

    def values(self, message: Any) -> np.ndarray:
        raise NotImplementedError

    def refuse_non_finite(self, entry: Entry, raw: Sequence[float]) -> None:
        names = entry.names or (('value',) if len(raw) == 1 else ('x', 'y', 'z', 'w'))
        for name, number in zip(names, raw, strict=True):
            if not math.isfinite(number):
                raise self.error(f'{entry.field} of {name!r} is {float(number)}, wanted finite')


class _JointStateDecoder(_StreamDecoder):
    """Values by joint name, in whatever order the message has them."""

    _order: list[str] | None = None
    _index: list[np.ndarray]

    def values(self, message: Any) -> np.ndarray:
        names = message.name
        if names != self._order:
            self._index = [self._find(entry, list(names)) for entry in self.entries]
            self._order = list(names)
        parts = []
        for entry, index in zip(self.entries, self._index, strict=True):
            numbers = getattr(message, entry.field)
            if len(numbers) != len(names):
                raise self.error(
                    f'{entry.field} has {len(numbers)} numbers for {len(names)} joint names'
                )
            parts.append(np.asarray(numbers, dtype=np.float64)[index])
        raw = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if not math.isfinite(raw.sum()):
            for entry, part in zip(self.entries, parts, strict=True):
                self.refuse_non_finite(entry, part)
        return (raw + self.offset) * self.scale

    def _find(self, entry: Entry, names: list[str]) -> np.ndarray:
        for name in entry.names:
            if names.count(name) != 1:
                raise self.error(
                    f'joint {name!r} is there {names.count(name)} times, wanted once, '
                    f'among {names}{nearest(name, names)}'
                )
        return np.array([names.index(name) for name in entry.names], dtype=np.intp)


class _NumberDecoder(_StreamDecoder):
    """The one number of a message; of a bool 0 or 1."""

    def values(self, message: Any) -> np.ndarray:
        raw = 0.0 + message.data
        if not math.isfinite(raw):
            self.refuse_non_finite(self.entries[0], [raw])
        return (np.full(len(self.entries), raw) + self.offset) * self.scale


class _ArrayDecoder(_StreamDecoder):
    """Numbers of an array by their place; how many there are must be as the contract says."""

    def __init__(self, stream: Stream, entries: Sequence[Entry]) -> None:
        super().__init__(stream, entries)
        self._index = [np.array(entry.index, dtype=np.intp) for entry in entries]

    def values(self, message: Any) -> np.ndarray:
        if message.layout.data_offset != 0:
            raise self.error(f'data_offset is {message.layout.data_offset}, wanted 0')
        length = self.entries[0].length
        if len(message.data) != length:
            raise self.error(f'data has {len(message.data)} numbers, wanted {length}')
        numbers = np.asarray(message.data, dtype=np.float64)
        parts = [numbers[index] for index in self._index]
        for entry, part in zip(self.entries, parts, strict=True):
            if not math.isfinite(part.sum()):
                self.refuse_non_finite(entry, part.tolist())
        return (np.concatenate(parts) + self.offset) * self.scale


class _VectorDecoder(_StreamDecoder):
    """Position, orientation, linear, angular, force, torque of a message, and an IMU's."""

    def values(self, message: Any) -> np.ndarray:
        where = _VECTORS[self.stream.type]
        body = getattr(message, where) if where else message
        numbers: list[float] = []
        for entry in self.entries:
            if self.stream.type == topics.IMU:
                self._refuse_unknown(entry, message)
            part = getattr(body, entry.field)
            if entry.form == 'plain':
                raw = [getattr(part, name) for name in entry.names]
            else:
                raw = [part.x, part.y, part.z, part.w]
            if not math.isfinite(sum(raw)):
                self.refuse_non_finite(entry, raw)
            numbers += raw if entry.form == 'plain' else self._orientation(entry, raw)
        return (np.array(numbers) + self.offset) * self.scale

    def _refuse_unknown(self, entry: Entry, message: Any) -> None:
        if getattr(message, f'{entry.field}_covariance')[0] == -1.0:
            raise self.error(f'{entry.field}: its covariance begins with -1: it is not measured')

    def _orientation(self, entry: Entry, xyzw: list[float]) -> list[float]:
        x, y, z, w = xyzw
        norm = math.sqrt(x * x + y * y + z * z + w * w)
        if abs(norm - 1.0) > UNIT_TOLERANCE:
            raise self.error(f'orientation has norm {norm:.4g}, wanted 1 (a rotation)')
        if entry.form == 'xyzw':
            return xyzw
        if entry.form == 'wxyz':
            return [w, x, y, z]
        yaw = math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
        return [math.cos(yaw), math.sin(yaw)]


def _decoder_of(type_name: str) -> type[_StreamDecoder]:
    if type_name == topics.JOINT_STATE:
        return _JointStateDecoder
    if type_name in topics.NUMBER_TYPES:
        return _NumberDecoder
    return _ArrayDecoder if type_name in topics.ARRAY_TYPES else _VectorDecoder
