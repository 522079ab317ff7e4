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
from qcfql_ros.contract.previous import NoRow, first_row
from qcfql_ros.contract.schema import Contract, Entry, Stream
from qcfql_ros.errors import ContractError, MessageError, nearest

_VECTORS = {
    topics.POSE_STAMPED: 'pose',
    topics.TWIST_STAMPED: 'twist',
    topics.WRENCH_STAMPED: 'wrench',
}
_UNIT_TOLERANCE = 0.02


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
        places: dict[str, list[int]] = {name: [] for name in contract.streams}
        position = 0
        self._previous: list[tuple[slice, list[int]]] = []
        for entry in contract.state:
            if entry.is_previous:
                numbers = [contract.action.names.index(name) for name in entry.names]
                self._previous.append((slice(position, position + entry.size), numbers))
            else:
                places[entry.stream] += range(position, position + entry.size)
            position += entry.size
        self._places = {name: np.array(p, dtype=np.intp) for name, p in places.items()}
        for name, stream in contract.streams.items():
            entries = [entry for entry in contract.state if entry.stream == name]
            kind = _JointStateDecoder if stream.type == topics.JOINT_STATE else _VectorDecoder
            self._streams[name] = kind(stream, entries)

    @refuses_malformed
    def decode_message(self, stream: str, message: Any) -> DecodedMessage:
        """Return the numbers of a message of `stream`.

        Raises:
            MessageError: a joint is missing, a number is not finite, an orientation is no
                rotation. Names topic and field.
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
    """Return the header stamp of `message` in ns."""
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
        names = entry.names or ('x', 'y', 'z', 'w')
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


class _VectorDecoder(_StreamDecoder):
    """Position, orientation, linear, angular, force, torque of a stamped message."""

    def values(self, message: Any) -> np.ndarray:
        body = getattr(message, _VECTORS[self.stream.type])
        numbers: list[float] = []
        for entry in self.entries:
            part = getattr(body, entry.field)
            if entry.form == 'plain':
                raw = [getattr(part, name) for name in entry.names]
            else:
                raw = [part.x, part.y, part.z, part.w]
            if not math.isfinite(sum(raw)):
                self.refuse_non_finite(entry, raw)
            numbers += raw if entry.form == 'plain' else self._orientation(entry, raw)
        return (np.array(numbers) + self.offset) * self.scale

    def _orientation(self, entry: Entry, xyzw: list[float]) -> list[float]:
        x, y, z, w = xyzw
        norm = math.sqrt(x * x + y * y + z * z + w * w)
        if abs(norm - 1.0) > _UNIT_TOLERANCE:
            raise self.error(f'orientation has norm {norm:.4g}, wanted 1 (a rotation)')
        if entry.form == 'xyzw':
            return xyzw
        if entry.form == 'wxyz':
            return [w, x, y, z]
        yaw = math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
        return [math.cos(yaw), math.sin(yaw)]
