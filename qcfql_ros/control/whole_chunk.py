# SPDX-License-Identifier: Apache-2.0
"""Numbers that are sent once a chunk: filtered ahead, and taken back where the chunk is cut.

::

    tick       0        1        2        3
    row      ──▶ r0   ──▶ r1   ──▶ r2   ──▶ r3        r_i is reached at the end of tick i
                              cut here: the robot is at r1, and the filter goes back to it
"""

from __future__ import annotations

import numpy as np

from qcfql_ros.control.measured import Measurement
from qcfql_ros.control.safety import Number, SafetyFilter


class WholeChunk:
    """The part of the filter that runs ahead.

    Args:
        safety: whose numbers are concerned.
        soft_start_s: of the contract.

    Attributes:
        exists: whether the contract has such numbers at all.
        values: (k, action_dim) float64, command values; those not sent this way as sent last.
        velocities: (k, action_dim) float64, in unit/s.
    """

    def __init__(self, safety: SafetyFilter, soft_start_s: float) -> None:
        self._safety = safety
        self._numbers: list[Number] = [n for n in safety.numbers if n.ahead]
        self._soft_start_s = soft_start_s
        self.exists = bool(self._numbers)
        self._size = len(safety.numbers)
        self.values: np.ndarray
        self.velocities: np.ndarray
        self._rows: np.ndarray
        self._clipped: list[int] = []
        self._first: list[float] = []
        self.forget()

    def filter(self, rows: np.ndarray, measured: Measurement | None) -> bool:
        """Filter the rows that will be played; False if they are refused.

        Args:
            rows: (k, action_dim) float32.
            measured: where the robot is now.
        """
        self.forget()
        needed = any(n.relative == 'measured' for n in self._numbers)
        if not self._safety.started or (needed and measured is None):
            return False
        if not np.isfinite(rows).all():
            return False
        count = len(rows)
        self.values = np.tile(self._safety.values, (count, 1))
        self.velocities = np.zeros_like(self.values)
        self._rows = rows.copy()
        self._clipped = [0] * count
        self._first = [number.limit.value for number in self._numbers]
        for number in self._numbers:
            self._filter(number, rows[:, number.action].tolist(), measured)
        return True

    def _filter(self, number: Number, asked: list[float], measured: Measurement | None) -> None:
        place = number.action
        path = [number.limit.value]
        for i, one in enumerate(asked):
            relative_to = path[-1]
            if i == 0 and measured is not None and number.relative == 'measured':
                relative_to = measured.positions[place]
            wanted = number.want(one, relative_to)
            path.append(number.send(wanted, self._soft_start_s))
            self.values[i, place] = path[-1]
            self._clipped[i] += number.clipped
            if number.clipped or path[-1] != number.end:
                self._rows[i, place] = number.executed()
        for i in range(len(asked)):
            last = min(i + 2, len(path) - 1)  # the last row has no next one
            self.velocities[i, place] = (path[last] - path[i]) / ((last - i) * number.period_s)

    def put_row(self, row: np.ndarray, index: int) -> tuple[np.ndarray, int]:
        """Return `row` with what row `index` of the chunk came to, and how much was clipped."""
        if not len(self._rows):
            return row, 0
        for number in self._numbers:
            place = number.action
            if row[place] != self._rows[index, place]:
                row = row.copy()
                row[place] = self._rows[index, place]
        return row, self._clipped[index]

    def cut(self, index: int, part: float = 1.0) -> bool:
        """Go back to where the robot is; whether there was anything ahead to take back.

        Args:
            index: of the row being played.
            part: of its tick that has passed.
        """
        if not len(self.values):
            return False
        for number, first in zip(self._numbers, self._first, strict=True):
            place = number.action
            before = self.values[index - 1, place] if index else first
            reached = before + part * (self.values[index, place] - before)
            value = self.values[index, place] if part == 1.0 else reached
            number.limit.restore(float(value), float(self.velocities[index, place]))
        left = index + 1 < len(self.values)
        self.forget()
        return left

    def forget(self) -> None:
        """Know of no chunk."""
        self.values = self.velocities = np.empty((0, self._size))
        self._rows = np.empty((0, self._size), dtype=np.float32)
