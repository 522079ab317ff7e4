# SPDX-License-Identifier: Apache-2.0
"""The action rows that were carried out, for contracts whose observation has the previous one."""

from __future__ import annotations

from collections import deque

import numpy as np

from qcfql_ros.contract.previous import NO_ROW, NoRow, previous_ticks
from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import STEP_TOPIC

_KEPT = 2048


class ExecutedRows:
    """Written by the thread that commands, read by the one that plans.

    Args:
        contract: of the robot; if it does not want the previous action, nothing is kept.
        lockstep: pacing.
    """

    def __init__(self, contract: Contract, lockstep: bool) -> None:
        self._contract = contract
        self._lockstep = lockstep
        self._rows: deque[tuple[int, int, np.ndarray]] = deque(maxlen=_KEPT)

    def add(self, stamp_ns: int, episode: int, row: np.ndarray) -> None:
        """Keep the row of a tick, (action_dim,) float32, as it is recorded."""
        if self._contract.wants_previous:
            self._rows.append((stamp_ns, episode, row.copy()))

    def before(
        self, stamp_ns: int, episode: int, lead_ns: int = 0
    ) -> tuple[np.ndarray | NoRow | None, dict[str, int]]:
        """Return (the previous row of an observation, what a chunk announces of it).

        None where the contract does not want it; the rule is that of `data.assembler`.

        Args:
            stamp_ns: of the tick that the observation is for.
            episode: of that tick.
            lead_ns: the observation is taken this long before it.
        """
        if not self._contract.wants_previous:
            return None, {}
        ticks = previous_ticks(self._contract, lead_ns, self._lockstep)
        wanted_ns = stamp_ns - ticks * self._contract.period_ns
        for at_ns, of_episode, row in reversed(tuple(self._rows)):
            if at_ns == wanted_ns and of_episode == episode:
                return row, {STEP_TOPIC: at_ns}
        return NO_ROW, {}
