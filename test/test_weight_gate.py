# SPDX-License-Identifier: Apache-2.0
"""The gate for new weights: a refusal is counted and said, and never ends the policy."""

from __future__ import annotations

import numpy as np
import pytest

from qcfql_ros.algorithm.policy import ChunkPolicy, PolicyInfo
from qcfql_ros.contract import load_contract
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.planner import Planner
from qcfql_ros.control.tuning import Tuning
from qcfql_ros.errors import MessageError
from qcfql_ros.nodes import weight_gate
from qcfql_ros.nodes.weight_gate import WeightGate
from qcfql_ros.nodes.weights import split

POINT = load_contract('point_reach')


def make_policy(version=0, seed=1):
    sizes = (POINT.state_dim, POINT.action_dim, 4, (8, 8))
    info = PolicyInfo('point_reach', POINT.hash, *sizes, version)
    return ChunkPolicy.random(info, seed)


class Rig:
    def __init__(self):
        self.planner = Planner(make_policy(), 0, Counters())
        self.logged = []
        self.gate = WeightGate(POINT, self.planner, 'cpu', self.logged.append)

    def send(self, blob, version):
        for part in split(blob, version):
            self.gate.take(part)


def test_a_file_whose_header_is_a_list_is_a_refusal():
    rig = Rig()
    rig.send((2).to_bytes(8, 'little') + b'[]', 1)
    assert (rig.gate.accepted, rig.gate.rejected) == (0, 1)
    assert 'not a readable safetensors file' in rig.gate.reason
    assert not rig.logged


def test_something_unexpected_is_a_refusal_logged_with_its_traceback(monkeypatch):
    rig = Rig()

    def breaks(*arguments):
        raise ZeroDivisionError('of a kind that nobody thought of')

    with monkeypatch.context() as broken:
        broken.setattr(weight_gate, 'try_out', breaks)
        rig.send(make_policy(1, 2).to_bytes(), 1)
    assert (rig.gate.accepted, rig.gate.rejected) == (0, 1)
    assert rig.gate.reason == 'ZeroDivisionError: of a kind that nobody thought of'
    assert 'in breaks' in rig.logged[0]
    rig.send(make_policy(2, 3).to_bytes(), 2)
    assert (rig.gate.accepted, rig.gate.rejected) == (1, 1)


def test_a_reason_is_text_that_a_message_can_carry_whatever_the_file_says_of_itself():
    rig = Rig()
    blob = make_policy(1, 2).to_bytes()
    half_a_character = blob.replace(POINT.hash.encode(), b'\\\\ud800' + b'f' * 57)
    assert len(half_a_character) == len(blob)
    rig.send(half_a_character, 1)
    assert rig.gate.rejected == 1
    assert '\\ud800' in rig.gate.reason
    rig.gate.reason.encode()


def test_a_long_reason_is_cut():
    rig = Rig()
    info = PolicyInfo('x' * 100_000, 'h', POINT.state_dim, POINT.action_dim, 4, (8, 8), 1)
    rig.send(ChunkPolicy.random(info).to_bytes(), 1)
    assert rig.gate.rejected == 1
    assert len(rig.gate.reason) < 1000


def test_a_policy_that_plans_longer_than_its_chunk_lasts_is_refused(monkeypatch):
    rig = Rig()
    now = iter(range(100))
    with monkeypatch.context() as slow:
        slow.setattr(weight_gate.time, 'monotonic', lambda: float(next(now)))  # 1 s a plan
        rig.send(make_policy(1, 2).to_bytes(), 1)
    assert (rig.gate.accepted, rig.gate.rejected) == (0, 1)
    assert 'planning a chunk takes 1 s, playing it 0.2 s' in rig.gate.reason
    rig.send(make_policy(2, 2).to_bytes(), 2)
    assert rig.gate.accepted == 1


def test_parts_that_come_faster_than_they_are_checked_do_not_pile_up():
    rig = Rig()
    part = split(bytes(300_000), 1)[0]
    for _ in range(weight_gate.MOST_WAITING + 7):  # nobody works on them
        rig.gate.on_part(part)
    assert rig.gate._parts.qsize() == weight_gate.MOST_WAITING
    assert rig.gate.rejected == 7
    assert 'parts wait' in rig.gate.reason
    rig.gate.on_part(bytes(weight_gate.PART_BYTES + 1))
    assert 'wanted at most 262144' in rig.gate.reason
    rig.gate.stop()
    assert rig.gate._parts.qsize() == 1  # what ends the thread


def test_a_policy_without_candidates_is_refused_while_a_number_of_them_is_wanted():
    rig = Rig()
    rig.planner.tuning.wanted = Tuning(num_action_samples=4)
    rig.send(make_policy(1, 2).to_bytes(), 1)
    assert (rig.gate.accepted, rig.gate.rejected) == (0, 1)
    assert 'has no candidates to choose from' in rig.gate.reason
    rig.planner.tuning.wanted = Tuning()
    rig.send(make_policy(2, 3).to_bytes(), 2)
    assert rig.gate.accepted == 1


def test_a_plan_that_cannot_be_made_as_wanted_is_refused_and_the_next_one_is_made():
    rig = Rig()
    state = np.zeros(POINT.state_dim, np.float32)
    rig.planner.tuning.wanted = Tuning(num_action_samples=4)
    with pytest.raises(MessageError, match='no candidates'):
        rig.planner.plan(state, {}, 0, 0)
    rig.planner.tuning.wanted = Tuning(noise_scale=0.5)
    chunk = rig.planner.plan(state, {}, 0, 0)
    assert (chunk.noise_scale, chunk.num_samples) == (0.5, 0)
    wanted = rig.planner.policy.plan(state, chunk.seed, noise_scale=0.5)
    assert np.array_equal(chunk.actions, wanted)
