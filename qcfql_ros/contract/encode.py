# SPDX-License-Identifier: Apache-2.0
"""Action rows to command messages, and back for the robot's side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qcfql_ros.contract import topics
from qcfql_ros.contract.named_vector import set_stamp
from qcfql_ros.contract.schema import Command, Contract
from qcfql_ros.errors import MessageError


class Encoder:
    """Makes the command messages of one contract. Imports the message packages when made."""

    def __init__(self, contract: Contract) -> None:
        from geometry_msgs.msg import TwistStamped
        from sensor_msgs.msg import JointState

        self.contract = contract
        self._types = {topics.TWIST_STAMPED: TwistStamped, topics.JOINT_STATE: JointState}

    def commands(
        self, action_row: Sequence[float] | np.ndarray, stamp_ns: int
    ) -> list[tuple[str, str, Any]]:
        """Return (relative topic, type name, message) for every command topic.

        Encode all, then publish all: nothing goes out if one cannot be made.

        Args:
            action_row: (action_dim,) inside the contract's limits.
            stamp_ns: stamp of the tick, the same for all.

        Raises:
            MessageError: wrong size, or a number is not finite.
        """
        row = [float(number) for number in action_row]
        if len(row) != self.contract.action.dim:
            raise MessageError(
                f'action row has {len(row)} numbers, wanted {self.contract.action.dim}'
            )
        if not math.isfinite(sum(row)):
            raise MessageError(f'action row {row} is not finite')
        return [
            (command.topic, command.type, self._message(command, row, stamp_ns))
            for command in self.contract.action.commands
        ]

    def _message(self, command: Command, row: list[float], stamp_ns: int) -> Any:
        message = self._types[command.type]()
        set_stamp(message, stamp_ns)
        message.header.frame_id = command.frame_id
        if command.type == topics.JOINT_STATE:
            _fill_joints(message, command, row)
            return message
        for field in command.fields:
            part, axis = field.field.split('.')
            vector = getattr(message.twist, part)
            setattr(vector, axis, row[field.action] * field.scale + field.offset)
        return message


def decode_commands(contract: Contract, messages: Mapping[str, Any]) -> np.ndarray:
    """Return the action row that `messages` carry, (action_dim,) float32; inverse of `Encoder`.

    Args:
        contract: whose commands they are.
        messages: relative command topic to message; all of them.

    Raises:
        MessageError: a joint is missing, or a number is not finite. Names topic and field.
    """
    row = np.empty(contract.action.dim, dtype=np.float64)
    for command in contract.action.commands:
        message = messages[command.topic]
        for field in command.fields:
            if command.type == topics.JOINT_STATE:
                raw = _joint(command, message, field.field, field.name)
            else:
                part, axis = field.field.split('.')
                raw = getattr(getattr(message.twist, part), axis)
            if not math.isfinite(raw):
                raise MessageError(
                    f'topic {command.topic!r}: {field.field} {field.name} is {raw}, wanted finite'
                )
            row[field.action] = (raw - field.offset) / field.scale
    return row.astype(np.float32)


def _fill_joints(message: Any, command: Command, row: list[float]) -> None:
    names = list(dict.fromkeys(field.name for field in command.fields))
    message.name = names
    for kind in dict.fromkeys(field.field for field in command.fields):
        numbers = [math.nan] * len(names)  # a joint that is not commanded this way
        for field in command.fields:
            if field.field == kind:
                numbers[names.index(field.name)] = row[field.action] * field.scale + field.offset
        setattr(message, kind, numbers)


def _joint(command: Command, message: Any, kind: str, name: str) -> float:
    numbers = getattr(message, kind)
    if name not in message.name or len(numbers) != len(message.name):
        raise MessageError(
            f'topic {command.topic!r}: no {kind} of joint {name!r} among {list(message.name)} '
            f'({len(numbers)} numbers)'
        )
    return numbers[list(message.name).index(name)]
