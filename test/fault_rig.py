# SPDX-License-Identifier: Apache-2.0
"""A robot at wall rate beside real processes, that keeps every command it hears: for faults.

The executor spins in a thread of its own, so that sensors go on whatever the test waits for.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSHistoryPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Header, UInt8MultiArray
from std_srvs.srv import Trigger

from qcfql_ros.algorithm.policy import ChunkPolicy, PolicyInfo
from qcfql_ros.contract import find_contract, load_contract
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.named_vector import set_stamp
from qcfql_ros.nodes.qos import RECORD_QOS
from qcfql_ros.nodes.weights import WEIGHTS_QOS

KEEP_ALL = QoSProfile(history=QoSHistoryPolicy.KEEP_ALL, depth=0)
ASK_AGAIN_S = 10.0
SENSORS_HZ = 50.0
HERE = Path(__file__).parent


def velocity_contract(folder, **changes):
    """Return the file of point_reach for a robot that waits after a crash.

    Args:
        folder: where to write it.
        changes: texts to replace, by name of no meaning: ``a=('old', 'new')``.
    """
    text = find_contract('point_reach').read_text()
    robot = [
        ('after_crash: resume', 'after_crash: wait'),
        ('resume_after_stale: true', 'resume_after_stale: false'),
    ]
    for old, new in (*robot, *changes.values()):
        assert old in text, old
        text = text.replace(old, new)
    file = folder / 'velocity.yaml'
    file.write_text(text)
    return file


POSITION = """
contract: 1
name: hand
control: {rate_hz: 20.0, command_rate_hz: 100.0, upsampling: linear}
streams:
  joints: {topic: joint_states, type: sensor_msgs/msg/JointState, max_age_s: 0.2}
features:
  observation.state:
    - {stream: joints, field: position, names: [x, y]}
action:
  names: [left, right]
  commands:
    - topic: commands
      type: std_msgs/msg/Float64MultiArray
      fields:
        - {field: position, name: x, action: left, scale: 2.0}
        - {field: position, name: y, action: right, scale: 2.0}
safety:
  limits: {left: {velocity: 2.0}, right: {velocity: 2.0}}
  soft_start_s: 0.0
  watchdog: {timeout_s: 0.2}
