# SPDX-License-Identifier: Apache-2.0
"""The last thing an action row passes before it is sent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcfql_ros.contract.schema import Action


@dataclass(frozen=True, eq=False)
class Filtered:
    """A row that may be sent.

    Attributes:
        row: (action_dim,) float32, finite and inside the limits.
        clipped: how many of its numbers were outside.
        refused: the row was not finite; `row` is the hold row instead.
    """

    row: np.ndarray
    clipped: int = 0
    refused: bool = False


class SafetyFilter:
    """Finite, and inside the limits of the contract; what comes out is what is recorded."""

    def __init__(self, action: Action) -> None:
        self.low = np.array(action.low, dtype=np.float32)
        self.high = np.array(action.high, dtype=np.float32)
        self.hold = np.array(action.hold, dtype=np.float32)
        self.hold.setflags(write=False)

    def __call__(self, row: np.ndarray) -> Filtered:
        """Return what may be sent instead of `row`, (action_dim,) float32."""
        if not np.isfinite(row).all():
            return Filtered(self.hold, refused=True)
        safe = np.clip(row, self.low, self.high)
        return Filtered(safe, clipped=int(np.count_nonzero(safe != row)))
