# SPDX-License-Identifier: Apache-2.0
"""A robot and its policy in one process, by a script, for the tests of the learner.

Usage: scripted_robot.py TICKS [EPISODE_TICKS [RATE_HZ]]. Publishes what point_reach's contract
records, in lockstep stamps, executes no tick beyond the credits, prints one JSON line at the end,
and stays until its standard input ends.

With JOURNAL in the environment it waits for no credits once it has begun, and appends a line to
that file before each message: topic, time in ns, digest of the content.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray, UInt64
from trajectory_msgs.msg import JointTrajectory

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.chunk_record import ChunkRecord, chunk_message
from qcfql_ros.contract.named_vector import (
    Outcome,
    StepRecord,
    outcome_fields,
    set_stamp,
    step_fields,
    vector_message,
)
from qcfql_ros.nodes.qos import CREDITS_QOS, RECORD_QOS
from qcfql_ros.nodes.weights import WEIGHTS_QOS, WeightReceiver

CHUNK = 4
START = 1_000_000_000_000


def message_digest(message) -> str:
    """Return a digest of what a message says; its bytes have padding of any value."""
    return hashlib.sha1(str(message).encode()).hexdigest()


class ScriptedRobot(Node):
    """Publishes ticks as fast as it may."""

    def __init__(self) -> None:
        super().__init__('scripted')
        self.contract = load_contract('point_reach')
        kinds = {
            'joint_states': JointState,
            'goal_pose': PoseStamped,
            'twist_command': TwistStamped,
            'outcome': JointState,
            'policy/step': JointState,
            'policy/chunk': JointTrajectory,
        }
        self.outs = {n: self.create_publisher(k, n, RECORD_QOS) for n, k in kinds.items()}
        self.credits = 0
        self.journal = None
        if 'JOURNAL' in os.environ:
            self.journal = open(os.environ['JOURNAL'], 'a', buffering=1)  # noqa: SIM115
        self.sent = dict.fromkeys(kinds, 0)
        self.weights, self.policies = WeightReceiver(), []
        self.create_subscription(UInt8MultiArray, 'policy_weights', self.on_part, WEIGHTS_QOS)
        self.create_subscription(UInt64, 'credits', self.on_credits, CREDITS_QOS)

    def on_credits(self, message) -> None:
        self.credits = message.data

    def on_part(self, message) -> None:
        blob = self.weights.push(bytes(message.data))
        if blob is not None:
            self.policies.append(hashlib.sha256(bytes(blob)).hexdigest())

    def send(self, topic, message) -> None:
        if self.journal is not None:
            self.journal.write(f'/{topic} {time.time_ns()} {message_digest(message)}\n')
        self.outs[topic].publish(message)
        self.sent[topic] += 1

    def ready(self) -> bool:
        return all(out.get_subscription_count() for out in self.outs.values()) and self.credits

    def sensors(self, stamp, x) -> None:
        joints = JointState(name=['x', 'y'], position=[x, -x], velocity=[0.0, 0.5])
        goal = PoseStamped()
        goal.pose.position.x = 1.0
        goal.pose.orientation.w = 1.0
        for topic, message in (('joint_states', joints), ('goal_pose', goal)):
            set_stamp(message, stamp)
            self.send(topic, message)

    def tick(self, stamp, tick, episode, index, ended) -> None:
        chunk, place = divmod(index, CHUNK)
        if place == 0:
            actions = np.full((CHUNK, 2), 0.25, dtype=np.float32)
            stamps = dict.fromkeys(self.contract.streams, stamp)
            record = ChunkRecord(stamp, actions, chunk, episode, 7, 'ab' * 32, 1, stamps)
            self.send('policy/chunk', chunk_message(record, self.contract))
        action = np.array([0.25, np.sin(tick)], dtype=np.float32)
        step = StepRecord(stamp, action, episode, chunk, place, 0, 1, 0, 0, True)
        command = TwistStamped()
        set_stamp(command, stamp)
        self.send('twist_command', command)
        self.send('policy/step', vector_message(stamp, *step_fields(step, self.contract)))
        outcome = Outcome(stamp, -1.0, False, ended, False, episode, tick, ended)
        self.send('outcome', vector_message(stamp, *outcome_fields(outcome)))


def main() -> None:
    """Drive the script."""
    ticks = int(sys.argv[1])
    length = int(sys.argv[2]) if len(sys.argv) > 2 else 50
    rate_hz = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    rclpy.init()
    node = ScriptedRobot()
    while not node.ready():
        rclpy.spin_once(node, timeout_sec=0.05)
    period, stamp, index, episode = node.contract.period_ns, START, 0, 0
    begun = time.monotonic()
    node.sensors(stamp, 0.0)
    for tick in range(1, ticks + 1):
        while tick > node.credits and node.journal is None:
            rclpy.spin_once(node, timeout_sec=0.05)
        rclpy.spin_once(node, timeout_sec=0.0)
        if rate_hz:
            time.sleep(max(0.0, begun + tick / rate_hz - time.monotonic()))
        index += 1
        ended = index == length
        node.tick(stamp, tick, episode, index - 1, ended)
        stamp += period
        node.sensors(stamp, float(tick))
        if ended:
            index, episode, stamp = 0, episode + 1, stamp + period
            node.sensors(stamp, float(tick))
    took = time.monotonic() - begun
    report = {'sent': node.sent, 'seconds': took, 'policies': node.policies}
    print(json.dumps(report), flush=True)
    sys.stdin.read()
    node.destroy_node()
    rclpy.shutdown()


if __name__ == '__main__':
    main()
