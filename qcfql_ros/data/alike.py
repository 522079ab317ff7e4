# SPDX-License-Identifier: Apache-2.0
"""Messages that differ in stamp and numbers only, side by side.

Those of one length make a matrix of bytes; the layout is that of the first; where all other bytes
are as in the first, stamps and numbers are columns::

    row 0   head | stamp | frame_id | names ... | count | numbers ...      the template
    row 1   ==== |       | ======== | ========= | ===== |                  alike
    row 2   ==== |       | ======== | ===X===== | ===== |                  a template of its own
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qcfql_ros.contract import topics
from qcfql_ros.data.alike_numbers import DTYPES, number_layout
from qcfql_ros.data.cdr import CdrReader
from qcfql_ros.data.cdr_cursor import FLOAT64
from qcfql_ros.errors import MessageError

_U32 = struct.Struct('<I')
_TEMPLATES = 8  # of one length
_FEW = 3  # as many are sooner decoded one by one
_FIELDS = ('position', 'velocity', 'effort')
_NAMED = (topics.JOINT_STATE, topics.JOINT_TRAJECTORY)
# How many numbers follow the header, or the head where there is none.
_VECTORS = {
    topics.POSE: 7,
    topics.POSE_STAMPED: 7,
    topics.TWIST: 6,
    topics.TWIST_STAMPED: 6,
    topics.WRENCH: 6,
    topics.WRENCH_STAMPED: 6,
    topics.IMU: 37,
}


class Layout(NamedTuple):
    """What the messages that are alike have in common.

    Attributes:
        fixed: bytes that are as in the template; padding, stamp and numbers are not.
        names: joint names; none of a vector message.
        numbers: (offset in bytes, count) of the numbers of each field; of a trajectory, whose
            frame_id may differ, of the positions of each point.
        stamped: has a header.
        dtype: of the numbers.
    """

    fixed: tuple[slice, ...]
    names: tuple[str, ...]
    numbers: dict[str, tuple[int, int]]
    stamped: bool = True
    dtype: np.dtype = FLOAT64


@dataclass(frozen=True, eq=False)
class Alike:
    """Messages with one layout.

    Attributes:
        index: (m,) int64, ascending: which of the messages they are.
        rows: (m, bytes) uint8.
        layout: of each row.
    """

    index: np.ndarray
    rows: np.ndarray
    layout: Layout

    def stamps(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the header stamps in ns, (m,) int64, and which of them are stamps.

        All 0 where the type has none.
        """
        if not self.layout.stamped:
            return np.zeros(len(self.rows), np.int64), np.ones(len(self.rows), bool)
        raw = np.ascontiguousarray(self.rows[:, 4:12])
        sec, nanosec = raw.view('<i4')[:, 0], raw.view('<u4')[:, 1]
        stamps = sec.astype(np.int64) * 1_000_000_000 + nanosec
        return stamps, nanosec < 1_000_000_000

    def frame_ids(self) -> list[bytes]:
        """Return the frame_id of each row, with the 0 at its end."""
        stop = 16 + _U32.unpack(self.rows[0, 12:16].tobytes())[0]
        return [row.tobytes() for row in self.rows[:, 16:stop]]

    def numbers(self, field: str) -> np.ndarray:
        """Return the numbers of a field, (m, count) float64."""
        (start, count), dtype = self.layout.numbers[field], self.layout.dtype
        part = np.ascontiguousarray(self.rows[:, start : start + dtype.itemsize * count])
        return part.view(dtype).reshape(len(part), count).astype(np.float64, copy=False)


def lay_out(
    data: Sequence[bytes], type_name: str, read: CdrReader
) -> tuple[list[Alike], list[int]]:
    """Sort messages into those that are alike.

    Args:
        data: CDR bytes of messages of one topic.
        type_name: their type.
        read: decides whether the first of each layout is a message of that type.

    Returns:
        The layouts, and the numbers of the messages that have none of them.
    """
    alike: list[Alike] = []
    single: list[int] = []
    if not (type_name in _NAMED or type_name in _VECTORS or type_name in DTYPES):
        return alike, list(range(len(data)))
    lengths = np.fromiter(map(len, data), np.int64, len(data))
    for length in np.unique(lengths).tolist():
        index = np.flatnonzero(lengths == length)
        if len(index) <= _FEW:
            single += index.tolist()
            continue
        chosen = data if len(index) == len(data) else [data[i] for i in index.tolist()]
        rows: np.ndarray = np.frombuffer(b''.join(chosen), np.uint8).reshape(len(index), length)
        for _ in range(_TEMPLATES):
            if not len(index):
                break
            layout = _layout(data[index[0]], type_name, read)
            if layout is None:
                single.append(int(index[0]))
                index, rows = index[1:], rows[1:]
                continue
            same = _same(rows, layout)
            if same is None:
                alike.append(Alike(index, rows, layout))
                index = index[:0]
            else:
                alike.append(Alike(index[same], rows[same], layout))
                index, rows = index[~same], rows[~same]
        single += index.tolist()
    return alike, single


def _same(rows: np.ndarray, layout: Layout) -> np.ndarray | None:
    """Return which rows are like the first, (m,) bool; None for all."""
    unlike = [part for part in layout.fixed if not (rows[:, part] == rows[0, part]).all()]
    if not unlike:
        return None
    same = np.ones(len(rows), bool)
    for part in unlike:
        same &= (rows[:, part] == rows[0, part]).all(axis=1)
    return same


def _layout(data: bytes, type_name: str, read: CdrReader) -> Layout | None:
    """Return the layout of a message; None where it is none of its type."""
    try:
        message = read(data, type_name)
    except MessageError:
        return None
    if type_name in DTYPES:
        found = number_layout(data, message, type_name)
        if found is None:
            return None
        numbers = {'': (found.start, found.size)}
        return Layout(found.fixed, (), numbers, stamped=False, dtype=DTYPES[type_name])
    if type_name in topics.UNSTAMPED:
        return Layout((slice(0, 2),), (), {'': (4, _VECTORS[type_name])}, stamped=False)
    at = 16 + _U32.unpack_from(data, 12)[0]
    fixed = [slice(0, 2), slice(12, at)]
    if type_name in _VECTORS:
        start = at + (4 - at) % 8  # alignment counts from byte 4
        return Layout(tuple(fixed), (), {'': (start, _VECTORS[type_name])})

    def count() -> int:
        nonlocal at
        at += -at % 4
        fixed.append(slice(at, at + 4))
        at += 4
        number: int = _U32.unpack_from(data, at - 4)[0]
        return number

    def sequence() -> tuple[int, int]:
        nonlocal at
        size = count()
        if size:
            at += (4 - at) % 8
        start = at
        at += 8 * size
        return start, size

    for _ in range(count()):
        size = count()
        fixed.append(slice(at, at + size))
        at += size
    if type_name == topics.JOINT_STATE:
        numbers = {name: sequence() for name in _FIELDS}
        return Layout(tuple(fixed), tuple(message.name), numbers)
    fixed[1] = slice(12, 16)  # of the frame_id, only how long it is
    numbers = {}
    for point in range(count()):
        numbers[f'{point}'] = sequence()
        for _ in range(3):
            sequence()
        at += -at % 4 + 8  # the time from start
    return Layout(tuple(fixed), tuple(message.joint_names), numbers)
