# SPDX-License-Identifier: Apache-2.0
"""The previous action as a feature: which row an observation has, and what stands for none.

::

    tick      s-2P              s-P               s
    row       r0 |..carried out..| r1 |...........|
    observed                               ^ s - lead: r0 if r1 can still change, else r1

A policy knows a row when the last command of its tick has been sent, so a long lead, or several
commands a tick, make it an older one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import numpy as np

from qcfql_ros.contract.schema import Contract


class NoRow(enum.Enum):
    """Says that no action row was executed before: an episode begins, or there was a gap."""

    NO_ROW = 0


NO_ROW = NoRow.NO_ROW


def previous_ticks(contract: Contract, lead_ns: int, lockstep: bool) -> int:
    """Return how many ticks before its own the row lies that an observation has; at least 1.

    Args:
        contract: period and commands per tick.
        lead_ns: the observation is taken this long before the tick.
        lockstep: pacing; then a tick has one command.
    """
    period_ns, commands = contract.period_ns, contract.commands_per_tick
    last_command_ns = 0 if lockstep else (commands - 1) * period_ns // commands
    return (lead_ns + last_command_ns) // period_ns + 1


def first_row(contract: Contract, values_by_stream: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the row that stands for the previous one where there was none.

    The hold row; of an absolute position, where it is.

    Args:
        contract: of the robot.
        values_by_stream: `DecodedMessage.values` of the same observation.

    Returns:
        (action_dim,) float32 in units of the action row, not limited to its range.
    """
    row = np.array(contract.action.hold)
    for command in contract.action.commands:
        for field in command.fields:
            place = field.measured
            if place is not None and not field.relative:
                raw = values_by_stream[place.stream][place.index] / place.scale - place.offset
                row[field.action] = (raw - field.offset) / field.scale
    return row.astype(np.float32)
