# SPDX-License-Identifier: Apache-2.0
"""Bytes that are damaged anywhere: columns of chunks and named vectors are those of one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_ticks import CONTRACT, PERIOD, Ticks

from qcfql_ros.contract.chunk_record import decode_chunk
from qcfql_ros.contract.named_vector import (
    decode_outcome,
    decode_step,
    outcome_values,
    step_values,
)
from qcfql_ros.contract.topics import JOINT_STATE, JOINT_TRAJECTORY
from qcfql_ros.data.bag_file import Message
from qcfql_ros.data.bulk_chunks import decode_chunks
from qcfql_ros.data.cdr import CdrReader
from qcfql_ros.data.received_block import (
    BlockDecoders,
    ReceivedBlock,
    outcome_record,
    step_record,
)
from qcfql_ros.errors import MessageError

S0 = 1_000_000_000_000


def messages(topic: str, random: np.random.Generator) -> list[bytes]:
    log = Ticks()
    for number in range(30):
        log.chunk(S0 + number * PERIOD, number, k=int(random.choice([2, 3, 3, 3])))
        log.step(S0 + number * PERIOD, (number / 30, 0.5), chunk=number)
        log.outcome(S0 + number * PERIOD)
    return [data for name, _, data in log.log if name == topic]


def damaged(data: list[bytes], random: np.random.Generator, share: float) -> list[bytes]:
    """Return the messages with a bit changed in some, and some cut short."""
    made = []
    for one in data:
        content = bytearray(one)
        if random.random() < share:
            content[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
        if random.random() < share / 4:
            content = content[: int(random.integers(len(content) + 1))]
        made.append(bytes(content))
    return made


def decoded(one: bytes, kind: str, decode):
    try:
        return decode(CdrReader()(one, kind))
    except MessageError:
        return None


seeds = st.integers(0, 2**32)
shares = st.sampled_from([0.0, 0.1, 0.5])


@settings(max_examples=150, deadline=None)
@given(seed=seeds, share=shares)
def test_chunks(seed, share):
    random = np.random.default_rng(seed)
    data = damaged(messages('/policy/chunk', random), random, share)
    wanted = [decoded(one, JOINT_TRAJECTORY, lambda m: decode_chunk(m, CONTRACT)) for one in data]
    got = decode_chunks(data, CONTRACT, CdrReader())
    assert [record is None for record in got] == [record is None for record in wanted]
    for ours, theirs in zip(got, wanted, strict=True):
        if theirs is not None:
            first, second = vars(ours), vars(theirs)
            assert first.pop('actions').tobytes() == second.pop('actions').tobytes()
            assert first == second


@pytest.mark.parametrize('topic', ['/policy/step', '/outcome'])
@settings(max_examples=150, deadline=None)
@given(seed=seeds, share=shares)
def test_named_vectors(topic, seed, share):
    random = np.random.default_rng(seed)
    data = damaged(messages(topic, random), random, share)
    block = ReceivedBlock(
        [Message(topic, number, 0, one) for number, one in enumerate(data)],
        BlockDecoders(CONTRACT),
    )
    if topic == '/outcome':
        columns, record, row = block.outcomes, outcome_record, outcome_values
        wanted = [decoded(one, JOINT_STATE, decode_outcome) for one in data]
    else:
        columns, record, row = block.steps, step_record, step_values
        wanted = [decoded(one, JOINT_STATE, lambda m: decode_step(m, CONTRACT)) for one in data]
    assert share or not block.odd.any()
    for i, theirs in enumerate(wanted):
        if theirs is None:
            assert block.odd[i]
        else:
            ours = record(int(columns.stamp_ns[i]), columns.values[i])
            assert ours.stamp_ns == theirs.stamp_ns
            assert row(ours) == row(theirs)
