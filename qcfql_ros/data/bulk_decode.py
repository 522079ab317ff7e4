# SPDX-License-Identifier: Apache-2.0
"""Many messages of one topic to columns of numbers, without a Python object for each.

What is like none of the others, and every number that is not as it must be, goes through the
decoders for one message. They are the definition: numbers and refusals here are theirs, bit for
bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcfql_ros.contract import topics
from qcfql_ros.contract.decode import UNIT_TOLERANCE, Decoder
from qcfql_ros.contract.named_vector import LARGEST_COUNT
from qcfql_ros.contract.schema import Contract, Entry
from qcfql_ros.data.alike import Alike, lay_out
from qcfql_ros.data.alike_numbers import DTYPES
from qcfql_ros.data.cdr import CdrReader
from qcfql_ros.errors import MessageError

# Where the components of a vector field lie among the numbers of its message.
_POSE = {'position': (0, 'xyz'), 'orientation': (3, 'xyzw')}
_TWIST = {'linear': (0, 'xyz'), 'angular': (3, 'xyz')}
_WRENCH = {'force': (0, 'xyz'), 'torque': (3, 'xyz')}
_VECTORS: dict[str, dict[str, tuple[int, str]]] = {
    topics.POSE: _POSE,
    topics.POSE_STAMPED: _POSE,
    topics.TWIST: _TWIST,
    topics.TWIST_STAMPED: _TWIST,
    topics.WRENCH: _WRENCH,
    topics.WRENCH_STAMPED: _WRENCH,
    topics.IMU: {
        'orientation': (0, 'xyzw'),
        'angular_velocity': (13, 'xyz'),
        'linear_acceleration': (25, 'xyz'),
    },
}


@dataclass(frozen=True, eq=False)
class StreamColumns:
    """The messages of one stream.

    Attributes:
        stamp_ns: (n,) int64, header stamps; 0 where the sender left it empty.
        values: (n, k) float64, what they add to the state.
        good: (n,) bool; the others cannot be used.
    """

    stamp_ns: np.ndarray
    values: np.ndarray
    good: np.ndarray


class StreamDecoder:
    """Decodes the messages of one stream of a contract in bulk.

    Args:
        contract: says what the numbers mean.
        stream: name of the stream.
        decoder: for one message.
        read: as `decoder` needs it.

    Attributes:
        width: how many numbers it adds to the state.
    """

    def __init__(self, contract: Contract, stream: str, decoder: Decoder, read: CdrReader) -> None:
        self._stream, self._type = stream, contract.streams[stream].type
        self._decoder, self._read = decoder, read
        self._entries = [entry for entry in contract.state if entry.stream == stream]
        self._offset = np.array([o for e in self._entries for o in e.offset])
        self._scale = np.array([s for e in self._entries for s in e.scale])
        self.width = len(self._scale)

    def __call__(self, data: Sequence[bytes]) -> StreamColumns:
        """Return the columns of messages in CDR."""
        columns = StreamColumns(
            np.zeros(len(data), np.int64),
            np.zeros((len(data), self.width)),
            np.zeros(len(data), bool),
        )
        alike, single = lay_out(data, self._type, self._read)
        for group in alike:
            stamps, good = group.stamps()
            values = self._values(group, good)
            if values is None or not self._agrees(data, group, values, good):
                single += group.index.tolist()
                continue
            columns.stamp_ns[group.index], columns.values[group.index] = stamps, values
            columns.good[group.index] = good
            single += group.index[~good].tolist()
        for i in single:
            try:
                decoded = self._decoder.decode_cdr(self._stream, data[i], self._read)
            except MessageError:
                continue
            columns.stamp_ns[i], columns.values[i] = decoded.stamp_ns, decoded.values
            columns.good[i] = True
        return columns

    def _agrees(
        self, data: Sequence[bytes], group: Alike, values: np.ndarray, good: np.ndarray
    ) -> bool:
        """Hold the first of a group against the decoder for one message."""
        for row in np.flatnonzero(good)[:1].tolist():
            message = data[group.index[row]]
            decoded = self._decoder.decode_cdr(self._stream, message, self._read)
            return decoded.values.tobytes() == values[row].tobytes()
        return True

    def _values(self, group: Alike, good: np.ndarray) -> np.ndarray | None:
        """Return (m, k) float64, and clear `good` where a number is not as it must be."""
        parts: list[np.ndarray] = []
        for entry in self._entries:
            if self._type == topics.JOINT_STATE:
                raw = _joints(entry, group)
            elif self._type in DTYPES:
                raw = _elements(entry, group)
                if self._type == topics.BOOL:
                    good &= group.numbers('')[:, 0] <= 1
            else:
                raw = _components(entry, group, self._type)
                if self._type == topics.IMU:  # -1 begins the covariance of what is not measured
                    start, letters = _VECTORS[topics.IMU][entry.field]
                    good &= group.numbers('')[:, start + len(letters)] != -1.0
            if raw is None:
                return None
            good &= np.isfinite(raw).all(axis=1)
            parts += [raw] if entry.form == 'plain' else _orientation(entry.form, raw, good)
        with np.errstate(all='ignore'):  # of rows that are not good
            return (np.concatenate(parts, axis=1) + self._offset) * self._scale


def _joints(entry: Entry, group: Alike) -> np.ndarray | None:
    names = group.layout.names
    if group.layout.numbers[entry.field][1] != len(names):
        return None
    if any(names.count(name) != 1 for name in entry.names):
        return None
    return group.numbers(entry.field)[:, [names.index(name) for name in entry.names]]


def _elements(entry: Entry, group: Alike) -> np.ndarray | None:
    if not entry.length:
        return group.numbers('')
    if group.layout.numbers[''][1] != entry.length:
        return None
    return group.numbers('')[:, list(entry.index)]


def _components(entry: Entry, group: Alike, type_name: str) -> np.ndarray | None:
    start, letters = _VECTORS[type_name].get(entry.field, (0, ''))
    names = entry.names if entry.form == 'plain' else 'xyzw'
    if any(name not in letters for name in names):
        return None
    return group.numbers('')[:, [start + letters.index(name) for name in names]]


def _orientation(form: str, xyzw: np.ndarray, good: np.ndarray) -> list[np.ndarray]:
    x, y, z, w = xyzw.T
    with np.errstate(all='ignore'):
        norm = np.sqrt(x * x + y * y + z * z + w * w)
        good &= ~(np.abs(norm - 1.0) > UNIT_TOLERANCE)
        if form != 'cos_sin_yaw':
            return [xyzw if form == 'xyzw' else xyzw[:, [3, 0, 1, 2]]]
        sine, cosine = 2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)
    # numpy's own functions may differ from these in the last bit.
    yaws = [
        math.atan2(a, b) if usable else 0.0
        for a, b, usable in zip(sine.tolist(), cosine.tolist(), good.tolist(), strict=True)
    ]
    pairs = [list(map(math.cos, yaws)), list(map(math.sin, yaws))]
    return [np.array(pairs).reshape(2, -1).T]


class NamedVectors:
    """Decodes the stamped named vectors of one topic in bulk.

    Args:
        kinds: what each name has: ``real``; ``float32``; ``flag``; ``count`` from 0, ``index``
            from -1.
        optional: names that may be missing, in all messages of a layout; a column of NaN then.
        scalar: decodes one message; returns its stamp and its numbers in the order of `kinds`.
        read: for `scalar`, and to see the layout.
    """

    def __init__(
        self,
        kinds: dict[str, str],
        optional: frozenset[str],
        scalar: Callable[[Any], tuple[int, Sequence[float]]],
        read: CdrReader,
    ) -> None:
        self._kinds, self._optional = kinds, optional
        self._scalar, self._read = scalar, read

    def __call__(self, data: Sequence[bytes]) -> StreamColumns:
        """Return the columns of messages in CDR; values are (n, names)."""
        columns = StreamColumns(
            np.zeros(len(data), np.int64),
            np.zeros((len(data), len(self._kinds))),
            np.zeros(len(data), bool),
        )
        alike, single = lay_out(data, topics.JOINT_STATE, self._read)
        for group in alike:
            names = group.layout.names
            place = {name: number for number, name in enumerate(names)}  # the last of equal ones
            missing = self._kinds.keys() - place.keys()
            if group.layout.numbers['position'][1] != len(names) or missing - self._optional:
                single += group.index.tolist()
                continue
            stamps, good = group.stamps()
            numbers = group.numbers('position')
            values = np.full((len(numbers), len(self._kinds)), np.nan)
            for column, (name, kind) in enumerate(self._kinds.items()):
                if name in place:
                    values[:, column] = numbers[:, place[name]]
                    good &= _fits(values[:, column], kind)
            columns.stamp_ns[group.index], columns.values[group.index] = stamps, values
            columns.good[group.index] = good
            single += group.index[~good].tolist()
        for i in single:
            try:
                stamp_ns, numbers_of = self._scalar(self._read(data[i], topics.JOINT_STATE))
            except MessageError:
                continue
            columns.stamp_ns[i], columns.values[i] = stamp_ns, numbers_of
            columns.good[i] = True
        return columns


def _fits(values: np.ndarray, kind: str) -> np.ndarray:
    """Return which numbers are what they must be, (n,) bool."""
    if kind == 'flag':
        return (values == 0.0) | (values == 1.0)
    if kind == 'real':
        return np.isfinite(values)
    if kind == 'float32':
        with np.errstate(over='ignore'):
            return np.isfinite(values.astype(np.float32))
    lowest = -1.0 if kind == 'index' else 0.0
    return (values == np.floor(values)) & (values >= lowest) & (values <= LARGEST_COUNT)
