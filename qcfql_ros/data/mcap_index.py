# SPDX-License-Identifier: Apache-2.0
"""The message index behind a chunk: how many messages it holds, and where each of them begins."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO

from qcfql_ros.data.bag_file import Channel
from qcfql_ros.data.mcap_records import (
    CHANNEL,
    INDEX_HEAD,
    MESSAGE,
    MESSAGE_HEAD,
    MESSAGE_INDEX,
    RECORD,
    SCHEMA,
)


def count_indexed(
    counts: Mapping[int, int] | None,
    channels: Mapping[int, Channel],
    topics: frozenset[str] | None,
) -> int | None:
    """Return how many messages of `topics` an index names; None without an index.

    Args:
        counts: messages by channel; None without an index.
        channels: of the file.
        topics: all when None.
    """
    if counts is None:
        return None
    return sum(
        count
        for channel, count in counts.items()
        if topics is None or channel not in channels or channels[channel].topic in topics
    )


def indexed_records(stream: BinaryIO, behind: int, records: bytes, begin: int) -> list[bytes]:
    """Return the messages, from `begin` on, on which a chunk and its index agree.

    Args:
        stream: of the file.
        behind: offset of the first byte behind the chunk.
        records: of the chunk, uncompressed.
        begin: offset in `records` from which on they cannot be walked through.
    """
    places: dict[int, tuple[int, int]] = {}
    stream.seek(behind)
    while len(head := stream.read(RECORD.size)) == RECORD.size:
        opcode, length = RECORD.unpack(head)
        if opcode != MESSAGE_INDEX or not INDEX_HEAD.size <= length <= len(records):
            break
        body = stream.read(length)
        channel, size = INDEX_HEAD.unpack_from(body)
        if size != len(body) - INDEX_HEAD.size or size % 16:
            break
        for receive_ns, at in struct.iter_unpack('<QQ', body[INDEX_HEAD.size :]):
            places[at] = (channel, receive_ns)
    found: list[bytes] = []
    for at in sorted(place for place in places if place >= begin):
        if at + RECORD.size + MESSAGE_HEAD.size > len(records):
            continue
        opcode, length = RECORD.unpack_from(records, at)
        channel, _, receive_ns, _ = MESSAGE_HEAD.unpack_from(records, at + RECORD.size)
        stop = at + RECORD.size + length
        known = opcode == MESSAGE and places[at] == (channel, receive_ns)
        led_on = stop in places or stop == len(records)
        if known and (led_on or (stop < len(records) and records[stop] in (SCHEMA, CHANNEL))):
            found.append(records[at:stop])
    return found
