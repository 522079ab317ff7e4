# SPDX-License-Identifier: Apache-2.0
"""Whether the types in a recording are those that are wanted of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from qcfql_ros.data.bag_file import Channel
from qcfql_ros.data.bag_metadata import type_definition
from qcfql_ros.errors import BagError


def check_channels(bag: Path, channels: Iterable[Channel], wanted: Mapping[str, str]) -> None:
    """Hold topics against the types they must have.

    Args:
        bag: named in the error.
        channels: what the bag has.
        wanted: topic to type (``package/msg/Name``); topics that the bag lacks are no error here.

    Raises:
        BagError: a topic has another type, the type has other fields, or it is not in CDR.
    """
    for channel in channels:
        want = wanted.get(channel.topic)
        if want is None:
            continue
        if channel.type_name != want:
            raise BagError(
                f'{bag}: topic {channel.topic} has the type {channel.type_name or "(none)"}, '
                f'want {want}'
            )
        if channel.serialization != 'cdr':
            raise BagError(
                f'{bag}: topic {channel.topic} is serialised as {channel.serialization!r}, '
                'want cdr'
            )
        got = type_hash(channel)
        known = _known_hash(want)
        if got and known and got != known:
            raise BagError(
                f'{bag}: topic {channel.topic} has a {want} with other fields than ours: type '
                f'hash {got}, want {known}; compare the definition in the bag with that of ROS 2 '
                'Jazzy'
            )


def type_hash(channel: Channel) -> str:
    """Return the RIHS01 hash of a channel's type: as the bag names it, else of its definition.

    Empty where the bag has neither, or a definition that cannot be read.
    """
    if channel.type_hash:
        return channel.type_hash
    if channel.encoding != 'ros2msg' or not channel.definition:
        return ''
    return _hash_of(channel.type_name, channel.definition)


def definition_of(channel: Channel) -> str:
    """Return the type's definition (ros2msg): the bag's own, else that of the installed type.

    Raises:
        BagError: neither has one.
    """
    if channel.definition:
        return channel.definition.decode(errors='replace')
    return type_definition(channel.type_name)[0]


def _known_hash(type_name: str) -> str:
    try:
        return type_definition(type_name)[1]
    except BagError:
        return ''


@lru_cache(maxsize=256)
def _hash_of(type_name: str, definition: bytes) -> str:
    from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

    try:
        types = get_types_from_msg(definition.decode(), type_name)
        store = get_typestore(Stores.EMPTY)
        store.register(types)
        return str(store.hash_rihs01(type_name))
    except (TypesysError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return ''
