# SPDX-License-Identifier: Apache-2.0
"""Command values to command messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qcfql_ros.contract import topics
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.named_vector import set_stamp
from qcfql_ros.contract.schema import Command, Contract
from qcfql_ros.contract.stopping import stopping_points
from qcfql_ros.errors import ContractError, MessageError

Encoded = list[tuple[str, str, Any]]
"""(relative topic, type name, message) of each command topic."""
_HEADERLESS = (topics.FLOAT64_MULTI_ARRAY,)


def command_values(
    contract: Contract,
    action_row: Sequence[float] | np.ndarray,
    reference: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Return what an action row commands, (action_dim,) float64 in the units of the fields.

    Args:
        contract: with the scales and offsets.
        action_row: (action_dim,).
        reference: (action_dim,) command values that relative positions are added to; the others
            are not read.

    Raises:
        ContractError: the contract has relative positions and there is no `reference`.
        MessageError: wrong size.
    """
    row = np.asarray(action_row, dtype=np.float64)
    require_size(contract, row, 'action row')
    values = np.empty(contract.action.dim)
    for command in contract.action.commands:
        for field in command.fields:
            values[field.action] = row[field.action] * field.scale + field.offset
            if field.relative:
                if reference is None:
                    raise relative_error(contract, field.action)
                values[field.action] += reference[field.action]
    return values


def relative_error(contract: Contract, action: int) -> ContractError:
    """Return the error of a relative action without the position it is added to."""
    return ContractError(
        f'{contract.file}: action {contract.action.names[action]!r} is relative: a number of it '
        'means nothing without the position it is added to; give `reference`'
    )


def require_size(contract: Contract, row: np.ndarray, what: str) -> None:
    """Refuse what is not one number for each action.

    Raises:
        MessageError: wrong shape.
    """
    if row.shape != (contract.action.dim,):
        raise MessageError(f'{what} has {row.size} numbers, wanted {contract.action.dim}')


