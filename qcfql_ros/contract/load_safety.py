# SPDX-License-Identifier: Apache-2.0
"""The part of a contract file that says what a robot may do, and when it must stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from qcfql_ros.contract import topics
from qcfql_ros.contract.schema import Action, CommandField, Entry, Safety, Stream, Workspace
from qcfql_ros.contract.section import Section
from qcfql_ros.contract.urdf import Urdf
from qcfql_ros.errors import ContractError, nearest

ON_STOP = ('hold', 'zero', 'ramp_down', 'none')
NEVER_TIMES_OUT = (topics.FLOAT64_MULTI_ARRAY,)
HEARTBEAT_S = 0.05
_KEYS = (
    'urdf',
    'limits',
    'workspace',
    'soft_start_s',
    'stop_after_s',
    'resume_after_stale',
    'on_late',
    'watchdog',
)


@dataclass
class _Limits:
    """Of one command value while it is being read."""

    low: float = -math.inf
    high: float = math.inf
    velocity: float = math.inf
    acceleration: float = math.inf


def read_safety(
    top: Section,
    action: Action,
    streams: dict[str, Stream],
    state: tuple[Entry, ...],
    period_s: float,
) -> Safety:
    """Return limits and watchdogs; what the file does not say is as safe as it can be told.

    Args:
        top: the whole file.
        action: of the contract.
        streams: of the contract.
        state: entries of ``observation.state``.
        period_s: one control period.

    Raises:
        ContractError: something is wrong; names the place.
    """
    data = {} if top.data.get('safety') is None else top.data['safety']
    section = Section(top.file, 'safety', data, (), _KEYS)
    fields = _fields(action)
    limits = _limits(section, action.names, fields)
    position = any(field.is_position for field in fields)
    return Safety(
        low=tuple(one.low for one in limits),
        high=tuple(one.high for one in limits),
        velocity=tuple(one.velocity for one in limits),
        acceleration=tuple(one.acceleration for one in limits),
        workspace=_workspace(section, action, streams, state),
        soft_start_s=section.number('soft_start_s', 1.0 if position else 0.0, 0.0, 60.0),
        stop_after_s=section.number('stop_after_s', 1.0, 0.0, 3600.0),
        resume_after_stale=section.flag('resume_after_stale'),
        on_late=section.choice('on_late', ('hold', 'repeat'), 'hold'),
        watchdog_timeout_s=_watchdog(section, action, period_s),
    )


def read_on_stop(top: Section, action: Action, safety: Safety) -> str:
    """Return what is commanded last.

    Raises:
        ContractError: it does not fit the commands or the limits.
    """
    on_stop = top.choice('on_stop', ON_STOP, 'hold')
    for name, field in zip(action.names, _fields(action), strict=True):
        if on_stop == 'zero' and field.is_position:
            raise top.error(
                'on_stop',
                f'hold, ramp_down or none: {name} is a position, and zero is a place, not a stop',
            )
        unlimited = math.isinf(safety.acceleration[field.action])
        if on_stop == 'ramp_down' and unlimited and field.field != 'effort':
            raise top.error(
                'on_stop',
                f'hold or none, for {name} has no limit to ramp down by; add '
                f'safety.limits.{name}.acceleration',
            )
    return on_stop


def _fields(action: Action) -> list[CommandField]:
    """Return the command field of each action in order."""
    fields = [field for command in action.commands for field in command.fields]
    return sorted(fields, key=lambda field: field.action)


def _limits(
    section: Section, names: tuple[str, ...], fields: list[CommandField]
) -> tuple[_Limits, ...]:
    limits = tuple(_Limits() for _ in names)
    if 'urdf' in section:
        path = Path(section.text('urdf')).expanduser()
        urdf = Urdf(path if path.is_absolute() else Path(section.file).parent / path)
        for one, field in zip(limits, fields, strict=True):
            if field.name:
                _take_urdf(one, field, urdf)
    if 'limits' not in section:
        return limits
    table = section.section('limits', (), names)
    for name, one, field in zip(names, limits, fields, strict=True):
        if name in table:
            keys = ('low', 'high', 'velocity', 'acceleration')
            _tighten(one, table.section(name, (), keys), field)
    return limits


def _take_urdf(one: _Limits, field: CommandField, urdf: Urdf) -> None:
    joint = urdf.limits(field.name)
    if field.is_position:
        one.low, one.high, one.velocity = joint.low, joint.high, joint.velocity
    else:
        one.high = joint.velocity if field.field == 'velocity' else joint.effort
        one.low = -one.high


def _tighten(one: _Limits, item: Section, field: CommandField) -> None:
    """Take the limits of the contract, none of which may be wider than the URDF's."""
    if 'low' in item:
        low = item.number('low')
        if low < one.low:
            raise item.error('low', f'at least {one.low:g}, the limit of the URDF')
        one.low = low
    if 'high' in item:
        high = item.number('high')
        if high > one.high:
            raise item.error('high', f'at most {one.high:g}, the limit of the URDF')
        one.high = high
    if one.low >= one.high:
        key = 'low' if 'low' in item else 'high'
        raise item.error(key, f'low < high (low is {one.low:g}, high is {one.high:g})')
    if 'velocity' in item:
        if not field.is_position:
            raise item.error(
                'velocity', f'nothing: {field.field} is no position; use low and high'
            )
        velocity = _positive(item, 'velocity')
        if velocity > one.velocity:
            raise item.error('velocity', f'at most {one.velocity:g}, the limit of the URDF')
        one.velocity = velocity
    if 'acceleration' in item:
        one.acceleration = _positive(item, 'acceleration')


