# SPDX-License-Identifier: Apache-2.0
"""Where the robot is, as far as commands depend on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qcfql_ros.contract.schema import Contract


@dataclass(frozen=True)
class Measurement:
    """The present place.

    Attributes:
        positions: one for each action number, in the unit of its command value; NaN for what is
            no position.
        tool: x, y, z in m of the tool, in the frame of the workspace; empty without one.
    """

    positions: tuple[float, ...]
    tool: tuple[float, ...] = ()


class MeasuredReader:
    """Reads from decoded streams where commanded positions and the tool are.

    Attributes:
        streams: names of those it needs; empty where no command depends on a place.
    """

    def __init__(self, contract: Contract) -> None:
        nowhere = (math.nan,) * contract.action_dim
        self._none = Measurement(nowhere)
        self._positions = [
            (field.action, field.measured)
            for command in contract.action.commands
            for field in command.fields
            if field.measured is not None
        ]
        self._workspace = contract.safety.workspace
        self.streams = {place.stream for _, place in self._positions}
        if self._workspace is not None:
            self.streams.add(self._workspace.stream)

    def read(self, values: Mapping[str, np.ndarray | None]) -> Measurement | None:
        """Return the place; None if a stream it needs is missing or cannot be used.

        Args:
            values: `DecodedMessage.values` by stream.
        """
        if not self.streams:
            return self._none
        positions = list(self._none.positions)
        for action, place in self._positions:
            numbers = values.get(place.stream)
            if numbers is None:
                return None
            positions[action] = float(numbers[place.index]) / place.scale - place.offset
        tool: tuple[float, ...] = ()
        box = self._workspace
        if box is not None:
            numbers = values.get(box.stream)
            if numbers is None:
                return None
            tool = tuple(
                float(numbers[place]) / scale - offset
                for place, scale, offset in zip(box.places, box.scale, box.offset, strict=True)
            )
        return Measurement(tuple(positions), tool)
