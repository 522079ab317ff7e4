# SPDX-License-Identifier: Apache-2.0
"""record-demos: the expert drives through topics, and the bag holds every message once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from qcfql_ros.contract import load_contract
from qcfql_ros.data.assembler import Assembler
from qcfql_ros.data.reader import bag_info, read_bag
from qcfql_ros.data.steps import SegmentEnd, Source, Step
from qcfql_ros.robots.expert import make_expert

COMMAND = [sys.executable, '-m', 'qcfql_ros.cli', 'record-demos']


def record(*arguments, timeout=120):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout
    )


def events_of(bag, contract):
    assembler = Assembler(contract)
    events = [e for message in read_bag(bag) for e in assembler.push(*message)]
    return [*events, *assembler.finish()]


@pytest.fixture(scope='module')
def bags(tmp_path_factory):
    """Two bags of the same seed: two episodes and a half of the point."""
    made = []
    for name in ('a', 'b'):
        bag = tmp_path_factory.mktemp('demos') / name
        report = bag.parent / 'report.json'
        done = record(
            '--robot', 'point_reach', '--steps', 500, '--seed', 3, '--out', bag, '--json', report
        )
        assert done.returncode == 0, done.stderr
        made.append((bag, json.loads(report.read_text()), done))
    return made


def test_every_message_is_in_the_bag_once(bags):
    bag, report, done = bags[0]
    assert report['ticks'] == 500
    assert report['episodes'] == 3
    counts = bag_info(bag).counts
    assert {
        topic: counts[topic]
        for topic in ('/outcome', '/policy/step', '/twist_command', '/joint_states', '/goal_pose')
    } == {
        '/outcome': 500,
        '/policy/step': 500,
        '/twist_command': 500,
        '/joint_states': 503,
        '/goal_pose': 503,
    }
    assert 'recorded 500 ticks in 3 episodes' in done.stdout
    assert done.stderr == ''


def test_the_bag_becomes_steps_of_whole_play_episodes(bags):
    contract = load_contract('point_reach')
    events = events_of(bags[0][0], contract)
    steps = [e for e in events if isinstance(e, Step)]
    ends = [(events[i - 1], e) for i, e in enumerate(events) if isinstance(e, SegmentEnd)]
    assert len(steps) == 500
    assert {s.source for s in steps} == {Source.PERSON}
    # Episodes of 200 ticks that go on after the task is solved; the last one is broken off.
    assert [s.episode for s in steps] == [0] * 200 + [1] * 200 + [2] * 100
    assert sum(s.terminated for s in steps) > 10
    assert [e.episode_end for _, e in ends] == [True, True, False]
    assert all(e.truncated is not last.terminated for last, e in ends)


def test_the_same_seed_records_the_same_steps(bags):
    contract = load_contract('point_reach')
    first, second = (
        [e for e in events_of(bag, contract) if isinstance(e, Step)] for bag, _, _ in bags
    )
    for one, other in zip(first, second, strict=True):
        assert one.stamp_ns == other.stamp_ns
        assert np.array_equal(one.observation, other.observation)
        assert np.array_equal(one.action, other.action)


def test_a_folder_that_is_not_empty_is_refused_untouched(bags):
    bag = bags[0][0]
    before = {p: p.stat().st_mtime_ns for p in bag.iterdir()}
    done = record('--robot', 'point_reach', '--out', bag)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert 'is not empty' in done.stderr
    assert {p: p.stat().st_mtime_ns for p in bag.iterdir()} == before


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--robot', 'ur5_cube'], "did you mean 'ur5e_cube'"),
        (['--steps', '0'], '--steps is 0'),
        (['--contract', 'nope.yaml'], 'no such file'),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(tmp_path, arguments, message):
    out = tmp_path / 'bag'
    done = record(*arguments, '--out', out)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_ctrl_c_leaves_a_valid_bag(tmp_path):
    out = tmp_path / 'bag'
    process = subprocess.Popen(
        [*COMMAND, '--robot', 'point_reach', '--steps', '1000000', '--out', str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 20_000 for p in out.glob('*.mcap*')):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert 'recorded' in stdout
    assert stderr == ''
    steps = [e for e in events_of(out, load_contract('point_reach')) if isinstance(e, Step)]
    assert len(steps) > 100
    assert bag_info(out).messages == sum(1 for _ in read_bag(out))


def test_ctrl_c_before_the_first_message_leaves_no_recording(tmp_path):
    out = tmp_path / 'bag'
    process = subprocess.Popen(
        [*COMMAND, '--robot', 'point_reach', '--out', str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not out.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert stderr == ''


def test_the_cube_expert_moves_the_cube_as_ogbench_s_own_loop_does():
    """The oracle fed from messages acts as the oracle fed from the environment's info."""
    pytest.importorskip('ogbench')
    from qcfql_ros.robots import make_robot

    contract = load_contract('ur5e_cube')
    robot, expert = make_robot('ur5e_cube', 'play', contract), make_expert('ur5e_cube')
    robot.reset(5)
    rows, moved = [], 0.0
    start = robot.env.data.joint('object_joint_0').qpos[:3].copy()
    for tick in range(150):
        messages = robot.sensors(tick)
        if tick == 0:
            expert.begin(messages, seed=6)
        info = robot.env.compute_ob_info()
        ours = expert._info(messages)
        for name in ours.keys() & info.keys() - {'time'}:
            np.testing.assert_allclose(ours[name], info[name], atol=1e-12)
        rows.append(expert.action(messages))
        robot.apply(rows[-1])
        moved = max(moved, np.linalg.norm(robot.env.data.joint('object_joint_0').qpos[:3] - start))
    assert moved > 0.05  # it has picked the cube up and carried it
    assert np.abs(rows).max() <= 1.0
