# SPDX-License-Identifier: Apache-2.0
"""Blocks of steps in one file: written once from front to back, then memory-mapped.

::

    magic | block 0 | block 1 | ... | head (JSON) | its length, its CRC, magic

A block is its arrays one after the other, little endian, each at a multiple of 8 bytes. The head
says where each block lies, how many rows its arrays have and its CRC-32, and keeps what else is to
be known of the steps. Nothing of a file is believed before its checksums are right.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from qcfql_ros.data.step_block import StepBlock

MAGIC = b'QCFQLS01'
_TAIL = struct.Struct('<QI8s')
# Name, type, which of the block's counts gives its rows, and the width of a row.
_ARRAYS = (
    ('stamp_ns', '<i8', 'steps', ''),
    ('observation', '<f4', 'steps', 'state'),
    ('action', '<f4', 'steps', 'action'),
    ('reward', '<f8', 'steps', ''),
    ('terminated', '?', 'steps', ''),
    ('success', '?', 'steps', ''),
    ('source', 'u1', 'steps', ''),
    ('chunk', '<i8', 'steps', ''),
    ('index', '<i8', 'steps', ''),
    ('episode', '<i8', 'steps', ''),
    ('planned_row', '<i8', 'plans', ''),
    ('planned', '<f4', 'plans', 'plan'),
    ('end_after', '<i8', 'ends', ''),
    ('final_observation', '<f4', 'ends', 'state'),
    ('truncated', '?', 'ends', ''),
    ('episode_end', '?', 'ends', ''),
    ('reason', '<i4', 'ends', ''),
)


class _Place(NamedTuple):
    """Where a block lies, and the sizes of its arrays."""

    offset: int
    size: int
    crc: int
    steps: int
    plans: int
    ends: int
    plan_length: int
    state_dim: int
    action_dim: int

    def arrays(self) -> Iterator[tuple[str, np.dtype[Any], tuple[int, ...], int]]:
        """Yield name, type, shape and offset in the block of each array."""
        counts = {'steps': self.steps, 'plans': self.plans, 'ends': self.ends}
        widths: dict[str, tuple[int, ...]] = {
            '': (),
            'state': (self.state_dim,),
            'action': (self.action_dim,),
            'plan': (self.plan_length, self.action_dim),
        }
        at = 0
        for name, code, rows, width in _ARRAYS:
            dtype, shape = np.dtype(code), (counts[rows], *widths[width])
            yield name, dtype, shape, at
            at = _aligned(at + dtype.itemsize * math.prod(shape))

    def wanted_size(self) -> int:
        """Return the bytes that the arrays take."""
        _, dtype, shape, at = list(self.arrays())[-1]
        return _aligned(at + dtype.itemsize * math.prod(shape))


class StepFileWriter:
    """Writes blocks to a stream.

    Args:
        write: takes all the bytes it is given, or raises OSError.

    Attributes:
        steps, segments, episodes: in the blocks so far.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._at = len(MAGIC)
        self._places: list[_Place] = []
        self._reasons: dict[str, int] = {}
        self.steps = self.segments = self.episodes = 0
        write(MAGIC)

    def add(self, block: StepBlock) -> None:
        """Write one block; raises OSError as `write` does."""
        place = _Place(
            offset=self._at,
            size=0,
            crc=0,
            steps=len(block),
            plans=len(block.planned_row),
            ends=len(block.end_after),
            plan_length=block.planned.shape[1],
            state_dim=block.observation.shape[1],
            action_dim=block.action.shape[1],
        )
        codes = [self._reasons.setdefault(why, len(self._reasons)) for why in block.reason]
        data = bytearray(place.wanted_size())
        for name, dtype, shape, at in place.arrays():
            values = codes if name == 'reason' else getattr(block, name)
            array = np.ascontiguousarray(values, dtype).reshape(shape)
            data[at : at + array.nbytes] = array.tobytes()
        self._write(bytes(data))
        self._places.append(place._replace(size=len(data), crc=zlib.crc32(data)))
        self._at += len(data)
        self.steps += len(block)
        self.segments += len(block.end_after)
        self.episodes += int(np.count_nonzero(block.episode_end))

    def finish(self, about: dict[str, Any]) -> None:
        """Write the head, with `about`, which must be JSON; raises OSError as `write` does."""
        head = json.dumps(
            {
                'about': about,
                'steps': self.steps,
                'segments': self.segments,
                'episodes': self.episodes,
                'reasons': list(self._reasons),
                'blocks': self._places,
            },
            separators=(',', ':'),
        ).encode()
        self._write(head + _TAIL.pack(len(head), zlib.crc32(head), MAGIC))


class StepFile:
    """Reads the blocks of a file, as often as wanted.

    No more than one block is in memory, unless the one who takes it keeps it.

    Args:
        buffer: the file, mapped or read. A mapped one must not be changed in place, only replaced.

    Attributes:
        about: what the writer was told.
        steps, segments, episodes: in all blocks.
        nbytes: size of the file.

    Raises:
        ValueError: says in a few words what is wrong with the file.
    """

    def __init__(self, buffer: mmap.mmap | bytes) -> None:
        self._buffer = buffer
        self.nbytes = len(buffer)
        head = self._head()
        try:
            self.about: dict[str, Any] = dict(head['about'])
            self.steps = int(head['steps'])
            self.segments = int(head['segments'])
            self.episodes = int(head['episodes'])
            self._reasons = [str(reason) for reason in head['reasons']]
            self._places = [_Place(*map(int, row)) for row in head['blocks']]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError('its head is of another kind') from error
        for place in self._places:
            data = memoryview(buffer)[place.offset : place.offset + place.size]
            if min(place) < 0 or place.wanted_size() != len(data) or zlib.crc32(data) != place.crc:
                raise ValueError(f'checksum mismatch at byte {place.offset}')
            data.release()
            self._let_go(place)

    def _head(self) -> dict[str, Any]:
        buffer, size = self._buffer, self.nbytes
        if size < len(MAGIC) + _TAIL.size or buffer[: len(MAGIC)] != MAGIC:
            raise ValueError('it does not begin as one')
        length, crc, magic = _TAIL.unpack(buffer[size - _TAIL.size :])
        if magic != MAGIC or length > size - len(MAGIC) - _TAIL.size:
            raise ValueError('its end is missing')
        head = buffer[size - _TAIL.size - length : size - _TAIL.size]
        if zlib.crc32(head) != crc:
            raise ValueError('checksum mismatch in its head')
        return dict(json.loads(head))

    def blocks(self) -> Iterator[StepBlock]:
        """Yield the blocks as they were written; their arrays cannot be written to."""
        for place in self._places:
            arrays: dict[str, Any] = {}
            for name, dtype, shape, at in place.arrays():
                count, offset = math.prod(shape), place.offset + at
                # numpy refuses an offset at the very end of a buffer.
                flat = np.frombuffer(self._buffer, dtype, count, offset) if count else ()
                arrays[name] = np.asarray(flat, dtype).reshape(shape)
            arrays['reason'] = tuple(self._reasons[code] for code in arrays['reason'].tolist())
            yield StepBlock(**arrays)
            self._let_go(place)

    def _let_go(self, place: _Place) -> None:
        """Take the block out of this process' memory; who still looks at it reads it again."""
        if isinstance(self._buffer, mmap.mmap):
            start = place.offset - place.offset % mmap.PAGESIZE
            self._buffer.madvise(mmap.MADV_DONTNEED, start, place.offset + place.size - start)


def _aligned(size: int) -> int:
    return -(-size // 8) * 8