def _positive(section: Section, key: str) -> float:
    number = section.number(key)
    if number <= 0.0:
        raise section.error(key, 'a number above 0')
    return number


def _workspace(
    section: Section, action: Action, streams: dict[str, Stream], state: tuple[Entry, ...]
) -> Workspace | None:
    if 'workspace' not in section:
        return None
    box = section.section('workspace', ('stream', 'low', 'high'))
    moved = [
        {f.field.removeprefix('linear.'): f.action for f in c.fields if 'linear' in f.field}
        for c in action.commands
        if c.type == topics.TWIST_STAMPED
    ]
    moved = [axes for axes in moved if axes]
    if len(moved) != 1:
        raise section.error(
            'workspace',
            f'one command of type {topics.TWIST_STAMPED} with linear velocities, which the box '
            f'limits; there are {len(moved)}',
        )
    stream = box.text('stream')
    if stream not in streams or streams[stream].type != topics.POSE_STAMPED:
        poses = [s.name for s in streams.values() if s.type == topics.POSE_STAMPED]
        raise box.error(
            'stream',
            f'a {topics.POSE_STAMPED} stream that measures the tool (there are: '
            f'{", ".join(poses) or "none"}){nearest(stream, poses)}',
        )
    found = _measured_axes(stream, state)
    for axis in 'xyz':
        if axis not in found:
            raise box.error(
                'stream',
                f'one whose position {axis} is in features.observation.state: add '
                f'{{stream: {stream}, field: position}} (with a scale other than 0)',
            )
    low, high = _corner(box, 'low'), _corner(box, 'high')
    if not all(a < b for a, b in zip(low, high, strict=True)):
        raise box.error('low', f'less than high, {list(high)}, in x, y and z')
    x, y, z = (found[axis] for axis in 'xyz')
    return Workspace(
        stream=stream,
        places=(x[0], y[0], z[0]),
        offset=(x[1], y[1], z[1]),
        scale=(x[2], y[2], z[2]),
        actions=(moved[0].get('x', -1), moved[0].get('y', -1), moved[0].get('z', -1)),
        low=low,
        high=high,
    )


def _measured_axes(stream: str, state: tuple[Entry, ...]) -> dict[str, tuple[int, float, float]]:
    """Return (place in the stream's values, offset, scale) of each measured axis."""
    found: dict[str, tuple[int, float, float]] = {}
    begin = 0
    for entry in state:
        if entry.stream != stream:
            continue
        if entry.field == 'position':
            for i, axis in enumerate(entry.names):
                if entry.scale[i] != 0.0:
                    found.setdefault(axis, (begin + i, entry.offset[i], entry.scale[i]))
        begin += entry.size
    return found


def _corner(box: Section, key: str) -> tuple[float, float, float]:
    if not isinstance(box.data[key], list):
        raise box.error(key, '3 numbers: x, y, z in m')
    x, y, z = box.numbers(key, 3, 0.0)
    return x, y, z


def _watchdog(section: Section, action: Action, period_s: float) -> float | None:
    if 'watchdog' in section:
        # Three heartbeats must fit, or one that is late is taken for a dead process.
        shortest = 3.0 * max(HEARTBEAT_S, period_s)
        return section.section('watchdog', ('timeout_s',)).number(
            'timeout_s', None, shortest, 60.0
        )
    for command in action.commands:
        if command.type in NEVER_TIMES_OUT:
            raise ContractError(
                f'{section.file}: action.commands: {command.type} on {command.topic!r} never '
                'times out by itself: its controller goes on with the last numbers for ever when '
                'the policy dies; add safety.watchdog.timeout_s, and watchdog_node stops it'
            )
    return None
