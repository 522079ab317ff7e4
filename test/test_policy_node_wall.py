# SPDX-License-Identifier: Apache-2.0
"""The policy node at wall rate, driving the light robot, both in real time."""

from __future__ import annotations

import itertools
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState

from qcfql_ros.algorithm.policy import ChunkPolicy, PolicyInfo
from qcfql_ros.contract import load_contract
from qcfql_ros.contract.named_vector import decode_outcome, decode_step
from qcfql_ros.nodes.gym_robot_node import GymRobotNode
from qcfql_ros.nodes.policy_node import PolicyNode
from qcfql_ros.nodes.process import Stop
from qcfql_ros.nodes.qos import RECORD_QOS

CONTRACT = load_contract('point_reach')


def test_at_wall_rate_ticks_are_on_the_grid_and_the_robot_executes_them(tmp_path):
    info = PolicyInfo('point_reach', CONTRACT.hash, CONTRACT.state_dim, CONTRACT.action_dim, 4)
    file = tmp_path / 'policy.safetensors'
    file.write_bytes(ChunkPolicy.random(info).to_bytes())
    settings = ('robot:=point_reach', 'contract:=point_reach', f'model:={file}', 'pacing:=wall')
    rclpy.init(args=['--ros-args', *(word for s in settings for word in ('-p', s))])
    steps, outcomes, nodes = [], [], []
    executor = SingleThreadedExecutor()
    try:
        ear = rclpy.create_node('ear')
        ear.create_subscription(JointState, 'policy/step', steps.append, RECORD_QOS)
        ear.create_subscription(JointState, 'outcome', outcomes.append, RECORD_QOS)
        nodes = [ear, GymRobotNode(Stop()), PolicyNode(Stop())]
        for node in nodes:
            executor.add_node(node)
        deadline = time.monotonic() + 30
        # The second episode is on its way: 40 ticks a episode at 20 Hz.
        while not steps or decode_step(steps[-1], CONTRACT).episode < 1 or len(outcomes) < 45:
            assert time.monotonic() < deadline, f'{len(steps)} steps, {len(outcomes)} outcomes'
            executor.spin_once(timeout_sec=0.05)
        policy = nodes[2]
        policy.close()
        while decode_step(steps[-1], CONTRACT).source != 3:
            assert time.monotonic() < deadline, 'no safe command'
            executor.spin_once(timeout_sec=0.05)
    finally:
        for node in nodes:
            if hasattr(node, 'close'):
                node.close()
        executor.shutdown()
        for node in nodes:
            node.destroy_node()
        rclpy.try_shutdown()
    records = [decode_step(message, CONTRACT) for message in steps]
    stamps = [r.stamp_ns for r in records if r.episode == 0]
    # On a loaded machine ticks may be missed, but never leave the grid.
    assert all((b - a) % CONTRACT.period_ns == 0 for a, b in itertools.pairwise(stamps))
    assert all(not r.lockstep and r.lead_ns == 10_000_000 for r in records)
    heard = [decode_outcome(message) for message in outcomes]
    assert {o.stamp_ns for o in heard} <= {r.stamp_ns for r in records}
    ended = next(o.stamp_ns for o in heard if o.ended)
    begun = next(r.stamp_ns for r in records if r.episode == 1)
    assert not [r for r in records if ended < r.stamp_ns < begun]  # nothing in between
    assert begun - ended <= 4 * CONTRACT.period_ns
