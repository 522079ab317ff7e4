# SPDX-License-Identifier: Apache-2.0
"""One tick's command: filtered, sent, recorded, counted."""

from __future__ import annotations

from collections.abc import Callable

from qcfql_ros.contract.chunk_record import ChunkRecord
from qcfql_ros.contract.named_vector import StepRecord
from qcfql_ros.contract.schema import Contract
from qcfql_ros.control.chunk_buffer import PlannedChunk
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.safety import SafetyFilter
from qcfql_ros.data.steps import Source

NO_CHUNK = -1


class Commander:
    """Sends action rows, hold rows and the safe command.

    Args:
        contract: limits and hold row.
        publish: sends one tick's commands and its record.
        announce: sends the record of a chunk whose first row has just been sent.
        counters: to count in.
        lockstep: how the process is paced, for the record.
        lead_ns: a chunk's observation is taken this long before its first tick.
    """

    def __init__(
        self,
        contract: Contract,
        publish: Callable[[StepRecord], None],
        announce: Callable[[ChunkRecord], None],
        counters: Counters,
        lockstep: bool,
        lead_ns: int = 0,
    ) -> None:
        self.contract = contract
        self.lead_ns = 0 if lockstep else lead_ns
        self.last_stamp_ns: int | None = None
        self._filter = SafetyFilter(contract.action)
        self._publish = publish
        self._announce = announce
        self._counters = counters
        self._lockstep = lockstep
        self._version = -1

    def play(self, stamp_ns: int, chunk: PlannedChunk, index: int) -> None:
        """Send one row of a chunk."""
        safe = self._filter(chunk.actions[index])
        self._version = chunk.version
        self._counters.clipped += safe.clipped
        if index == 0:
            self._counters.chunks += 1
        source = Source.HOLD if safe.refused else Source.POLICY
        self._send(stamp_ns, safe.row, chunk.episode, source, chunk.number, index, safe.clipped)
        if index == 0:
            # After the row, which is what the robot waits for.
            self._announce(
                ChunkRecord(
                    stamp_ns=stamp_ns,
                    actions=chunk.actions,
                    chunk=chunk.number,
                    episode=chunk.episode,
                    seed=chunk.seed,
                    digest=chunk.digest,
                    policy_version=chunk.version,
                    observation_stamps=chunk.observation_stamps,
                )
            )

    def hold(self, stamp_ns: int, episode: int, source: Source = Source.HOLD) -> None:
        """Send the hold row: `Source.HOLD` for want of an action, `Source.HALT` to stop."""
        self._counters.holds += 1
        self._send(stamp_ns, self._filter.hold, max(0, episode), source, NO_CHUNK, 0, 0)

    def _send(self, stamp_ns, row, episode, source, chunk, index, clipped) -> None:
        self._counters.ticks += 1
        self.last_stamp_ns = stamp_ns
        self._publish(
            StepRecord(
                stamp_ns=stamp_ns,
                action=row,
                episode=episode,
                chunk=chunk,
                index=index,
                source=source,
                policy_version=self._version,
                clipped=clipped,
                lead_ns=self.lead_ns,
                lockstep=self._lockstep,
            )
        )
