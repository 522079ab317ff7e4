# SPDX-License-Identifier: Apache-2.0
"""The message types that steps are made of, read straight from their CDR bytes.

One reader for live and recorded messages, with neither ROS nor rosbags. The objects have the
attributes of the ROS message classes, which is all that ``contract.decode`` asks. What lies where
is in `cdr_types`.

Joint states of one publisher differ in stamp and numbers only. So the layout of the last ones is
kept, and a message that repeats it costs a comparison of bytes, not a walk through its names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from qcfql_ros.contract import topics
from qcfql_ros.data.cdr_cursor import HEAD, STAMP, Cursor, read_stamp
from qcfql_ros.data.cdr_types import READERS
from qcfql_ros.data.messages import Header, JointState
from qcfql_ros.errors import MessageError

_LAYOUTS = 64


class _Layout(NamedTuple):
    """Where the numbers of a joint state lie. `fixed` are bytes that must be as they were."""

    fixed: tuple[tuple[int, bytes], ...]
    frame_id: str
    names: list[str]
    arrays: tuple[tuple[int, int], ...]  # (offset, count) of position, velocity, effort


class CdrReader:
    """Turns CDR bytes into message objects. Keeps layouts it saw: one a thread."""

    def __init__(self) -> None:
        self._layouts: dict[int, _Layout] = {}
        self._readers: dict[str, Callable[[bytes], Any]] = {
            **READERS,
            topics.JOINT_STATE: self._joint_state,
        }

    def __call__(self, data: bytes, type_name: str) -> Any:
        """Return the message in `data`.

        Raises:
            MessageError: cut off, too long, not little-endian CDR, or of a type that is not read.
        """
        reader = self._readers.get(type_name)
        if reader is None:
            raise MessageError(f'messages of type {type_name} are not read')
        try:
            return reader(data)
        except (struct.error, UnicodeDecodeError) as error:
            raise MessageError(f'{len(data)} bytes are no {type_name}: {error}') from error

    def _joint_state(self, data: bytes) -> JointState:
        layout = self._layouts.get(len(data))
        if layout is not None and data[:2] == HEAD:
            for at, content in layout.fixed:
                if data[at : at + len(content)] != content:
                    break
            else:
                header = Header(read_stamp(data), layout.frame_id)
                first, second, third = (
                    np.frombuffer(data, '<f8', count, at) for at, count in layout.arrays
                )
                return JointState(header, layout.names, first, second, third)
        cursor = Cursor(data)
        header = cursor.header()
        names = cursor.texts()
        places, marks = [], [STAMP.size + 4]
        arrays = []
        for _ in range(3):
            arrays.append(cursor.numbers())
            start = cursor.at - arrays[-1].nbytes
            places.append((start, len(arrays[-1])))
            marks += [start, cursor.at]
        cursor.end()
        fixed = tuple(
            (marks[i], data[marks[i] : marks[i + 1]]) for i in (0, 2, 4) if marks[i + 1] > marks[i]
        )
        if len(self._layouts) >= _LAYOUTS:
            self._layouts.clear()
        self._layouts[len(data)] = _Layout(fixed, header.frame_id, names, tuple(places))
        return JointState(header, names, *arrays)


def peek_stamp_ns(data: bytes) -> int | None:
    """Return the header stamp of a stamped message, None when there is none to be read."""
    try:
        stamp = read_stamp(data)
    except (struct.error, MessageError):
        return None
    return stamp.sec * 1_000_000_000 + stamp.nanosec
