# SPDX-License-Identifier: Apache-2.0
"""The policy node on real topics, with a robot by script, in lockstep: for its tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from qcfql_ros.algorithm.policy import ChunkPolicy, PolicyInfo
from qcfql_ros.contract import find_contract, load_contract
from qcfql_ros.contract.decode import stamp_of
from qcfql_ros.contract.named_vector import (
    Outcome,
    decode_step,
    outcome_fields,
    set_stamp,
    vector_message,
)
from qcfql_ros.nodes.policy_node import PolicyNode
from qcfql_ros.nodes.process import Stop
from qcfql_ros.nodes.qos import RECORD_QOS
from qcfql_ros.nodes.weights import WEIGHTS_QOS, split

CONTRACT = load_contract('point_reach')
PERIOD = CONTRACT.period_ns
START = 1_000_000_000_000
K = 4


def make_policy(version=0, seed=1, contract_hash=CONTRACT.hash):
    info = PolicyInfo(
        contract_name=CONTRACT.name,
        contract_hash=contract_hash,
        state_dim=CONTRACT.state_dim,
        action_dim=CONTRACT.action_dim,
        action_chunk_size=K,
        hidden_dims=(16, 16),
        version=version,
    )
    return ChunkPolicy.random(info, seed)


def waiting_contract(folder):
    """Return the file of the same contract, but for a robot that stays put after a crash."""
    text = find_contract('point_reach').read_text()
    assert 'after_crash: resume' in text
    file = folder / 'waiting.yaml'
    file.write_text(text.replace('after_crash: resume', 'after_crash: wait'))
    return str(file)


class ScriptedRobot(Node):
    """Answers each command at once, in lockstep; writes down all it hears."""

    def __init__(self, episode_ticks=1000):
        super().__init__('robot')
        self.episode_ticks = episode_ticks
        self.limit = 0
        self.tick = 0  # executed
        self.in_episode = 0
        self.stamp = START
        self.nan_at = set()
        self.commands, self.steps, self.chunks = [], [], []
        self.joints = self.create_publisher(JointState, 'joint_states', RECORD_QOS)
        self.goal = self.create_publisher(PoseStamped, 'goal_pose', RECORD_QOS)
        self.outcome = self.create_publisher(JointState, 'outcome', RECORD_QOS)
        self.weights = self.create_publisher(UInt8MultiArray, 'policy_weights', WEIGHTS_QOS)
        for kind, topic, callback in (
            (TwistStamped, 'twist_command', self.on_command),
            (JointState, 'policy/step', self.steps.append),
            (JointTrajectory, 'policy/chunk', self.chunks.append),
        ):
            self.create_subscription(kind, topic, callback, RECORD_QOS)

    def sensors(self):
        x = float('nan') if self.tick in self.nan_at else 0.01 * self.in_episode
        joints = JointState(name=['x', 'y'], position=[x, 0.5], velocity=[0.0, 0.0])
        goal = PoseStamped()
        goal.pose.position.x = 1.0
        for publisher, message in ((self.joints, joints), (self.goal, goal)):
            set_stamp(message, self.stamp)
            publisher.publish(message)

    def on_command(self, message):
        self.commands.append((stamp_of(message), message))
        if stamp_of(message) == self.stamp and self.tick < self.limit:
            self.execute()

    def execute(self):
        self.tick += 1
        self.in_episode += 1
        ended = self.in_episode == self.episode_ticks
        outcome = Outcome(self.stamp, 0.0, False, ended, False, 0, self.tick, ended)
        self.outcome.publish(vector_message(self.stamp, *outcome_fields(outcome)))
        self.stamp += PERIOD
        self.sensors()
        if ended:
            self.in_episode = 0
            self.stamp += PERIOD
            self.sensors()


class Scene:
    """Robot and policy node in one context, spun by the test."""

    def __init__(self, tmp_path, policy=None, episode_ticks=1000, params_file=None, **parameters):
        file = tmp_path / 'policy.safetensors'
        file.write_bytes((policy or make_policy()).to_bytes())
        values = {
            'contract': 'point_reach',
            'model': str(file),
            'pacing': 'lockstep',
            'device': 'cpu',
            'seed': 7,
            'state_dir': str(tmp_path / 'state'),
            **parameters,
        }
        arguments = ['--ros-args']
        if params_file is not None:
            arguments += ['--params-file', str(params_file)]
        for name, value in values.items():
            arguments += ['-p', f'{name}:={json.dumps(value)}']
        rclpy.init(args=arguments)
        self.closed = False
        self.stop = Stop()
        self.executor = SingleThreadedExecutor()
        self.policy = self.robot = None
        try:
            self.policy = PolicyNode(self.stop)
            self.robot = ScriptedRobot(episode_ticks)
        except BaseException:
            self.close()
            raise
        self.executor.add_node(self.policy)
        self.executor.add_node(self.robot)

    def until(self, predicate, what, timeout_s=60.0):
        deadline = time.monotonic() + timeout_s
        while not predicate():
            assert time.monotonic() < deadline, f'waited {timeout_s} s for {what}'
            self.executor.spin_once(timeout_sec=0.05)

    def begin(self):
        robot = self.robot
        publishers = (robot.joints, robot.goal, robot.outcome, robot.weights)
        self.until(lambda: all(p.get_subscription_count() for p in publishers), 'subscriptions')
        robot.sensors()

    def drive(self, ticks):
        """Let the robot execute `ticks` ticks in all; the command of the next one comes too."""
        if not self.robot.limit:
            self.robot.limit = ticks
            self.begin()
        elif self.robot.limit < ticks:
            self.robot.limit = ticks
            if self.robot.commands[-1][0] == self.robot.stamp:
                self.robot.execute()
        self.until(
            lambda: self.robot.tick >= ticks and len(self.robot.steps) > ticks, f'{ticks} ticks'
        )

    def steps(self):
        return [decode_step(message, CONTRACT) for message in self.robot.steps]

    def call(self, service):
        client = self.robot.create_client(Trigger, f'policy/{service}')
        self.until(client.service_is_ready, service)
        future = client.call_async(Trigger.Request())
        self.until(future.done, f'the answer of {service}')
        return future.result()

    def close(self):
        if self.closed:
            return
        self.closed = True
        if self.policy is not None:
            self.policy.close()
        self.executor.shutdown()
        # The weights of one test are latched: they must not reach the next one.
        for node in (self.policy, self.robot):
            if node is not None:
                node.destroy_node()
        rclpy.try_shutdown()


def send(robot, blob, version):
    for part in split(blob, version):
        robot.weights.publish(UInt8MultiArray(data=part))


def start_process(*parameters):
    arguments = [a for p in parameters for a in ('-p', p)]
    return subprocess.Popen(
        [sys.executable, '-m', 'qcfql_ros.nodes.policy_node', '--ros-args', *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        start_new_session=True,
    )
