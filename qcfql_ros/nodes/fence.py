# SPDX-License-Identifier: Apache-2.0
"""Between the threads that command and the publishers: can be shut from outside."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from qcfql_ros.contract.named_vector import StepRecord
from qcfql_ros.contract.schema import Contract
from qcfql_ros.nodes.command_output import CommandOutput

WAIT_S = 0.05


class Fence:
    """Passes on what the commander sends until it is shut; remembers where that leads.

    A thread that hangs cannot be ended, and may wake up: what it sends after the safe command
    must not reach the robot.

    Args:
        output: the publishers.
        contract: which actions are sent a chunk at a time.
    """

    def __init__(self, output: CommandOutput, contract: Contract) -> None:
        self._output = output
        self._period_ns = contract.period_ns
        self._whole = [
            field.action for c in contract.action.commands if c.whole_chunk for field in c.fields
        ]
        self._values = np.full(contract.action_dim, math.nan)
        self._chunk: tuple[int, np.ndarray] | None = None
        self._lock = threading.Lock()
        self.is_shut = False
        self.sent = False

    def command(self, values: np.ndarray, stamp_ns: int) -> None:
        """Send the commands of one command time."""
        with self._lock:
            if not self.is_shut:
                self.sent = True
                self._values[:] = values
                self._output.command(values, stamp_ns)

    def trajectory(self, values: np.ndarray, velocities: np.ndarray, stamp_ns: int) -> None:
        """Send the commands of a whole chunk."""
        with self._lock:
            if not self.is_shut:
                self.sent = True
                self._chunk = (stamp_ns, values.copy())
                self._output.trajectory(values, velocities, stamp_ns)

    def rest(self, values: np.ndarray, stamp_ns: int) -> None:
        """Send the safe command."""
        with self._lock:
            if not self.is_shut:
                self.sent = True
                self._values[:] = values
                self._chunk = None
                self._output.rest(values, stamp_ns)

    def record(self, record: StepRecord) -> None:
        """Send the record of a tick."""
        with self._lock:
            if not self.is_shut:
                self._output.record(record)

    def announce(self, record: Any) -> None:
        """Send the record of a chunk."""
        if not self.is_shut:
            self._output.announce(record)

    def shut(self) -> None:
        """Let nothing through any more; does not wait for a thread that hangs while sending."""
        held = self._lock.acquire(timeout=WAIT_S)
        self.is_shut = True
        if held:
            self._lock.release()

    def commanded(self, now_ns: int) -> np.ndarray:
        """Return the command values of `now_ns`, ROS time, (action_dim,); NaN where none was."""
        values = self._values.copy()
        if self._chunk is not None:
            stamp_ns, rows = self._chunk
            place = (now_ns - stamp_ns) // self._period_ns - 1
            values[self._whole] = rows[min(max(place, 0), len(rows) - 1)][self._whole]
        return values