class Encoder:
    """Makes the command messages of one contract. Imports the message packages when made.

    Encode all, then publish all: nothing goes out if one cannot be made.

    Args:
        contract: of the robot.
        commands_per_tick: how often a tick `commands` is sent; None for the contract's.
    """

    def __init__(self, contract: Contract, commands_per_tick: int | None = None) -> None:
        self.contract = contract
        every = commands_per_tick or contract.commands_per_tick
        self._command_ns = round(contract.period_ns / every)
        self._single = [c for c in contract.action.commands if not c.whole_chunk]
        self._whole = [c for c in contract.action.commands if c.whole_chunk]
        self._types = {c.type: message_class(c.type) for c in contract.action.commands}
        if topics.JOINT_TRAJECTORY in self._types:
            self._point = message_class('trajectory_msgs/msg/JointTrajectoryPoint')
            self._duration = message_class('builtin_interfaces/msg/Duration')
        if topics.FLOAT64_MULTI_ARRAY in self._types:
            self._dimension = message_class('std_msgs/msg/MultiArrayDimension')

    def commands(self, values: Sequence[float] | np.ndarray, stamp_ns: int) -> Encoded:
        """Return the message of every command topic but those that are sent once a chunk.

        Args:
            values: (action_dim,) command values.
            stamp_ns: stamp of the tick, the same for all. A JointTrajectory has the stamp 0
                instead, start now, for a controller drops what lies in its past.

        Raises:
            MessageError: wrong size, or a number is not finite.
        """
        numbers = [float(number) for number in values]
        self._check(np.asarray(numbers))
        return [(c.topic, c.type, self._message(c, numbers, stamp_ns)) for c in self._single]

    def trajectory(self, values: np.ndarray, velocities: np.ndarray, stamp_ns: int) -> Encoded:
        """Return the trajectory of every command topic that is sent once a chunk.

        ::

            time     t0     t0+T     t0+2T   ...  t0+kT    then
            point            0        1            k-1     to rest, as fast as the limits allow

        A later trajectory replaces the part that it overlaps; one that never gets a successor
        comes to rest.

        Args:
            values: (k, action_dim) command values, one row a tick.
            velocities: (k, action_dim) in unit/s, with which each row is passed.
            stamp_ns: deadline of the first tick, ``t0``.

        Raises:
            MessageError: wrong shape, or a number is not finite.
        """
        values = np.asarray(values, dtype=np.float64)
        velocities = np.asarray(velocities, dtype=np.float64)
        if values.ndim != 2 or not len(values) or values.shape != velocities.shape:
            raise MessageError(
                f'trajectory: values are {values.shape} and velocities {velocities.shape}, wanted '
                f'(k, {self.contract.action.dim}) both'
            )
        for row in (*values, *velocities):
            self._check(row)
        result: Encoded = []
        for command in self._whole:
            message = self._trajectory(command, stamp_ns)
            places = [field.action for field in command.fields]
            for i, (row, speed) in enumerate(zip(values, velocities, strict=True)):
                after_ns = (i + 1) * self.contract.period_ns
                self._append(message, after_ns, row[places], speed[places])
            last_ns = len(values) * self.contract.period_ns
            for after_ns, row, speed in stopping_points(
                self.contract, places, values[-1], velocities[-1]
            ):
                self._append(message, last_ns + after_ns, row, speed)
            result.append((command.topic, command.type, message))
        return result

    def rest(self, values: Sequence[float] | np.ndarray, stamp_ns: int = 0) -> Encoded:
        """Return trajectories of one point that rests at `values`, for the same topics.

        Args:
            values: (action_dim,) command values.
            stamp_ns: when to start; 0 is now, whatever the clocks say. The point is to be reached
                one period later.

        Raises:
            MessageError: wrong size, or a number is not finite.
        """
        row = np.asarray(values, dtype=np.float64)
        self._check(row)
        result: Encoded = []
        for command in self._whole:
            message = self._trajectory(command, stamp_ns)
            places = [field.action for field in command.fields]
            self._append(message, self.contract.period_ns, row[places], np.zeros(len(places)))
            result.append((command.topic, command.type, message))
        return result

    def _check(self, row: np.ndarray) -> None:
        require_size(self.contract, row, 'row of command values')
        if not math.isfinite(row.sum()) and not np.isfinite(row).all():
            raise MessageError(f'row of command values {row.tolist()} is not finite')

    def _message(self, command: Command, values: list[float], stamp_ns: int) -> Any:
        if command.type == topics.JOINT_TRAJECTORY:
            message = self._trajectory(command, 0)
            positions = [values[field.action] for field in command.fields]
            self._append(message, self._command_ns, positions)
            return message
        message = self._types[command.type]()
        if command.type not in _HEADERLESS:
            set_stamp(message, stamp_ns)
            message.header.frame_id = command.frame_id
        if command.type == topics.JOINT_STATE:
            _fill_joints(message, command, values)
        elif command.type == topics.FLOAT64_MULTI_ARRAY:
            size = len(command.fields)
            message.data = [values[field.action] for field in command.fields]
            message.layout.dim = [
                self._dimension(label=array_label(command), size=size, stride=size)
            ]
        else:
            for field in command.fields:
                part, axis = field.field.split('.')
                setattr(getattr(message.twist, part), axis, values[field.action])
        return message

    def _trajectory(self, command: Command, stamp_ns: int) -> Any:
        message = self._types[command.type](joint_names=[f.name for f in command.fields])
        set_stamp(message, stamp_ns)
        message.header.frame_id = command.frame_id
        return message

    def _append(self, message: Any, after_ns: int, positions: Any, velocities: Any = ()) -> None:
        sec, nanosec = divmod(after_ns, 1_000_000_000)
        message.points.append(
            self._point(
                positions=[float(p) for p in positions],
                velocities=[float(v) for v in velocities],
                time_from_start=self._duration(sec=sec, nanosec=nanosec),
            )
        )


def array_label(command: Command) -> str:
    """Return the label of a Float64MultiArray's dimension: the joints in order."""
    return ','.join(field.name for field in command.fields)


def _fill_joints(message: Any, command: Command, values: list[float]) -> None:
    names = list(dict.fromkeys(field.name for field in command.fields))
    message.name = names
    for kind in dict.fromkeys(field.field for field in command.fields):
        numbers = [math.nan] * len(names)  # a joint that is not commanded this way
        for field in command.fields:
            if field.field == kind:
                numbers[names.index(field.name)] = values[field.action]
        setattr(message, kind, numbers)
