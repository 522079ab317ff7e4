# SPDX-License-Identifier: Apache-2.0
"""Safety filter, halt latch, chunk buffer and planner."""

from __future__ import annotations

import json

import numpy as np
import pytest
from control_parts import CountingPolicy

from qcfql_ros.control.chunk_buffer import ChunkBuffer
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.halt import HaltLatch, latch_file
from qcfql_ros.control.planner import Planner, chunk_seed
from qcfql_ros.errors import MessageError, ParameterError

OBSERVATION = np.zeros(6, np.float32)


def chunk_of(buffer, planner, episode=0):
    return planner.plan(OBSERVATION, {}, episode, buffer.epoch)


def test_a_halt_survives_a_restart_until_it_is_resumed(tmp_path):
    file = tmp_path / 'run' / 'policy_state.json'
    HaltLatch(file).halt('tested')
    again = HaltLatch(file)
    assert again.halted
    assert again.reason == 'tested'
    again.resume()
    assert not HaltLatch(file).halted


def test_an_unclean_end_comes_up_halted_and_a_clean_one_does_not(tmp_path):
    file = tmp_path / 'policy_state.json'
    HaltLatch(file).driving(True)
    assert HaltLatch(file, 'wait').halted
    again = HaltLatch(file, 'wait')
    again.resume()
    again.driving(True)
    assert not HaltLatch(file, 'resume').halted
    again.driving(True)
    again.driving(False)
    assert not HaltLatch(file, 'wait').halted


def test_a_halt_that_was_asked_for_outlives_a_restart_whatever_follows_a_crash(tmp_path):
    file = tmp_path / 'policy_state.json'
    HaltLatch(file, 'resume').halt('tested')
    assert HaltLatch(file, 'resume').reason == 'tested'


def test_what_is_found_at_the_start_stays_on_disk_until_a_clean_end(tmp_path):
    file = tmp_path / 'policy_state.json'
    HaltLatch(file).driving(True)
    HaltLatch(file)  # started, and killed before it drove
    assert HaltLatch(file).reason == 'the process before this one did not end cleanly'


@pytest.mark.parametrize('text', ['', '{"halted": fal', '[]', '\x00\x00'])
def test_a_damaged_state_file_counts_as_an_unclean_end(tmp_path, text):
    file = tmp_path / 'policy_state.json'
    file.write_text(text)
    assert HaltLatch(file).halted


def test_a_halt_holds_although_the_disk_refuses(tmp_path):
    file = tmp_path / 'policy_state.json'
    (tmp_path / 'policy_state.tmp').mkdir()  # in the place of the temporary file
    latch = HaltLatch(file)
    latch.halt('tested')
    assert latch.halted
    assert 'cannot be written' in latch.disk_error


@pytest.mark.parametrize('after_crash', ['wait', 'resume'])
def test_where_nothing_can_be_kept_whoever_waits_after_a_crash_starts_halted(
    tmp_path, after_crash
):
    (tmp_path / 'a_file').write_text('')
    latch = HaltLatch(tmp_path / 'a_file' / 'policy_state.json', after_crash)
    assert 'cannot be written' in latch.disk_error
    assert latch.halted is (after_crash == 'wait')
    assert ('cannot be written' in latch.reason) is latch.halted
    latch.resume()
    assert not latch.halted


def test_a_robot_has_one_latch_file_wherever_its_runs_are(tmp_path, monkeypatch):
    monkeypatch.setenv('ROS_HOME', str(tmp_path))
    own = tmp_path / 'qcfql_ros'
    assert latch_file('', '/', 'point', 'wait') == own / 'root_point.json'
    assert latch_file('', '/arm/left', 'point', 'wait') == own / 'arm.left_point.json'
    assert latch_file('', '/', 'a/../b: c', 'wait') == own / 'root_a%2F..%2Fb%3A%20c.json'
    monkeypatch.delenv('ROS_HOME')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert latch_file('', '/', 'point', 'wait') == tmp_path / '.ros/qcfql_ros/root_point.json'
    assert latch_file('~/kept', '/', 'p', 'resume') == tmp_path / 'kept/root_p.json'


def test_whoever_goes_on_after_a_crash_keeps_a_latch_only_where_told_to(tmp_path, monkeypatch):
    monkeypatch.setenv('ROS_HOME', str(tmp_path))
    assert latch_file('', '/', 'point', 'resume') is None


def test_without_a_home_the_setting_to_give_is_named(monkeypatch):
    monkeypatch.delenv('ROS_HOME', raising=False)
    monkeypatch.setattr('os.path.expanduser', lambda path: path)
    with pytest.raises(ParameterError, match='state_dir'):
        latch_file('', '/', 'point', 'wait')


def test_rows_are_taken_one_by_one_and_the_next_chunk_follows():
    buffer = ChunkBuffer()
    planner = Planner(CountingPolicy(), 0, Counters())
    assert buffer.take() is None
    assert buffer.offer(chunk_of(buffer, planner))
    assert buffer.take()[1] == 0
    assert buffer.offer(chunk_of(buffer, planner))
    assert buffer.rows_left() == 7
    taken = [buffer.take() for _ in range(7)]
    assert [(chunk.number, index) for chunk, index in taken] == [
        (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3),
    ]  # fmt: skip
    assert buffer.take() is None


def test_a_chunk_planned_before_a_reset_is_never_played_after_it():
    buffer = ChunkBuffer()
    planner = Planner(CountingPolicy(), 0, Counters())
    before = chunk_of(buffer, planner)
    buffer.reset()
    assert not buffer.offer(before)
    assert buffer.take() is None
    assert buffer.discarded == 1


def test_the_seed_of_a_chunk_depends_on_run_episode_and_place_alone():
    seeds = {chunk_seed(s, e, c) for s in range(5) for e in range(20) for c in range(20)}
    assert len(seeds) == 2000
    assert max(seeds) < 2**53
    assert chunk_seed(7, 3, 2) == 3032877596287714  # the rule is part of the record


def test_seeds_begin_anew_in_every_episode():
    policy = CountingPolicy()
    planner = Planner(policy, 5, Counters())
    buffer = ChunkBuffer()
    for episode in (0, 0, 0, 1, 1):
        chunk_of(buffer, planner, episode)
    wanted = [chunk_seed(5, e, c) for e, c in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]]
    assert policy.seeds == wanted


def test_a_policy_offered_is_used_from_the_next_chunk_on():
    planner = Planner(CountingPolicy(1), 0, Counters())
    buffer = ChunkBuffer()
    assert chunk_of(buffer, planner).version == 1
    planner.offer(CountingPolicy(2))
    planner.offer(CountingPolicy(3))
    assert planner.policy.info.version == 1  # nothing changes between two chunks
    assert chunk_of(buffer, planner).version == 3


def test_a_plan_from_or_with_numbers_that_are_not_finite_is_refused():
    policy = CountingPolicy()
    planner = Planner(policy, 0, Counters())
    with pytest.raises(MessageError, match='observation is not finite'):
        planner.plan(np.full(6, np.nan, np.float32), {}, 0, 0)
    policy.actions[2, 1] = np.inf
    with pytest.raises(MessageError, match='policy 1 planned actions'):
        planner.plan(OBSERVATION, {}, 0, 0)


def test_the_state_file_is_plain_json(tmp_path):
    file = tmp_path / 'policy_state.json'
    HaltLatch(file).halt('tested')
    assert json.loads(file.read_text()) == {'halted': True, 'driving': False, 'reason': 'tested'}
