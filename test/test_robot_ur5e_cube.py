# SPDX-License-Identifier: Apache-2.0
"""The simulated arm: its topics give the environment's own observation and labels."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.decode_commands import decode_commands
from qcfql_ros.contract.encode import Encoder, command_values
from qcfql_ros.robots import episode_seed, make_robot

pytest.importorskip('ogbench')

CONTRACT = load_contract('ur5e_cube')


def on_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


def observe(robot, decoder):
    messages = robot.sensors(1_000_000_000_000)
    values = {
        name: decoder.decode_message(name, on_the_wire(message)).values
        for name, message in messages.items()
    }
    return decoder.observation(values)


def full_observation(robot):
    robot.env._lean = False
    return robot.env.compute_observation()


def actions(count, seed=0):
    rng = np.random.default_rng(seed)
    row = np.zeros(5)
    for _ in range(count):  # slow drift: gripper and cube are touched, joints move far
        row = 0.8 * row + 0.6 * rng.uniform(-1, 1, 5)
        yield np.clip(row - [0, 0, 0.15, 0, 0], -1, 1).astype(np.float32)


@pytest.mark.parametrize('mode', ['task', 'play'])
def test_decoded_topics_equal_the_environments_observation_to_float32(mode):
    robot = make_robot('ur5e_cube', mode, CONTRACT)
    decoder, encoder = Decoder(CONTRACT), Encoder(CONTRACT)
    robot.reset(7)
    contact = 0.0
    for action in actions(150):
        expected = full_observation(robot)
        state = observe(robot, decoder)
        assert expected.shape == state.shape == (28,)
        np.testing.assert_allclose(state, expected, rtol=1.2e-7, atol=1e-7)
        contact = max(contact, float(state[18]))
        commands = {
            t: on_the_wire(m) for t, _, m in encoder.commands(command_values(CONTRACT, action), 1)
        }
        robot.apply(decode_commands(CONTRACT, commands))
    assert contact > 0.0  # the pads touched something, so that this number was tested too


@pytest.mark.parametrize('mode', ['task', 'play'])
def test_an_episode_depends_on_its_seed_alone(mode):
    decoder = Decoder(CONTRACT)
    robot = make_robot('ur5e_cube', mode, CONTRACT)
    histories = []
    for seed in (3, 4, 3):
        robot.reset(seed)
        history = [observe(robot, decoder)]
        for action in actions(30):
            robot.apply(action)
            history.append(observe(robot, decoder))
        histories.append(np.array(history))
        np.random.uniform()  # what others do to the global generator must not matter
    assert np.array_equal(histories[0], histories[2])
    assert not np.array_equal(histories[0], histories[1])


def test_the_lean_step_is_the_environments_step():
    lean = make_robot('ur5e_cube', 'task', CONTRACT)
    full = make_robot('ur5e_cube', 'task', CONTRACT)
    lean.reset(11)
    full.reset(11)
    for action in actions(60):
        result = lean.apply(action)
        observation, reward, terminated, _, info = full.env.step(action)
        assert (result.reward, result.terminated) == (reward, terminated)
        assert result.success == info['success']
        assert np.array_equal(full_observation(lean), observation)


def test_play_is_labelled_as_ogbench_relabels_its_data_and_goes_on_after_success():
    robot = make_robot('ur5e_cube', 'play', CONTRACT)
    robot.reset(5)
    robot.env.data.joint('object_joint_0').qpos[:3] = (0.5, 0.0, 0.02)  # onto the goal of task 2
    rows, results = [], []
    for action in actions(1000):
        rows.append(robot.env.data.qpos.copy())
        results.append(robot.apply(action))
        if len(results) == 500:
            robot.env.data.joint('object_joint_0').qpos[:3] = (0.35, 0.0, 0.02)
    # ogbench.relabel_utils.relabel_dataset: cube position from qpos[14:17], of the state before.
    cube = np.array(rows)[:, 14:17]
    solved = np.linalg.norm(cube - (0.5, 0.0, 0.02), axis=-1) <= 0.04
    assert 0 < solved.sum() < 1000
    assert [r.success for r in results] == solved.tolist()
    assert [r.terminated for r in results] == solved.tolist()
    assert [r.reward for r in results] == (solved - 1.0).tolist()
    assert [r.ended for r in results] == [False] * 999 + [True]
    assert results[-1].truncated


def test_a_task_ends_at_200_ticks_or_at_success():
    robot = make_robot('ur5e_cube', 'task', CONTRACT)
    robot.reset(1)
    results = [robot.apply(np.zeros(5, np.float32)) for _ in range(200)]
    assert results[-1].truncated and results[-1].ended and not results[-1].terminated
    assert not any(r.ended for r in results[:-1])
    assert {r.reward for r in results} == {-1.0}
    robot.reset(2)
    robot.env.data.joint('object_joint_0').qpos[:3] = (0.5, 0.0, 0.02)
    first = robot.apply(np.zeros(5, np.float32))
    second = robot.apply(np.zeros(5, np.float32))
    assert not first.ended  # success is judged on the state before the step
    assert second.terminated and second.success and second.ended and second.reward == 0.0


def test_episode_seeds_are_the_same_in_every_run_and_differ():
    seeds = [episode_seed(0, episode) for episode in range(100)]
    assert seeds[:2] == [episode_seed(0, 0), episode_seed(0, 1)]
    assert len({*seeds, *(episode_seed(1, episode) for episode in range(100))}) == 200
