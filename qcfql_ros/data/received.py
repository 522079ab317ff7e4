# SPDX-License-Identifier: Apache-2.0
"""What the assembler has received and has not decided yet, and what it decides: a tick."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from qcfql_ros.contract.chunk_record import ChunkRecord
from qcfql_ros.contract.named_vector import Outcome, StepRecord
from qcfql_ros.data.stream_buffer import StreamBuffer


@dataclass
class Pending:
    """A step message that waits for the rest."""

    record: StepRecord
    receive_ns: int


@dataclass(frozen=True, eq=False)
class Tick:
    """Everything about one tick."""

    record: StepRecord
    outcome: Outcome
    observation: np.ndarray
    next_observation: np.ndarray
    planned: np.ndarray | None


@dataclass
class Received:
    """What has been received and may still be needed."""

    streams: dict[str, StreamBuffer]
    outcomes: dict[int, Outcome | None] = field(default_factory=dict)
    last_outcome_ns: int | None = None
    chunks: dict[int, ChunkRecord] = field(default_factory=dict)
    pending: deque[Pending] = field(default_factory=deque)
    last_step_ns: int | None = None
    first_step_ns: int | None = None
    executed: dict[int, StepRecord] = field(default_factory=dict)  # for the previous action

    def clear(self) -> None:
        """Forget everything."""
        for stream in self.streams.values():
            stream.clear()
        self.outcomes.clear()
        self.chunks.clear()
        self.pending.clear()
        self.executed.clear()
        self.last_outcome_ns = self.last_step_ns = self.first_step_ns = None
