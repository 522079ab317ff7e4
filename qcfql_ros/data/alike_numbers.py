# SPDX-License-Identifier: Apache-2.0
"""Where the numbers lie in a message that is one number or an array of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qcfql_ros.contract import topics
from qcfql_ros.data.cdr_cursor import FLOAT32, FLOAT64, Cursor
from qcfql_ros.data.messages import Number

DTYPES: dict[str, np.dtype] = {
    topics.BOOL: np.dtype('u1'),
    topics.INT32: np.dtype('<i4'),
    topics.FLOAT32: FLOAT32,
    topics.FLOAT64: FLOAT64,
    topics.FLOAT32_MULTI_ARRAY: FLOAT32,
    topics.FLOAT64_MULTI_ARRAY: FLOAT64,
}
_HEAD = slice(0, 2)


class Numbers(NamedTuple):
    """Where they are.

    Attributes:
        fixed: bytes that are as in the template: all but stamp, padding and numbers.
        start: offset of the first number in bytes.
        size: how many there are.
    """

    fixed: tuple[slice, ...]
    start: int
    size: int


def number_layout(data: bytes, message: object, type_name: str) -> Numbers | None:
    """Return where the numbers lie in a message; None where only its decoder may say.

    Args:
        data: its CDR bytes.
        message: as `cdr.CdrReader` read it from them.
        type_name: one of `DTYPES`.
    """
    if isinstance(message, Number):
        return Numbers((_HEAD,), 4, 1)
    fixed = [_HEAD]
    cursor = Cursor(data)
    for _ in range(_mark(cursor, fixed)):
        cursor.at += -cursor.at % 4
        start = cursor.at
        cursor.text()
        fixed.append(slice(start, cursor.at))
        _mark(cursor, fixed)
        _mark(cursor, fixed)
    if _mark(cursor, fixed) != 0:  # data_offset
        return None
    count = _mark(cursor, fixed)
    start = cursor.at + (4 - cursor.at) % DTYPES[type_name].itemsize
    return Numbers(tuple(fixed), start, count)


def _mark(cursor: Cursor, fixed: list[slice]) -> int:
    """Read an unsigned number that must be as in the template."""
    number = cursor.u32()
    fixed.append(slice(cursor.at - 4, cursor.at))
    return number
