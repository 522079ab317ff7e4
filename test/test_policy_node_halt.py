# SPDX-License-Identifier: Apache-2.0
"""The policy node in lockstep: halt, resume, and what they outlive."""

from __future__ import annotations

import json

from policy_scene import (
    CONTRACT,
    waiting_contract,
)

from qcfql_ros.nodes.diagnostics import ERROR


def test_a_halt_takes_effect_at_the_next_tick_and_stays_until_resumed(scene, tmp_path):
    it = scene()
    it.drive(3)  # the command of tick 3 is out already
    assert it.call('halt').success
    it.robot.limit = 1000
    it.robot.execute()
    heard = it.robot.steps
    it.until(lambda: it.robot.tick == 5 and len(heard) == 5, 'the safe command')
    steps = it.steps()
    assert [s.source for s in steps] == [0, 0, 0, 0, 3]
    assert steps[-1].action.tolist() == list(CONTRACT.action.hold)
    assert json.loads((tmp_path / 'state/root_point_reach.json').read_text())['halted']
    # A second halt is answered after everything before it was handled: nothing more was sent.
    assert it.call('halt').success
    assert len(it.robot.commands) == 5
    it.robot.limit = 7
    assert it.call('resume').success
    it.until(lambda: it.robot.tick == 7 and len(heard) > 5, 'driving again')
    assert (it.steps()[5].source, it.steps()[5].episode) == (0, 1)


def test_a_halt_outlives_cleanup_and_restart(scene):
    it = scene()
    it.drive(2)
    assert it.call('halt').success
    for transition in ('deactivate', 'cleanup', 'configure', 'activate'):
        getattr(it.policy, f'trigger_{transition}')()
    assert it.policy._setup.latch.halted
    it.close()
    again = scene()
    assert again.policy._setup.latch.reason == 'asked for by ~/halt'


def test_a_halt_kept_in_memory_outlives_cleanup_and_no_restart(scene):
    it = scene(state_dir='')
    it.drive(2)
    assert it.policy._setup.latch.file is None
    assert it.call('halt').success
    for transition in ('deactivate', 'cleanup', 'configure'):
        getattr(it.policy, f'trigger_{transition}')()
    assert it.policy._setup.latch.reason == 'asked for by ~/halt'
    it.close()
    assert not scene(state_dir='').policy._setup.latch.halted


def test_a_thread_that_died_is_no_clean_end(scene, tmp_path):
    it = scene(contract=waiting_contract(tmp_path))
    it.drive(2)
    it.stop.request(RuntimeError('tested'))
    it.close()
    again = scene(contract=waiting_contract(tmp_path))
    assert again.policy._setup.latch.reason == 'the process before this one did not end cleanly'


def test_where_no_latch_can_be_kept_a_waiting_robot_starts_halted_and_says_why(scene, tmp_path):
    (tmp_path / 'a_file').write_text('')
    it = scene(contract=waiting_contract(tmp_path), state_dir=str(tmp_path / 'a_file'))
    level, text = it.policy._diagnostics.judge('')
    assert level == ERROR
    assert 'cannot be written' in text
    assert 'halted' in text
    assert 'call ~/resume to drive' in text
