# SPDX-License-Identifier: Apache-2.0
"""The policy node in lockstep: weights that come while it drives."""

from __future__ import annotations

import pytest
from policy_scene import (
    CONTRACT,
    make_policy,
    send,
)

from qcfql_ros.contract.chunk_record import decode_chunk
from qcfql_ros.nodes.diagnostics import OK, WARN


def test_new_weights_are_used_from_the_next_chunk_on(scene):
    it = scene()
    it.drive(2)
    new = make_policy(version=5, seed=2)
    send(it.robot, new.to_bytes(), 5)
    it.until(lambda: it.policy._setup.gate.accepted == 1, 'the new policy')
    it.drive(9)
    it.until(lambda: len(it.robot.chunks) == 3, 'the third chunk')
    steps = it.steps()[:9]
    assert [s.policy_version for s in steps] == [0] * 4 + [5] * 5
    chunks = [decode_chunk(m, CONTRACT) for m in it.robot.chunks]
    assert [c.digest for c in chunks[:3]] == [make_policy().digest, new.digest, new.digest]
    assert (it.policy._setup.gate.rejected, it.policy._setup.gate.reason) == (0, '')


@pytest.mark.parametrize(
    ('policy', 'version', 'reason'),
    [
        (make_policy(5, 2, 'f' * 64), 5, 'trained for contract'),
        (make_policy(5, 2), 6, 'the file itself says version 5'),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_the_old_ones_go_on(
    scene, policy, version, reason
):
    it = scene()
    it.drive(2)
    send(it.robot, policy.to_bytes(), version)
    it.until(lambda: it.policy._setup.gate.rejected == 1, 'the refusal')
    assert reason in it.policy._setup.gate.reason
    it.drive(9)
    assert {s.policy_version for s in it.steps()} == {0}


def test_a_refusal_is_said_once_and_hides_no_later_warning(scene):
    it = scene()
    once_a_second = [t for t in it.policy.timers if t.timer_period_ns == 10**9]
    once_a_second[0].cancel()  # this test judges in its place
    it.drive(2)
    send(it.robot, make_policy(5, 2, 'f' * 64).to_bytes(), 5)
    it.until(lambda: it.policy._setup.gate.rejected == 1, 'the refusal')
    level, text = it.policy._diagnostics.judge('')
    assert (level, text.startswith('weights refused: ')) == (WARN, True)
    assert it.policy._diagnostics.judge('') == (OK, '')
    it.policy._setup.counters.ticks += 10
    it.policy._setup.counters.clipped += 7
    assert it.policy._diagnostics.judge('') == (WARN, '7 of 20 action numbers clipped')


def test_versions_must_rise_and_damage_is_refused(scene):
    it = scene()
    it.drive(1)
    send(it.robot, make_policy(5, 2).to_bytes(), 5)
    it.until(lambda: it.policy._setup.gate.accepted == 1, 'version 5')
    send(it.robot, make_policy(4, 3).to_bytes(), 4)
    it.until(lambda: it.policy._setup.gate.rejected == 1, 'the refusal of version 4')
    assert 'not newer than version 5' in it.policy._setup.gate.reason
    blob = bytearray(make_policy(6, 4).to_bytes())
    blob[-1] ^= 1
    send(it.robot, bytes(blob), 6)
    it.until(lambda: it.policy._setup.gate.rejected == 2, 'the refusal of the damaged one')
    assert 'damaged' in it.policy._setup.gate.reason
