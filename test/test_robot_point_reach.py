# SPDX-License-Identifier: Apache-2.0
"""The light robot, and what every robot is checked for."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from qcfql_ros.contract import find_contract, load_contract
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.errors import RobotError
from qcfql_ros.robots import make_robot

CONTRACT = load_contract('point_reach')


def observe(robot):
    decoder = Decoder(CONTRACT)
    messages = robot.sensors(0)
    return decoder.observation(
        {name: decoder.decode_message(name, m).values for name, m in messages.items()}
    )


def toward_goal(state):
    return np.clip((state[4:6] - state[:2]) * 8.0, -1, 1).astype(np.float32)


def test_walking_to_the_goal_succeeds_and_standing_still_times_out():
    robot = make_robot('point_reach', 'task', CONTRACT)
    for seed in range(20):
        robot.reset(seed)
        for _ in range(40):
            result = robot.apply(toward_goal(observe(robot)))
            if result.ended:
                break
        assert result.success and result.terminated and result.reward == 0.0, seed
    robot.reset(0)
    results = [robot.apply(np.zeros(2, np.float32)) for _ in range(40)]
    assert results[-1].truncated and results[-1].ended and not results[-1].terminated
    assert not any(r.ended for r in results[:-1])


def test_play_goes_on_after_success():
    robot = make_robot('point_reach', 'play', CONTRACT)
    robot.reset(0)
    results = [robot.apply(toward_goal(observe(robot))) for _ in range(200)]
    assert sum(r.terminated for r in results) > 100
    assert [r.ended for r in results] == [False] * 199 + [True]


def test_an_unknown_robot_gives_the_nearest():
    with pytest.raises(RobotError, match="did you mean 'point_reach'"):
        make_robot('point_reech', 'task', CONTRACT)


def test_a_contract_for_another_robot_is_refused(tmp_path):
    with pytest.raises(RobotError, match="no stream 'effector_pose'"):
        make_robot('point_reach', 'task', load_contract('ur5e_cube'))
    path = tmp_path / 'slow.yaml'
    path.write_text(
        find_contract('point_reach').read_text().replace('rate_hz: 20.0', 'rate_hz: 10')
    )
    with pytest.raises(RobotError, match=r'built for 20 Hz; control\.rate_hz .* is 10'):
        make_robot('point_reach', 'task', load_contract(path))


def test_the_light_robot_and_the_contract_need_no_simulator_and_no_rosbags():
    code = (
        'import sys; from qcfql_ros.contract import load_contract;'
        'import qcfql_ros.contract.encode, qcfql_ros.contract.chunk_record;'
        'from qcfql_ros.robots import make_robot;'
        "make_robot('point_reach', 'task', load_contract('point_reach')).reset(0);"
        "heavy = {'ogbench', 'gymnasium', 'mujoco', 'rosbags', 'torch', 'lerobot'};"
        'sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
