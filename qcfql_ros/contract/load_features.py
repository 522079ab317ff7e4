# SPDX-License-Identifier: Apache-2.0
"""The sensor streams and features of a contract file."""

from __future__ import annotations

from qcfql_ros.contract import topics
from qcfql_ros.contract.load_action import read_topic
from qcfql_ros.contract.schema import Entry, Stream
from qcfql_ros.contract.section import Section
from qcfql_ros.errors import ContractError, nearest

_AXES = ('x', 'y', 'z')
_QUATERNION = ('x', 'y', 'z', 'w')
_POSE = {'position': _AXES, 'orientation': _QUATERNION}
_TWIST = {'linear': _AXES, 'angular': _AXES}
_WRENCH = {'force': _AXES, 'torque': _AXES}
_IMU = {'orientation': _QUATERNION, 'angular_velocity': _AXES, 'linear_acceleration': _AXES}
# Fields of each sensor type: None for values by joint name, else the components in order; none of
# a number or an array.
SENSOR_FIELDS: dict[str, dict[str, tuple[str, ...] | None]] = {
    topics.JOINT_STATE: dict.fromkeys(('position', 'velocity', 'effort')),
    topics.POSE: {**_POSE},
    topics.POSE_STAMPED: {**_POSE},
    topics.TWIST: {**_TWIST},
    topics.TWIST_STAMPED: {**_TWIST},
    topics.WRENCH: {**_WRENCH},
    topics.WRENCH_STAMPED: {**_WRENCH},
    topics.IMU: {**_IMU},
    **{kind: {'data': ()} for kind in (*topics.NUMBER_TYPES, *topics.ARRAY_TYPES)},
}
ORIENTATION_SIZES = {'wxyz': 4, 'xyzw': 4, 'cos_sin_yaw': 2}
_KEYS = ('stream', 'field', 'names', 'as', 'offset', 'scale', 'size', 'index', 'previous')
_IMAGES = 'observation.images.'
_LONGEST = 100_000  # numbers in an array


def read_streams(top: Section) -> dict[str, Stream]:
    """Return the sensor streams by name.

    Raises:
        ContractError: something is wrong with them.
    """
    data = top.data['streams']
    if not isinstance(data, dict) or not data:
        raise top.error('streams', 'a mapping of stream names')
    table = top.section('streams', (), data)
    streams = {}
    for name in data:
        section = table.section(name, ('topic', 'type'), ('max_age_s',))
        streams[name] = Stream(
            name=str(name),
            topic=read_topic(section),
            type=section.choice('type', SENSOR_FIELDS),
            max_age_s=section.number('max_age_s', 0.5, 0.001, 3600.0),
        )
    return streams


def read_features(
    top: Section, streams: dict[str, Stream], actions: tuple[str, ...]
) -> tuple[tuple[Entry, ...], dict[str, Stream]]:
    """Return the entries of ``observation.state``, and the images by feature name.

    Raises:
        ContractError: something is wrong with them.
    """
    data = top.data['features']
    if not isinstance(data, dict):
        raise top.error('features', 'a mapping with observation.state')
    images = tuple(k for k in data if str(k).startswith(_IMAGES) and len(str(k)) > len(_IMAGES))
    table = top.section('features', ('observation.state',), images)
    sections = table.sections('observation.state', (), _KEYS)
    entries = tuple(_entry(section, streams, actions) for section in sections)
    unread = set(streams) - {entry.stream for entry in entries}
    if unread:
        raise ContractError(
            f'{top.file}: streams.{sorted(unread)[0]}: no entry of observation.state reads it; '
            'remove it or read it'
        )
    lengths: dict[str, int] = {}
    for section, entry in zip(sections, entries, strict=True):
        if entry.length != lengths.setdefault(entry.stream, entry.length):
            raise section.error(
                'size', f'{lengths[entry.stream]}, as the entry of {entry.stream!r} before says'
            )
    cameras = {}
    for name in images:
        section = table.section(name, ('topic', 'type'))
        kind = section.choice('type', topics.IMAGE_TYPES)
        cameras[name] = Stream(name, read_topic(section), kind, 0.0)
    return entries, cameras


def _entry(section: Section, streams: dict[str, Stream], actions: tuple[str, ...]) -> Entry:
    if 'previous' in section and 'stream' not in section:
        return _previous(section, actions)
    for key in ('stream', 'field'):
        if key not in section:
            raise section.error(key, 'a stream and its field, or {previous: action}')
    if 'previous' in section:
        raise section.error('previous', 'nothing beside a stream: an entry of its own')
    stream = section.choice('stream', streams)
    kind = streams[stream].type
    field = section.choice('field', SENSOR_FIELDS[kind])
    if 'as' in section and field != 'orientation':
        raise section.error('as', 'nothing: only an orientation has it')
    index: tuple[int, ...] = ()
    length = 0
    form = 'plain'
    if kind in topics.ARRAY_TYPES:
        names, index, length = _elements(section)
        size = len(index)
    else:
        for key in ('size', 'index'):
            if key in section:
                raise section.error(key, f'nothing: a {kind} is no array')
        names = section.names('names')
        if field == 'orientation':
            form = section.choice('as', ORIENTATION_SIZES, 'xyzw')
            if names:
                raise section.error('names', 'nothing: an orientation is read whole, see `as`')
            size = ORIENTATION_SIZES[form]
        elif kind in topics.NUMBER_TYPES:
            if names:
                raise section.error('names', f'nothing: a {kind} is one number')
            size = 1
        else:
            names = _components(section, field, names, SENSOR_FIELDS[kind][field])
            size = len(names)
    return Entry(
        stream=stream,
        field=field,
        names=names,
        form=form,
        offset=section.numbers('offset', size, 0.0),
        scale=section.numbers('scale', size, 1.0),
        index=index,
        length=length,
    )


def _previous(section: Section, actions: tuple[str, ...]) -> Entry:
    section.choice('previous', ('action',))
    for key in ('field', 'as', 'offset', 'scale', 'size', 'index'):
        if key in section:
            raise section.error(key, 'nothing: the previous action is in the units of the row')
    names = section.names('names') or actions
    for name in names:
        if name not in actions:
            raise section.error('names', f'some of {", ".join(actions)}{nearest(name, actions)}')
    nothing = (0.0,) * len(names)
    return Entry('', 'previous', names, 'plain', nothing, (1.0,) * len(names))


def _components(
    section: Section, field: str, names: tuple[str, ...], components: tuple[str, ...] | None
) -> tuple[str, ...]:
    if components is None:
        if not names:
            raise section.error('names', f'the joints to read {field} of')
        return names
    if not set(names) <= set(components):
        raise section.error('names', f'some of {", ".join(components)}')
    return names or components


def _elements(section: Section) -> tuple[tuple[str, ...], tuple[int, ...], int]:
    """Return labels, places and the length of the array: its numbers have no names."""
    names = section.names('names')
    if 'size' in section:
        length = section.whole('size', 1, _LONGEST)
    elif 'index' in section or not names:
        raise section.error('size', 'how many numbers the array has')
    else:
        length = len(names)
    index = section.wholes('index', 0, length - 1) or tuple(range(length))
    if names and len(names) != len(index):
        raise section.error('names', f'{len(index)} names, one for each number that is read')
    return names or tuple(map(str, index)), index, length
