# SPDX-License-Identifier: Apache-2.0
"""The policy node in lockstep: ticks, chunks, and its life cycle."""

from __future__ import annotations

import numpy as np
import pytest
from lifecycle_msgs.msg import State
from policy_scene import (
    CONTRACT,
    PERIOD,
    START,
    Scene,
    make_policy,
)

from qcfql_ros.contract.chunk_record import decode_chunk
from qcfql_ros.contract.decode_commands import decode_commands
from qcfql_ros.control.planner import chunk_seed
from qcfql_ros.errors import ModelError, ParameterError


def test_every_tick_carries_its_stamp_and_row_and_every_chunk_its_making(scene):
    it = scene(episode_ticks=6)
    it.drive(14)
    it.until(lambda: len(it.robot.chunks) == 5, 'the fifth chunk')
    steps = it.steps()[:14]
    gaps = [6, 12]  # after these ticks the final observation takes a stamp
    stamps = [START + (i + sum(i >= g for g in gaps)) * PERIOD for i in range(14)]
    assert [s.stamp_ns for s in steps] == stamps
    assert [s.episode for s in steps] == [0] * 6 + [1] * 6 + [2] * 2
    # A chunk of k rows; the end of an episode drops the rest of it.
    assert [s.index for s in steps] == [0, 1, 2, 3, 0, 1] * 2 + [0, 1]
    assert [s.chunk for s in steps] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4]
    assert all(s.lockstep and s.source == 0 and s.lead_ns == 0 for s in steps)
    sent = dict(it.robot.commands)
    policy = make_policy()
    chunks = {c.chunk: c for c in (decode_chunk(m, CONTRACT) for m in it.robot.chunks)}
    for step in steps:
        row = chunks[step.chunk].actions[step.index]
        np.testing.assert_array_equal(step.action, row)
        commanded = decode_commands(CONTRACT, {'twist_command': sent[step.stamp_ns]})
        np.testing.assert_allclose(commanded, row, atol=1e-6)
    for number, (episode, place, tick) in enumerate([(0, 0, 0), (0, 1, 4), (1, 0, 6)]):
        chunk = chunks[number]
        assert chunk.seed == chunk_seed(7, episode, place)
        assert chunk.digest == policy.digest
        assert set(chunk.observation_stamps.values()) == {stamps[tick]}
        seen = np.array([0.01 * (tick % 6), 0.5, 0.0, 0.0, 1.0, 0.0], np.float32)
        np.testing.assert_array_equal(policy.plan(seen, chunk.seed), chunk.actions)


def test_the_same_seed_repeats_the_same_payloads_and_stamps(tmp_path):
    def run(seed):
        it = Scene(tmp_path, episode_ticks=5, seed=seed)
        try:
            it.drive(12)
            return [(s.stamp_ns, s.action.tolist(), s.chunk) for s in it.steps()[:12]]
        finally:
            it.close()

    assert run(3) == run(3) != run(4)


def test_an_observation_that_is_not_a_number_is_held_and_counted(scene):
    it = scene()
    it.robot.nan_at = {2}
    it.drive(5)
    steps = it.steps()[:5]
    assert [s.source for s in steps] == [0, 0, 2, 0, 0]
    assert steps[2].action.tolist() == list(CONTRACT.action.hold)
    assert (steps[3].chunk, steps[3].index) == (1, 0)
    assert it.policy._setup.counters.refused >= 1


@pytest.mark.parametrize('transition', ['trigger_deactivate', 'close'])
def test_the_last_command_is_the_hold_row(scene, transition):
    it = scene()
    it.drive(3)
    getattr(it.policy, transition)()
    heard = (it.robot.steps, it.robot.commands)
    it.until(lambda: all(len(messages) == 5 for messages in heard), 'the safe command')
    last = it.robot.commands[-1][1]
    np.testing.assert_array_equal(
        decode_commands(CONTRACT, {'twist_command': last}), CONTRACT.action.hold
    )
    assert it.steps()[-1].source == 3


def test_a_deactivated_node_can_be_activated_again(scene):
    it = scene()
    it.drive(2)
    it.policy.trigger_deactivate()
    state = it.policy._state_machine.current_state[0]
    assert state == State.PRIMARY_STATE_INACTIVE
    it.policy.trigger_activate()
    before = len(it.robot.steps)
    it.robot.stamp += 10 * PERIOD
    it.robot.limit = 100
    it.begin()
    it.until(lambda: len(it.robot.steps) > before + 5, 'ticks after the second activation')


def test_a_model_of_another_contract_is_refused_naming_both(tmp_path):
    with pytest.raises(ModelError, match=f"'point_reach' \\({'f' * 12}\\).*{CONTRACT.hash[:12]}"):
        Scene(tmp_path, policy=make_policy(contract_hash='f' * 64))


def test_a_node_without_a_model_says_which_parameter_to_give(tmp_path):
    with pytest.raises(ParameterError, match='parameter model is not set'):
        Scene(tmp_path, model='')
