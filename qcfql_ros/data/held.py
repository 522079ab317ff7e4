# SPDX-License-Identifier: Apache-2.0
"""What the assembler holds when a stretch begins, as columns like those of the stretch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from qcfql_ros.contract.chunk_record import ChunkRecord
from qcfql_ros.contract.named_vector import (
    META_KINDS,
    OUTCOME_KINDS,
    outcome_values,
    step_values,
)
from qcfql_ros.data.received import Received
from qcfql_ros.data.received_block import Columns


@dataclass(eq=False)
class Held:
    """What the assembler has from before the stretch, as columns whose `at` is -1.

    Attributes:
        steps: that wait.
        executed: steps that may be the previous action of later ones; empty where not wanted.
        first_step_ns: stamp of the first step since the assembler began anew; None for none.
        outcomes: not used yet.
        chunks: not used yet.
        chunk_records: of each row of `chunks`.
        streams: the buffers.
        usable: of each stream, (n,) bool.
    """

    steps: Columns
    executed: Columns
    first_step_ns: int | None
    outcomes: Columns
    chunks: Columns
    chunk_records: list[ChunkRecord | None]
    streams: dict[str, Columns]
    usable: dict[str, np.ndarray]


def hold(store: Received, action_dim: int, widths: Mapping[str, int]) -> Held | None:
    """Return what the assembler has received as columns; None where it cannot be.

    Args:
        store: of the assembler.
        action_dim: of the contract.
        widths: how many numbers each stream adds to the state.
    """
    outcomes = [outcome for outcome in store.outcomes.values() if outcome is not None]
    chunks = list(store.chunks)
    if len(outcomes) < len(store.outcomes) or any(b <= a for a, b in pairwise(chunks)):
        return None
    waiting, executed = list(store.pending), list(store.executed.values())
    width = action_dim + len(META_KINDS)
    streams, usable = {}, {}
    for name, buffer in store.streams.items():
        entries = buffer.entries()
        size = widths[name]
        nothing = np.full(size, np.nan)
        streams[name] = _columns(
            [entry[0] for entry in entries],
            [entry[1] for entry in entries],
            [nothing if entry[2] is None else entry[2] for entry in entries],
            size,
        )
        usable[name] = np.array([entry[2] is not None for entry in entries], bool)
    return Held(
        steps=_columns(
            [entry.record.stamp_ns for entry in waiting],
            [entry.receive_ns for entry in waiting],
            [step_values(entry.record) for entry in waiting],
            width,
        ),
        executed=_columns(
            [record.stamp_ns for record in executed],
            [0] * len(executed),
            [step_values(record) for record in executed],
            width,
        ),
        first_step_ns=store.first_step_ns,
        outcomes=_columns(
            [outcome.stamp_ns for outcome in outcomes],
            [0] * len(outcomes),
            [outcome_values(outcome) for outcome in outcomes],
            len(OUTCOME_KINDS),
        ),
        chunks=_columns(chunks, [0] * len(chunks), [[]] * len(chunks), 0),
        chunk_records=list(store.chunks.values()),
        streams=streams,
        usable=usable,
    )


def _columns(
    stamp_ns: Sequence[int],
    receive_ns: Sequence[int],
    values: Sequence[Sequence[float] | np.ndarray],
    width: int,
) -> Columns:
    """Return messages from before the block as columns."""
    n = len(stamp_ns)
    return Columns(
        np.full(n, -1, np.int64),
        np.array(stamp_ns, np.int64),
        np.array(receive_ns, np.int64),
        np.array(values, np.float64).reshape(n, width),
    )
