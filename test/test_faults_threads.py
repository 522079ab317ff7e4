# SPDX-License-Identifier: Apache-2.0
"""Threads of the policy node that die or hang: the robot is held, the node ends and says which."""

from __future__ import annotations

import json
import time

import pytest
from fault_rig import Rig, velocity_contract

from qcfql_ros.nodes.diagnostics import ERROR


@pytest.fixture
def rig(tmp_path):
    it = Rig(tmp_path, velocity_contract(tmp_path))
    yield it
    it.close()


@pytest.mark.parametrize(
    ('fault', 'thread', 'words'),
    [
        ('inference_dies', 'inference', 'RuntimeError: tested'),
        ('inference_hangs', 'inference', 'planning'),
        ('control_dies', 'control', 'RuntimeError: tested'),
        ('control_hangs', 'control', 'hangs'),
    ],
)
def test_a_thread_that_dies_or_hangs_ends_the_node_halted_and_the_robot_standing(
    rig, fault, thread, words
):
    policy = rig.start_policy(fault)
    rig.until_driving()
    begin_ns = time.monotonic_ns()
    rig.trigger.touch()
    assert policy.wait(timeout=20) == 1
    (message,) = rig.last_commands().values()
    assert not rig.moves(message)
    # The robot stood long before the process had ended.
    moved_ns = [t for t, m in rig.commands if rig.moves(m)][-1]
    assert moved_ns - begin_ns < 1.5e9
    rig.until(lambda: rig.level() == ERROR, 'the error')
    for text in (rig.status('policy: control')[1], policy.log.read_text()):
        assert thread in text
        assert words in text
    latch = json.loads((rig.folder / 'state/root_point_reach.json').read_text())
    assert latch['halted']
    assert thread in latch['reason']


def test_while_the_thread_of_callbacks_hangs_the_control_thread_holds_the_robot(rig):
    rig.start_policy('executor_hangs')
    rig.until_driving()
    begin_ns = time.monotonic_ns()
    rig.trigger.touch()
    # Each sensor message blocks for 1 s, five times what it may be old.
    rig.until(lambda: any(t > begin_ns and not rig.moves(m) for t, m in rig.commands), 'the hold')
    held_ns = next(t for t, m in rig.commands if t > begin_ns and not rig.moves(m))
    assert held_ns - begin_ns < 0.8e9
    rig.until(lambda: rig.beats[-1][1].frame_id == 'holding', 'the heartbeat')
    rig.trigger.unlink()
    rig.until(lambda: rig.value('state') in ('halted', 'running'), 'its end')
