# SPDX-License-Identifier: Apache-2.0
"""The box that the tool stays in: commanded linear velocities end at its walls."""

from __future__ import annotations

from qcfql_ros.contract.schema import Workspace
from qcfql_ros.control.limits import UNLIMITED, braking_speed


class WorkspaceLimit:
    """Bounds a velocity so that the tool, moving with it for a period, can still stop inside.

    Args:
        box: corners, and which action numbers move the tool.
        acceleration: most change of a velocity in a second; infinite lets it stop at once.
        period_s: between two measurements of the tool.

    Attributes:
        tool: x, y, z measured last, in m.
    """

    def __init__(self, box: Workspace, acceleration: float, period_s: float) -> None:
        self._box = box
        self._period_s = period_s
        self._step = min(acceleration, UNLIMITED) * period_s
        self.tool: tuple[float, ...] = ()

    def limit(self, values: list[float]) -> list[int]:
        """Bound command values in place; return which numbers were changed."""
        changed = []
        for axis, action in enumerate(self._box.actions):
            if action < 0:
                continue
            place = self.tool[axis]
            # Beyond a wall the room towards it is negative: there is only the way in, at any
            # speed, so that wall asks for nothing more than no motion outwards.
            up = max(0.0, self._box.high[axis] - place)
            down = max(0.0, place - self._box.low[axis])
            highest = braking_speed(up, self._step, self._period_s)
            lowest = -braking_speed(down, self._step, self._period_s)
            inside = min(max(values[action], lowest), highest)
            if inside != values[action]:
                values[action] = inside
                changed.append(action)
        return changed
