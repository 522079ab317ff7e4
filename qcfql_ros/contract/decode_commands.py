# SPDX-License-Identifier: Apache-2.0
"""Command messages back to an action row, for the robot's side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qcfql_ros.contract import topics
from qcfql_ros.contract.encode import array_label, relative_error
from qcfql_ros.contract.malformed import refuses_malformed
from qcfql_ros.contract.schema import Command, CommandField, Contract
from qcfql_ros.errors import MessageError


@refuses_malformed
def decode_commands(
    contract: Contract,
    messages: Mapping[str, Any],
    reference: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Return the action row that `messages` carry, (action_dim,) float32; inverse of `Encoder`.

    Of a JointTrajectory the last point counts, where the joints are to come to rest.

    Args:
        contract: whose commands they are.
        messages: relative command topic to message; all of them.
        reference: (action_dim,) command values that relative positions were added to.

    Raises:
        MessageError: a joint is missing, or a number is not finite. Names topic and field.
        ContractError: the contract has relative positions and there is no `reference`.
    """
    row = np.empty(contract.action.dim, dtype=np.float64)
    for command in contract.action.commands:
        numbers = _numbers(command, messages[command.topic])
        for raw, field in zip(numbers, command.fields, strict=True):
            if field.relative:
                if reference is None:
                    raise relative_error(contract, field.action)
                raw -= reference[field.action]
            row[field.action] = (raw - field.offset) / field.scale
    with np.errstate(over='ignore'):
        action = row.astype(np.float32)
    if not np.isfinite(action).all():
        raise MessageError(f'commands {row} do not fit a float32')
    return action


@refuses_malformed
def command_numbers(command: Command, message: Any) -> list[float]:
    """Return the command values that `message` carries, one for each field of `command`.

    Raises:
        MessageError: a joint is missing, or a number is not finite. Names topic and field.
    """
    return _numbers(command, message)


def _numbers(command: Command, message: Any) -> list[float]:
    numbers = []
    for place, field in enumerate(command.fields):
        raw = _number(command, message, place, field)
        if not math.isfinite(raw):
            raise MessageError(
                f'topic {command.topic!r}: {field.field} {field.name} is {raw}, wanted finite'
            )
        numbers.append(raw)
    return numbers


def _number(command: Command, message: Any, place: int, field: CommandField) -> float:
    if command.type == topics.JOINT_STATE:
        return _joint(command, field, message.name, getattr(message, field.field))
    if command.type == topics.JOINT_TRAJECTORY:
        if not message.points:
            raise MessageError(f'topic {command.topic!r}: trajectory without a point')
        return _joint(command, field, message.joint_names, message.points[-1].positions)
    if command.type == topics.FLOAT64_MULTI_ARRAY:
        return _element(command, message, place)
    part, axis = field.field.split('.')
    return getattr(getattr(message.twist, part), axis)


def _joint(
    command: Command, field: CommandField, names: Sequence[str], numbers: Sequence[float]
) -> float:
    if field.name not in names or len(numbers) != len(names):
        raise MessageError(
            f'topic {command.topic!r}: no {field.field} of joint {field.name!r} among '
            f'{list(names)} ({len(numbers)} numbers)'
        )
    return numbers[list(names).index(field.name)]


def _element(command: Command, message: Any, place: int) -> float:
    """An unlabelled array is taken as it is: forward_command_controller reads no label."""
    if len(message.data) != len(command.fields):
        raise MessageError(
            f'topic {command.topic!r}: {len(message.data)} numbers, wanted {len(command.fields)}'
        )
    label = message.layout.dim[0].label if message.layout.dim else ''
    if label and label != array_label(command):
        raise MessageError(
            f'topic {command.topic!r}: joints are {label!r}, wanted {array_label(command)!r}'
        )
    return float(message.data[place])
