# SPDX-License-Identifier: Apache-2.0
"""The policy node as a process: wrong settings, signals, kill."""

from __future__ import annotations

import gc
import json
import signal
import threading
import time

import numpy as np
import pytest
import rclpy
from policy_scene import (
    CONTRACT,
    ScriptedRobot,
    make_policy,
    start_process,
    waiting_contract,
)
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from qcfql_ros.contract.decode import stamp_of
from qcfql_ros.contract.decode_commands import decode_commands
from qcfql_ros.contract.named_vector import (
    decode_step,
)
from qcfql_ros.nodes.process import run_node


def test_an_error_in_a_callback_is_known_when_the_node_closes(capfd):
    seen = []

    class Breaks(Node):
        def __init__(self, stop):
            super().__init__('breaks')
            self.stop = stop
            self.create_timer(0.01, self.on_timer)

        def on_timer(self):
            raise RuntimeError('tested')

        def close(self):
            seen.append(self.stop.error)

    assert run_node(Breaks, []) == 1
    assert [str(error) for error in seen] == ['tested']
    assert capfd.readouterr().err.count('RuntimeError: tested') == 1


def test_a_node_that_turns_for_long_keeps_nothing_of_each_turn():
    objects = []

    class Turns(Node):
        def __init__(self, stop):
            super().__init__('turns')
            self.stop, self.turns = stop, 0
            self.create_timer(0.001, self.on_timer)

        def on_timer(self):
            self.turns += 1
            if self.turns in (100, 600):
                gc.collect()
                objects.append(len(gc.get_objects()))
            if self.turns == 600:
                threading.Thread(target=self.stop.request).start()  # while it waits

    assert run_node(Turns, []) == 0
    assert objects[1] - objects[0] < 250


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        (
            ['contract:=point_reach', 'model:=/nowhere.safetensors'],
            '/nowhere.safetensors: no such',
        ),
        (['contract:=point_reach', 'pacing:=lockstp'], "did you mean 'lockstep'"),
    ],
)
def test_a_wrong_setting_ends_the_process_with_one_line_and_status_2(parameters, words):
    process = start_process(*parameters)
    _, errors = process.communicate(timeout=60)
    lines = [line for line in errors.splitlines() if not line.startswith('[')]
    assert process.returncode == 2
    assert len(lines) == 1
    assert words in lines[0]


def test_a_robot_whose_policy_was_killed_stays_put_in_the_next_run(scene, tmp_path, monkeypatch):
    monkeypatch.setenv('ROS_HOME', str(tmp_path / 'ros_home'))
    model = tmp_path / 'policy.safetensors'
    model.write_bytes(make_policy().to_bytes())
    mark = tmp_path / 'ros_home/qcfql_ros/root_point_reach.json'
    contract = waiting_contract(tmp_path)
    process = start_process(f'contract:={contract}', f'model:={model}', 'pacing:=lockstep')
    try:
        deadline = time.monotonic() + 60
        while not (mark.exists() and json.loads(mark.read_text())['driving']):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
    it = scene(contract=contract, state_dir='')
    assert it.policy._setup.latch.reason == 'the process before this one did not end cleanly'
    it.robot.limit = 10
    it.begin()
    assert it.call('halt').success  # answered after the sensors: all that was to be sent is out
    assert [s.source for s in it.steps()] in ([], [3])
    assert it.call('resume').success
    it.until(lambda: it.robot.tick == 10, 'driving again')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_with_the_hold_row_and_status_0(number, tmp_path):
    file = tmp_path / 'policy.safetensors'
    file.write_bytes(make_policy().to_bytes())
    rclpy.init()
    process = None
    executor = SingleThreadedExecutor()
    try:
        robot = ScriptedRobot()
        robot.limit = 10**9
        executor.add_node(robot)
        process = start_process('contract:=point_reach', f'model:={file}', 'pacing:=lockstep')
        deadline = time.monotonic() + 60
        publishers = (robot.joints, robot.goal, robot.outcome)
        while not all(p.get_subscription_count() for p in publishers):
            assert time.monotonic() < deadline
            executor.spin_once(timeout_sec=0.05)
        robot.sensors()
        while robot.tick < 20 or process.poll() is None:
            assert time.monotonic() < deadline
            if robot.tick == 20:
                process.send_signal(number)
                robot.tick += 1
            executor.spin_once(timeout_sec=0.05)
        assert process.wait(timeout=5) == 0, process.stderr.read()
        while decode_step(robot.steps[-1], CONTRACT).source != 3:
            assert time.monotonic() < deadline, 'no safe command came'
            executor.spin_once(timeout_sec=0.05)
        while robot.commands[-1][0] < stamp_of(robot.steps[-1]):
            assert time.monotonic() < deadline, 'no safe command came'
            executor.spin_once(timeout_sec=0.05)
        row = decode_commands(CONTRACT, {'twist_command': robot.commands[-1][1]})
        np.testing.assert_array_equal(row, CONTRACT.action.hold)
    finally:
        if process is not None:
            process.kill()
            process.communicate()
        executor.shutdown()
        rclpy.try_shutdown()