outcome: {topic: outcome, success_timing: post}
"""


def position_contract(folder):
    """Return the file of two positions for a controller that never times out."""
    file = folder / 'hand.yaml'
    file.write_text(POSITION)
    return file


def make_policy(contract, folder, spoil=None):
    """Write a random policy of `contract`; `spoil` changes its network in place."""
    info = PolicyInfo(contract.name, contract.hash, contract.state_dim, contract.action_dim, 4)
    policy = ChunkPolicy.random(info, seed=1)
    if spoil is not None:
        spoil(policy.network)
        policy = ChunkPolicy(policy.network, policy.normalizer, info)  # its digest follows
    file = folder / 'policy.safetensors'
    file.write_bytes(policy.to_bytes())
    return file


class Rig:
    """Publishes sensors, hears commands, starts processes; `close` ends all of it."""

    def __init__(self, folder, contract_file):
        self.folder = folder
        self.contract_file = contract_file
        self.contract = load_contract(str(contract_file))
        self.x = 0.0
        self.silent = set()  # topics
        self.processes = []
        self.heard = {c.topic: [] for c in self.contract.action.commands}
        self.steps, self.beats, self.statuses = [], [], []
        rclpy.init()
        self.node = rclpy.create_node('rig')
        self.sensors = {
            'joint_states': self.node.create_publisher(JointState, 'joint_states', 10),
            'goal_pose': self.node.create_publisher(PoseStamped, 'goal_pose', 10),
        }
        self.outcome = self.node.create_publisher(JointState, 'outcome', RECORD_QOS)
        self.weights = self.node.create_publisher(UInt8MultiArray, 'policy_weights', WEIGHTS_QOS)
        self.halting = self.node.create_publisher(Bool, 'halt', 10)
        self.markers = {}
        for command in self.contract.action.commands:
            kind = message_class(command.type)
            self.markers[command.topic] = self.node.create_publisher(kind, command.topic, KEEP_ALL)
            self.node.create_subscription(
                kind, command.topic, self._keep(self.heard[command.topic]), KEEP_ALL
            )
        for kind, topic, kept in (
            (JointState, 'policy/step', self.steps),
            (Header, 'policy/heartbeat', self.beats),
            (DiagnosticArray, '/diagnostics', self.statuses),
        ):
            self.node.create_subscription(kind, topic, self._keep(kept), RECORD_QOS)
        self.node.create_timer(1.0 / SENSORS_HZ, self._sense)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.thread.start()

    @staticmethod
    def _keep(kept):
        return lambda message: kept.append((time.monotonic_ns(), message))

    def _spin(self):
        with contextlib.suppress(ExternalShutdownException):
            self.executor.spin()

    def _sense(self):
        joints = JointState(name=['x', 'y'], position=[self.x, 0.5], velocity=[0.0, 0.0])
        goal = PoseStamped()
        goal.pose.position.x = 1.0
        for topic, message in (('joint_states', joints), ('goal_pose', goal)):
            if topic not in self.silent:
                set_stamp(message, self.node.get_clock().now().nanoseconds)
                self.sensors[topic].publish(message)

    @property
    def commands(self):
        """Return (receive time, message) of the first command topic."""
        return next(iter(self.heard.values()))

    def until(self, predicate, what, timeout_s=60.0):
        """Wait for something, or fail saying what for."""
        deadline = time.monotonic() + timeout_s
        while not (value := predicate()):
            assert time.monotonic() < deadline, f'waited {timeout_s} s for {what}: {self.said()}'
            if self.processes and all(p.poll() for p in self.processes):  # ended in error
                deadline = min(deadline, time.monotonic() + 2.0)
            time.sleep(0.005)
        return value

    def said(self):
        """Return the newest diagnostics and the logs of all processes, for failed tests."""
        logs = ''.join(p.log.read_text()[-2000:] for p in self.processes)
        return f'{self.status("policy: control")}\n{logs}'

    def start(self, module, *arguments, **parameters):
        """Start a node with `parameters`; `module` is one of ours or a script beside this."""
        code = (
            [str(HERE / module)] if module.endswith('.py') else ['-m', f'qcfql_ros.nodes.{module}']
        )
        words = [w for n, v in parameters.items() for w in ('-p', f'{n}:={json.dumps(v)}')]
        log = self.folder / f'{len(self.processes)}.log'
        with log.open('w') as out:
            process = subprocess.Popen(
                [sys.executable, *code, *map(str, arguments), '--ros-args', *words],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, 'OMP_NUM_THREADS': '1'},
                start_new_session=True,
            )
        process.log = log
        self.processes.append(process)
        return process

    def start_policy(self, fault=None, model=None, **parameters):
        """Start the policy node, with a `fault` of faulty_policy.py that shows when told to."""
        module, arguments = 'policy_node', ()
        if fault is not None:
            module, arguments = 'faulty_policy.py', (fault, self.trigger)
        values = {
            'contract': str(self.contract_file),
            'model': str(model or make_policy(self.contract, self.folder)),
            'device': 'cpu',
            'state_dir': str(self.folder / 'state'),
        }
        return self.start(module, *arguments, **(values | parameters))

    @property
    def trigger(self):
        """Return the file whose existence makes the fault show."""
        return self.folder / 'trigger'

    def until_driving(self, commands=5):
        """Wait for some commands that move."""
        begun = len(self.commands)
        self.until(
            lambda: sum(self.moves(m) for _, m in self.commands[begun:]) >= commands,
            f'{commands} commands',
        )

    def moves(self, message):
        """Whether a command moves the robot: a twist by itself, positions by changing."""
        if hasattr(message, 'data'):
            place = next(i for i, (_, m) in enumerate(self.commands) if m is message)
            return place > 0 and self.commands[place - 1][1].data != message.data
        return bool(np.any([message.twist.linear.x, message.twist.linear.y]))

    def last_commands(self):
        """Return the last message of each command topic, everything sent so far drained.

        A marker sent now on the same topic is heard after all that came before.
        """
        last = {}
        for topic, publisher in self.markers.items():
            marker, heard = message_class_of(publisher)(), self.heard[topic]
            mark(marker)
            publisher.publish(marker)
            self.until(lambda heard=heard: any(is_mark(m) for _, m in heard), 'the marker')
            place = next(i for i, (_, m) in enumerate(heard) if is_mark(m))
            assert place, f'no command on {topic}'
            assert heard[place + 1 :] == [], f'commands on {topic} after the end'
            last[topic] = heard[place - 1][1]
            del heard[place]
        return last

    def status(self, name):
        """Return (level, message, values) of the newest status called `name`; no level if none."""
        for _, array in reversed(self.statuses):
            for status in array.status:
                if status.name == name:
                    values = {pair.key: pair.value for pair in status.values}
                    return status.level, status.message, values
        return None, '', {}

    def level(self):
        """Return the newest level of the policy's diagnostics, or None."""
        return self.status('policy: control')[0]

    def value(self, key):
        """Return a value of the policy's newest diagnostics, '' where there is none."""
        return self.status('policy: control')[2].get(key, '')

    def call(self, kind, service, request):
        """Return the answer of a service."""
        client = self.node.create_client(kind, service)
        self.until(client.service_is_ready, service)
        # A service that is there for us may not see us yet, and then never answers that call.
        futures = [client.call_async(request)]
        asked_s = time.monotonic()

        def answered():
            nonlocal asked_s
            if time.monotonic() > asked_s + ASK_AGAIN_S:
                asked_s = time.monotonic()
                futures.append(client.call_async(request))
            return next((future for future in futures if future.done()), None)

        return self.until(answered, f'the answer of {service}').result()

    def ask(self, service):
        """Call policy/`service`."""
        return self.call(Trigger, f'policy/{service}', Trigger.Request())

    def close(self):
        """End everything."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.executor.shutdown()
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()  # the node must not be destroyed below it
        self.node.destroy_node()
        rclpy.try_shutdown()


def message_class_of(publisher):
    """Return the type that `publisher` sends."""
    return publisher.msg_type


def mark(message):
    """Make a message nobody else sends."""
    if hasattr(message, 'header'):
        message.header.frame_id = 'marker'
    else:
        message.layout.data_offset = 77


def is_mark(message):
    """Whether it is one."""
    if hasattr(message, 'header'):
        return message.header.frame_id == 'marker'
    return message.layout.data_offset == 77
