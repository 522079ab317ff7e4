# SPDX-License-Identifier: Apache-2.0
"""Where commands and records go: all that control knows of the wire."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from qcfql_ros.contract.chunk_record import ChunkRecord
from qcfql_ros.contract.named_vector import StepRecord


class Output(Protocol):
    """Sends; `nodes.command_output` is one. Arrays are lent for the call only."""

    def command(self, values: np.ndarray, stamp_ns: int) -> None:
        """Send (action_dim,) command values on every topic but those sent once a chunk."""

    def trajectory(self, values: np.ndarray, velocities: np.ndarray, stamp_ns: int) -> None:
        """Send (k, action_dim) command values and velocities on the topics sent once a chunk."""

    def rest(self, values: np.ndarray, stamp_ns: int) -> None:
        """Send (action_dim,) command values that hold the robot on every topic."""

    def record(self, record: StepRecord) -> None:
        """Send the record of a tick."""

    def announce(self, record: ChunkRecord) -> None:
        """Send the record of a chunk."""
