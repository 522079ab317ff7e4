# SPDX-License-Identifier: Apache-2.0
"""Stamped named vectors: what a tick did and what came of it, as ``sensor_msgs/JointState``.

A record goes out as names and positions that ``ros2 topic echo`` and PlotJuggler can read; the
header stamp is the tick. Decoding reads attributes only, so rosbags' objects do as well.

===========  ====================================================================
record       names
===========  ====================================================================
outcome      reward, terminated, truncated, success, episode, tick, ended
step         ``action.<name>`` for each number of the action row, then ``meta.*``
===========  ====================================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from qcfql_ros.contract.decode import stamp_of
from qcfql_ros.contract.malformed import refuses_malformed
from qcfql_ros.contract.schema import Contract
from qcfql_ros.errors import MessageError

LARGEST_COUNT = 2**53  # whole numbers up to here are exact in a float64

# The numbers of a record in order, and what each is: real, 0 or 1, a count from 0 or from -1.
OUTCOME_KINDS = {
    'reward': 'real',
    'terminated': 'flag',
    'truncated': 'flag',
    'success': 'flag',
    'episode': 'count',
    'tick': 'count',
    'ended': 'flag',
}
META_KINDS = {
    'meta.episode': 'count',
    'meta.chunk': 'index',
    'meta.index': 'count',
    'meta.source': 'count',
    'meta.policy_version': 'index',
    'meta.clipped': 'count',
    'meta.lead_ns': 'count',
    'meta.lockstep': 'flag',
}
_OUTCOME_NAMES = tuple(OUTCOME_KINDS)
_outcome_numbers = attrgetter(*OUTCOME_KINDS)
_meta_numbers = attrgetter(*(name.removeprefix('meta.') for name in META_KINDS))


@dataclass(frozen=True)
class Outcome:
    """What came of one executed tick, as the robot says.

    Attributes:
        stamp_ns: stamp of the tick that it ends, that is of the command it executed.
        reward: of this tick.
        terminated: no bootstrap beyond this tick.
        truncated: cut from outside here.
        success: the task is solved.
        episode: the robot's episodes, from 0.
        tick: all ticks executed since the robot started, from 1.
        ended: the robot's episode ends here, a reset follows. Not the same as `terminated`:
            play data relabelled for a task go on after a terminated tick.
    """

    stamp_ns: int
    reward: float
    terminated: bool
    truncated: bool
    success: bool
    episode: int
    tick: int
    ended: bool


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What one tick commanded, as the policy (or expert) says.

    Attributes:
        stamp_ns: the tick's deadline, ROS time; in lockstep the stamp of the observation.
        action: (action_dim,) float32, as executed, after the safety filter.
        episode: the policy's episodes, from 0.
        chunk: number of the chunk; -1 without one.
        index: position in the chunk.
        source: 0 policy, 1 person, 2 hold, 3 halt.
        policy_version: of the weights that planned the chunk.
        clipped: how many numbers of the action the filter changed.
        lead_ns: the observation is taken this long before the tick.
        lockstep: paced by the robot's messages rather than by the clock.
    """

    stamp_ns: int
    action: np.ndarray
    episode: int
    chunk: int
    index: int
    source: int
    policy_version: int
    clipped: int
    lead_ns: int
    lockstep: bool


def outcome_fields(outcome: Outcome) -> tuple[Sequence[str], list[float]]:
    """Return names and values of an outcome message."""
    return _OUTCOME_NAMES, outcome_values(outcome)


def outcome_values(outcome: Outcome) -> list[float]:
    """Return the values of an outcome message."""
    return [*map(float, _outcome_numbers(outcome))]


@refuses_malformed
def decode_outcome(message: Any) -> Outcome:
    """Return the outcome in `message`.

    A message without ``ended`` ends its episode when it is terminated or truncated.

    Raises:
        MessageError: a name is missing or a value impossible.
    """
    values = _named_values('outcome', message)
    terminated = _flag('outcome', values, 'terminated')
    truncated = _flag('outcome', values, 'truncated')
    return Outcome(
        stamp_ns=stamp_of(message),
        reward=_value('outcome', values, 'reward'),
        terminated=terminated,
        truncated=truncated,
        success=_flag('outcome', values, 'success'),
        episode=_count('outcome', values, 'episode'),
        tick=_count('outcome', values, 'tick'),
        ended=_flag('outcome', values, 'ended') if 'ended' in values else terminated or truncated,
    )


def step_fields(record: StepRecord, contract: Contract) -> tuple[list[str], list[float]]:
    """Return names and values of a step message."""
    names = [f'action.{name}' for name in contract.action.names]
    return [*names, *META_KINDS], step_values(record)


def step_values(record: StepRecord) -> list[float]:
    """Return the values of a step message."""
    return [*map(float, record.action), *map(float, _meta_numbers(record))]


@refuses_malformed
def decode_step(message: Any, contract: Contract) -> StepRecord:
    """Return the step in `message`.

    Raises:
        MessageError: a name is missing, a value is impossible, or an action number is not finite.
    """
    values = _named_values('step', message)
    numbers = [_value('step', values, f'action.{name}') for name in contract.action.names]
    with np.errstate(over='ignore'):
        action = np.array(numbers, dtype=np.float32)
    if not np.isfinite(action).all():
        raise MessageError(f'step: actions {numbers} do not fit a float32')
    return StepRecord(
        stamp_ns=stamp_of(message),
        action=action,
        episode=_count('step', values, 'meta.episode'),
        chunk=_count('step', values, 'meta.chunk', lowest=-1),
        index=_count('step', values, 'meta.index'),
        source=_count('step', values, 'meta.source'),
        policy_version=_count('step', values, 'meta.policy_version', lowest=-1),
        clipped=_count('step', values, 'meta.clipped'),
        lead_ns=_count('step', values, 'meta.lead_ns'),
        lockstep=_flag('step', values, 'meta.lockstep'),
    )


def vector_message(stamp_ns: int, names: Sequence[str], values: Sequence[float]) -> Any:
    """Return a ``sensor_msgs.msg.JointState`` of rclpy with `values` as positions."""
    from sensor_msgs.msg import JointState

    message = JointState(name=list(names), position=list(values))
    set_stamp(message, stamp_ns)
    return message


def set_stamp(message: Any, stamp_ns: int) -> None:
    """Write `stamp_ns` into the header of `message`."""
    stamp = message.header.stamp
    stamp.sec, stamp.nanosec = divmod(stamp_ns, 1_000_000_000)


def _named_values(what: str, message: Any) -> dict[str, float]:
    names, numbers = message.name, message.position
    if len(names) != len(numbers):
        raise MessageError(f'{what}: {len(numbers)} numbers for {len(names)} names')
    return dict(zip(names, numbers, strict=True))


def _value(what: str, values: dict[str, float], name: str) -> float:
    if name not in values:
        raise MessageError(f'{what}: {name!r} is missing among {list(values)}')
    value = float(values[name])
    if not math.isfinite(value):
        raise MessageError(f'{what}: {name!r} is {value}, wanted finite')
    return value


def _flag(what: str, values: dict[str, float], name: str) -> bool:
    value = _value(what, values, name)
    if value not in (0.0, 1.0):
        raise MessageError(f'{what}: {name!r} is {value}, wanted 0 or 1')
    return value == 1.0


def _count(what: str, values: dict[str, float], name: str, lowest: int = 0) -> int:
    value = _value(what, values, name)
    if value != int(value) or not lowest <= value <= LARGEST_COUNT:
        raise MessageError(
            f'{what}: {name!r} is {value}, wanted a whole number from {lowest} to {LARGEST_COUNT}'
        )
    return int(value)
