# SPDX-License-Identifier: Apache-2.0
"""Many announced chunks at once; `contract.chunk_record` is the definition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcfql_ros.contract.chunk_record import ChunkRecord, decode_chunk, record_of
from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import JOINT_TRAJECTORY
from qcfql_ros.data.alike import Alike, lay_out
from qcfql_ros.data.cdr import CdrReader
from qcfql_ros.errors import MessageError


def decode_chunks(
    data: Sequence[bytes], contract: Contract, read: CdrReader
) -> list[ChunkRecord | None]:
    """Return the chunk in each message in CDR; None where there is none.

    Args:
        data: the messages.
        contract: whose actions they have.
        read: for those that are like no other.
    """
    records: list[ChunkRecord | None] = [None] * len(data)
    alike, single = lay_out(data, JOINT_TRAJECTORY, read)
    for group in alike:
        single += _decode_group(group, contract, records)
    for i in single:
        try:
            records[i] = decode_chunk(read(data[i], JOINT_TRAJECTORY), contract)
        except MessageError:
            records[i] = None
    return records


def _decode_group(
    group: Alike, contract: Contract, records: list[ChunkRecord | None]
) -> list[int]:
    """Fill in the records of messages that are alike; return those that are to be looked at."""
    layout, dim = group.layout, contract.action_dim
    sizes = {size for _, size in layout.numbers.values()}
    if layout.names != contract.action.names or sizes != {dim}:
        return group.index.tolist()
    points = [group.numbers(name) for name in layout.numbers]
    with np.errstate(over='ignore'):
        actions = np.stack(points, axis=1).astype(np.float32)
    stamps, good = group.stamps()
    good &= np.isfinite(actions).all(axis=(1, 2))
    left = []
    for row, (i, frame_id) in enumerate(zip(group.index.tolist(), group.frame_ids(), strict=True)):
        try:
            if not good[row] or frame_id[-1:] != b'\0':
                raise ValueError('not as it must be')
            records[i] = record_of(frame_id[:-1].decode(), int(stamps[row]), actions[row])
        except (MessageError, ValueError):
            left.append(i)
    return left
