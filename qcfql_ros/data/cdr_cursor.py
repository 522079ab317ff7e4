# SPDX-License-Identifier: Apache-2.0
"""A position in CDR bytes, and what can be read from there.

Plain little-endian CDR (OMG formal/2002-06-51 ch. 15.3, as rmw sends it): 4 bytes of head, then
numbers aligned to their size, counted from the end of the head. Nothing is trusted: a count is
held against the bytes that are left before anything is made of it.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from qcfql_ros.data.messages import Header, Stamp
from qcfql_ros.errors import MessageError

HEAD = b'\x00\x01'  # CDR, little-endian; the two bytes after it are options
STAMP = struct.Struct('<iI')
FLOAT32, FLOAT64 = np.dtype('<f4'), np.dtype('<f8')
_U32 = struct.Struct('<I')


def require_head(data: bytes) -> None:
    """Refuse what is not plain little-endian CDR.

    Raises:
        MessageError: says what its head is.
    """
    if data[:2] != HEAD:
        raise MessageError(f'head is {data[:4].hex()}, wanted 0001: little-endian CDR')


def read_stamp(data: bytes) -> Stamp:
    """Return the header stamp that a stamped message begins with.

    Raises:
        MessageError: another encoding, or no time.
        struct.error: cut off.
    """
    require_head(data)
    sec, nanosec = STAMP.unpack_from(data, 4)
    if nanosec >= 1_000_000_000:
        raise MessageError(f'stamp has nanosec {nanosec}, wanted below 1e9')
    return Stamp(sec, nanosec)


class Cursor:
    """Reads one value after the other. What does not fit is MessageError or struct.error.

    Attributes:
        data: the message.
        at: where the next value begins, before alignment.
    """

    def __init__(self, data: bytes) -> None:
        require_head(data)
        self.data = data
        self.at = 4
        self._more = 0  # see `end`

    def header(self) -> Header:
        """Read a std_msgs/Header; only at the beginning."""
        stamp = read_stamp(self.data)
        self.at = 4 + STAMP.size
        return Header(stamp, self.text())

    def u32(self) -> int:
        """Read an unsigned number of 4 bytes."""
        self.at += -self.at % 4
        number: int = _U32.unpack_from(self.data, self.at)[0]
        self.at += 4
        return number

    def count(self) -> int:
        """Read how many items follow, each of a byte or more."""
        number = self.u32()
        if number > len(self.data) - self.at:
            raise MessageError(
                f'{number} items announced at byte {self.at} of {len(self.data)}: cut off'
            )
        return number

    def text(self) -> str:
        """Read a string."""
        size = self.count()
        raw = self.data[self.at : self.at + size]
        self.at += size
        text = str(raw, 'utf-8')
        if raw and text.find('\0') != len(text) - 1:
            raise MessageError(
                f'a text that ends at byte {self.at} has no 0 at its end, or another'
            )
        return text[:-1]

    def texts(self) -> list[str]:
        """Read a sequence of strings."""
        return [self.text() for _ in range(self.count())]

    def numbers(self, dtype: np.dtype = FLOAT64) -> np.ndarray:
        """Read a sequence of numbers: (n,) view of the bytes."""
        size, width = self.count(), dtype.itemsize
        if size:
            self._align(width)
        elif width == 8:
            self._more += (4 - self.at - self._more) % 8  # room for an alignment that is not there
        if size * width > len(self.data) - self.at:
            raise MessageError(
                f'{size} numbers announced before byte {self.at} of {len(self.data)}: cut off'
            )
        values = np.frombuffer(self.data, dtype, size, self.at if size else 0)
        self.at += size * width
        return values

    def octets(self) -> memoryview:
        """Read a sequence of bytes: a view, nothing is copied."""
        size = self.count()
        self.at += size
        return memoryview(self.data)[self.at - size : self.at]

    def unpack(self, layout: struct.Struct, align: int = 8) -> tuple[Any, ...]:
        """Read numbers that lie without gaps, the first aligned to `align` bytes."""
        self._align(align)
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def end(self) -> None:
        """Refuse bytes behind the message.

        Up to 3 may be there, as padding, or what rclpy's serialize_message leaves: it returns as
        many bytes as an estimate said that aligns empty sequences too.
        """
        left = len(self.data) - self.at
        if left > 3 and left != self._more:
            raise MessageError(f'{left} bytes after the end of the message')

    def _align(self, width: int) -> None:
        """Go on to where a number of `width` bytes may begin, counted from byte 4."""
        gap = (4 - self.at) % width
        if self._more:
            self._more += (4 - self.at - self._more) % width - gap
        self.at += gap
