# SPDX-License-Identifier: Apache-2.0
"""The part of a contract file that says how an action row is commanded."""

from __future__ import annotations

import math
import re

from qcfql_ros.contract import topics
from qcfql_ros.contract.schema import (
    Action,
    Command,
    CommandField,
    Entry,
    Measured,
    Stream,
)
from qcfql_ros.contract.section import Section
from qcfql_ros.errors import ContractError

_AXES = ('x', 'y', 'z')
_JOINT_FIELDS = ('position', 'velocity', 'effort')
_TWIST_FIELDS = tuple(f'{part}.{axis}' for part in ('linear', 'angular') for axis in _AXES)
COMMAND_FIELDS = {
    topics.TWIST_STAMPED: _TWIST_FIELDS,
    topics.JOINT_STATE: _JOINT_FIELDS,
    topics.JOINT_TRAJECTORY: ('position',),
    topics.FLOAT64_MULTI_ARRAY: _JOINT_FIELDS,
}
_TOPIC = re.compile(r'[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*')


def read_topic(section: Section, key: str = 'topic') -> str:
    """Return a relative topic name.

    Raises:
        ContractError: it is none.
    """
    topic = section.text(key)
    if not _TOPIC.fullmatch(topic):
        hint = ' (no leading slash: a namespace must be able to move it)'
        raise section.error(
            key, 'a relative topic name' + (hint if topic.startswith('/') else ', like arm/state')
        )
    return topic


def action_names(top: Section) -> tuple[str, ...]:
    """Return the names of the numbers of an action row."""
    return _section(top).names('names')


def _section(top: Section) -> Section:
    return top.section('action', ('names', 'commands'), ('low', 'high', 'hold'))


def read_action(top: Section, streams: dict[str, Stream], state: tuple[Entry, ...]) -> Action:
    """Return the action row and its commands.

    Args:
        top: the whole file.
        streams: of the contract.
        state: entries of ``observation.state``, where commanded positions must be measured.

    Raises:
        ContractError: something is wrong; names the place.
    """
    section = _section(top)
    names = section.names('names')
    low = section.numbers('low', len(names), -1.0)
    high = section.numbers('high', len(names), 1.0)
    for i, name in enumerate(names):
        if not -1.0 <= low[i] < high[i] <= 1.0:
            raise section.error(
                'low',
                f'-1 <= low < high <= 1 for {name} (high is {high[i]:g}); '
                'the unit belongs in the scale of its command field',
            )
    commands = tuple(
        _command(item, names, streams, state)
        for item in section.sections(
            'commands', ('topic', 'type', 'fields'), ('frame_id', 'whole_chunk')
        )
    )
    used = [field.action for command in commands for field in command.fields]
    for i, name in enumerate(names):
        if used.count(i) != 1:
            raise ContractError(
                f'{top.file}: action.commands: action {name!r} is used by {used.count(i)} fields, '
                'wanted exactly one'
            )
    fields = sorted((f for c in commands for f in c.fields), key=lambda f: f.action)
    given = section.numbers_or_nothing('hold', len(names))
    hold = tuple(_hold(section, names[i], fields[i], given[i]) for i in range(len(names)))
    for i, name in enumerate(names):
        if not math.isnan(hold[i]) and not low[i] <= hold[i] <= high[i]:
            raise section.error('hold', f'{low[i]:g} to {high[i]:g} for {name}')
    return Action(names, low, high, hold, commands)


def _hold(section: Section, name: str, field: CommandField, given: float | None) -> float:
    if not field.is_position:
        return 0.0 if given is None else given
    if not field.relative:
        if given is not None:
            raise section.error(
                'hold',
                f'nothing for {name}: an absolute position is held where it is, never at a number '
                'of the contract; leave hold out, or write null for it in a list',
            )
        return math.nan
    hold = 0.0 if given is None else given
    creep = hold * field.scale + field.offset
    if abs(creep) > 1e-9 * max(abs(field.scale), abs(field.offset)):
        raise section.error(
            'hold',
            f'{-field.offset / field.scale:g} for {name}: held, its position would be moved by '
            f'{creep:g} again and again',
        )
    return hold


def _command(
    section: Section,
    names: tuple[str, ...],
    streams: dict[str, Stream],
    state: tuple[Entry, ...],
) -> Command:
    kind = section.choice('type', COMMAND_FIELDS)
    whole_chunk = section.flag('whole_chunk')
    if whole_chunk and kind != topics.JOINT_TRAJECTORY:
        raise section.error(
            'whole_chunk', f'nothing, or type {topics.JOINT_TRAJECTORY}, which has several points'
        )
    if kind == topics.FLOAT64_MULTI_ARRAY and 'frame_id' in section:
        raise section.error('frame_id', f'nothing: a {kind} has no header')
    by_joint = kind != topics.TWIST_STAMPED
    fields = tuple(
        _field(item, kind, names, streams, state)
        for item in section.sections(
            'fields',
            ('field', 'action') + (('name',) if by_joint else ()),
            ('scale', 'offset', 'relative'),
        )
    )
    places = [(field.field, field.name) for field in fields]
    if len(set(places)) != len(places):
        raise section.error('fields', 'each field of the message once')
    for field in fields:
        if whole_chunk and field.relative == 'measured':
            raise section.error(
                'whole_chunk',
                f'false: {names[field.action]} is relative to the measured position of each tick, '
                'which is not known when a whole chunk is sent; use `relative: command`',
            )
    return Command(read_topic(section), kind, section.text('frame_id'), fields, whole_chunk)


def _field(
    item: Section,
    kind: str,
    names: tuple[str, ...],
    streams: dict[str, Stream],
    state: tuple[Entry, ...],
) -> CommandField:
    field = item.choice('field', COMMAND_FIELDS[kind])
    joint = item.text('name')
    scale = item.number('scale', 1.0)
    if scale == 0.0:
        raise item.error('scale', 'a number other than 0')
    relative, measured = '', None
    if 'relative' in item:
        relative = item.choice('relative', ('command', 'measured'))
    if field == 'position':
        measured = _measured(joint, streams, state)
        if measured is None:
            raise item.error(
                'name',
                'a joint whose position is measured, for soft start and stop begin at it: add '
                f'{{stream: ..., field: position, names: [{joint}]}} of a {topics.JOINT_STATE} '
                'stream to features.observation.state (with a scale other than 0)',
            )
    elif relative:
        raise item.error('relative', f'nothing: only a position can be relative, not {field}')
    return CommandField(
        field=field,
        name=joint,
        action=names.index(item.choice('action', names)),
        scale=scale,
        offset=item.number('offset', 0.0),
        relative=relative,
        measured=measured,
    )


def _measured(joint: str, streams: dict[str, Stream], state: tuple[Entry, ...]) -> Measured | None:
    """Return where the position of `joint` is measured first, None if nowhere."""
    places = dict.fromkeys(streams, 0)
    for entry in state:
        if entry.is_previous:
            continue
        begin = places[entry.stream]
        places[entry.stream] += entry.size
        if streams[entry.stream].type != topics.JOINT_STATE or entry.field != 'position':
            continue
        if joint in entry.names:
            i = entry.names.index(joint)
            if entry.scale[i] != 0.0:
                return Measured(entry.stream, begin + i, entry.offset[i], entry.scale[i])
    return None
