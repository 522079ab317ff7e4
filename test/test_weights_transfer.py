# SPDX-License-Identifier: Apache-2.0
"""Weights in parts: whatever happens on the way, the whole arrives or a WeightError says why."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcfql_ros.errors import WeightError
from qcfql_ros.nodes.weights import (
    MAX_BLOB_BYTES,
    PART_BYTES,
    ReceivedWeights,
    WeightReceiver,
    read_header,
    split,
)

BLOBS = {
    1: hashlib.sha256(b'one').digest() * 20_000,  # 3 parts
    2: hashlib.sha256(b'two').digest() * 9_000,  # 2 parts
}
PARTS = {version: split(blob, version) for version, blob in BLOBS.items()}


def receive_all(parts):
    receiver = WeightReceiver()
    whole, errors = [], 0
    for part in parts:
        try:
            received = receiver.receive(part)
        except WeightError:
            errors += 1
        else:
            whole += [received] if received else []
    return whole, errors


@pytest.mark.parametrize('size', [1, 1000, PART_BYTES - 78, PART_BYTES, 3 * PART_BYTES + 1])
def test_a_blob_of_any_size_comes_back(size):
    blob = bytes(i % 251 for i in range(size))
    parts = split(blob, 7)
    assert all(len(part) <= PART_BYTES for part in parts)
    whole, errors = receive_all(parts)
    assert [(w.version, w.blob) for w in whole] == [(7, blob)]
    assert errors == 0
    receiver = WeightReceiver()
    assert [b for b in map(receiver.push, parts) if b] == [blob]


@pytest.mark.parametrize('size', [0, MAX_BLOB_BYTES + 1])
def test_empty_and_huge_blobs_are_refused(size):
    class Sized(bytes):
        def __len__(self):
            return size

    with pytest.raises(WeightError, match=f'{size} bytes'):
        split(Sized(), 1)


@given(order=st.permutations([(v, i) for v in PARTS for i in range(len(PARTS[v]))] * 2))
@settings(max_examples=60, deadline=None)
def test_parts_in_any_order_mixed_and_repeated_give_each_policy(order):
    whole, errors = receive_all(PARTS[version][index] for version, index in order)
    assert errors == 0
    assert {w.version: w.blob for w in whole} == BLOBS


@st.composite
def damaged_rows(draw):
    """Parts of two policies with some lost, cut short, lengthened or with flipped bytes."""
    row = []
    for _version, parts in PARTS.items():
        for part in parts:
            damage = draw(
                st.sampled_from(['none', 'none', 'flip', 'cut', 'grow', 'lose', 'twice'])
            )
            if damage == 'flip':
                # Half of them in the header, where a byte means most.
                top = draw(st.sampled_from([78, len(part)])) - 1
                at = draw(st.integers(0, top))
                part = part[:at] + bytes([part[at] ^ draw(st.integers(1, 255))]) + part[at + 1 :]
            elif damage == 'cut':
                part = part[: draw(st.integers(0, len(part) - 1))]
            elif damage == 'grow':
                part += draw(st.binary(min_size=1, max_size=8))
            row += {'lose': [], 'twice': [part, part]}.get(damage, [part])
    return draw(st.permutations(row))


@given(row=damaged_rows())
@settings(max_examples=150, deadline=None)
def test_damage_never_crashes_and_never_gives_other_bytes(row):
    whole, _ = receive_all(row)
    assert all(isinstance(w, ReceivedWeights) for w in whole)
    # Version and session may be flipped in the header of a single part, the blob never.
    assert {w.blob for w in whole} <= set(BLOBS.values())


@given(noise=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_noise_is_a_weight_error(noise):
    with pytest.raises(WeightError):
        WeightReceiver().receive(noise)


def test_a_corrupted_payload_drops_the_transfer_and_a_repeat_succeeds():
    receiver = WeightReceiver()
    parts = PARTS[1]
    bad = parts[1][:-1] + bytes([parts[1][-1] ^ 1])
    receiver.receive(parts[0])
    receiver.receive(bad)
    with pytest.raises(WeightError, match='SHA-256'):
        receiver.receive(parts[2])
    assert next(r for r in map(receiver.receive, parts) if r).blob == BLOBS[1]


def test_a_receiver_keeps_at_most_two_unfinished_transfers():
    receiver = WeightReceiver()
    for version in range(20):
        receiver.receive(split(BLOBS[1], version)[0])
    assert len(receiver._open) == 2


def test_a_header_that_claims_a_huge_policy_is_refused():
    part = bytearray(PARTS[1][0])
    part[34:42] = (MAX_BLOB_BYTES + 1).to_bytes(8, 'little')
    with pytest.raises(WeightError):
        read_header(bytes(part))
