# SPDX-License-Identifier: Apache-2.0
"""The command that leaves a robot standing, made without the policy.

A velocity or effort is that of the hold row. A position is never a number of the contract: it
stays at the last command, and where there was none, at what was measured.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qcfql_ros.contract.decode import stamp_of
from qcfql_ros.contract.encode import Encoder
from qcfql_ros.contract.schema import Command, CommandField, Contract
from qcfql_ros.contract.topics import JOINT_TRAJECTORY


class SafeCommand:
    """Keeps what was commanded and measured last; made and used by one thread."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._encoder = Encoder(contract)
        self._commands = {command.topic: command for command in contract.action.commands}
        self._last: dict[str, Any] = {}
        self._measured: dict[str, np.ndarray] = {}

    def on_command(self, topic: str, message: Any) -> None:
        """Take a message of a command topic."""
        self._last[topic] = message

    def on_measured(self, stream: str, values: np.ndarray) -> None:
        """Take the numbers of a sensor message, as the decoder gives them."""
        self._measured[stream] = values

    def values(self, now_ns: int, commanded: np.ndarray | None = None) -> np.ndarray:
        """Return the command values that hold the robot, (action_dim,) float64.

        NaN is a position that nobody commanded or measured.

        Args:
            now_ns: ROS time, for a trajectory that is not at its end yet.
            commanded: (action_dim,) what was commanded, known without a message of it; or NaN.
        """
        values = np.full(self.contract.action_dim, math.nan)
        for command in self._commands.values():
            for field in command.fields:
                if field.is_position:
                    value = math.nan if commanded is None else commanded[field.action]
                    if not math.isfinite(value):
                        value = self._position(command, field, now_ns)
                    values[field.action] = value
                else:
                    hold = self.contract.action.hold[field.action]
                    values[field.action] = hold * field.scale + field.offset
        return values

    def messages(self, values: np.ndarray, stamp_ns: int) -> tuple[list[tuple[str, Any]], str]:
        """Return ([(topic, message)], what cannot be held or '').

        Args:
            values: as `values` returns them; a topic with a NaN is left out.
            stamp_ns: of the headers.
        """
        unknown = {
            topic: [f.name for f in command.fields if not math.isfinite(values[f.action])]
            for topic, command in self._commands.items()
        }
        known = np.nan_to_num(values)
        made = [*self._encoder.commands(known, stamp_ns), *self._encoder.rest(known)]
        text = ', '.join(f'{t!r} ({", ".join(names)})' for t, names in unknown.items() if names)
        return [(topic, message) for topic, _, message in made if not unknown[topic]], text

    def _position(self, command: Command, field: CommandField, now_ns: int) -> float:
        message = self._last.get(command.topic)
        if message is not None:
            value = _commanded(command, field, message, now_ns)
            if math.isfinite(value):
                return value
        place = field.measured
        if place is None or place.stream not in self._measured:
            return math.nan
        return self._measured[place.stream][place.index] / place.scale - place.offset


def _commanded(command: Command, field: CommandField, message: Any, now_ns: int) -> float:
    """Return the position that `message` commands at `now_ns`, NaN if it has none."""
    numbers: Any
    if command.type == JOINT_TRAJECTORY:
        names, numbers = message.joint_names, _point(message, now_ns)
    elif hasattr(message, 'data'):  # numbers alone, in the order of the fields
        names, numbers = [f.name for f in command.fields], message.data
    else:
        names, numbers = message.name, getattr(message, field.field)
    names = list(names)
    if field.name not in names or len(numbers) != len(names):
        return math.nan
    return float(numbers[names.index(field.name)])


def _point(message: Any, now_ns: int) -> Any:
    """Return the positions of the point reached at `now_ns`, the first one before that."""
    begin_ns, reached = stamp_of(message) or now_ns, ()
    for point in message.points:
        after = point.time_from_start
        due_ns = begin_ns + after.sec * 1_000_000_000 + after.nanosec
        if reached and due_ns > now_ns:
            break
        reached = point.positions
    return reached
