# SPDX-License-Identifier: Apache-2.0
"""Makes the messages of a robot and a policy by hand, as CDR bytes, for the tests of data/."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from rosbags.typesys import Stores, get_typestore

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.named_vector import (
    Outcome,
    StepRecord,
    outcome_fields,
    step_fields,
)

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
JOINTS, POSE = 'sensor_msgs/msg/JointState', 'geometry_msgs/msg/PoseStamped'
TRAJECTORY = 'trajectory_msgs/msg/JointTrajectory'
CONTRACT = load_contract('point_reach')
PERIOD = CONTRACT.period_ns
EMPTY = np.zeros(0)
Message = tuple[str, int, bytes]


def header(stamp_ns: int, frame: str = ''):
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return T['std_msgs/msg/Header'](T['builtin_interfaces/msg/Time'](sec, nanosec), frame)


def vector(stamp_ns: int, names, values) -> bytes:
    array = np.array(values, dtype=np.float64)
    message = T[JOINTS](header(stamp_ns), list(names), array, EMPTY, EMPTY)
    return bytes(STORE.serialize_cdr(message, JOINTS))


def state(number: float) -> np.ndarray:
    """The observation that `sensors(stamp, number)` decodes to."""
    return np.array([number, -number, 0.5, 0.25, 1.0, 2.0], dtype=np.float32)


@dataclass
class Ticks:
    """A log of messages; every message is received 1 ms after the one before."""

    now_ns: int = 1_700_000_000_000_000_000
    log: list[Message] = field(default_factory=list)
    lockstep: bool = True
    lead_ns: int = 0
    tick: int = 0
    robot_episode: int = 0

    def add(self, topic: str, data: bytes) -> None:
        self.now_ns += 1_000_000
        self.log.append((topic, self.now_ns, data))

    def wait(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

    def joints(self, stamp_ns: int, number: float) -> None:
        message = T[JOINTS](
            header(stamp_ns),
            ['y', 'x'],
            np.array([-number, number]),
            np.array([0.25, 0.5]),
            EMPTY,
        )
        self.add('/joint_states', bytes(STORE.serialize_cdr(message, JOINTS)))

    def goal(self, stamp_ns: int) -> None:
        pose = T['geometry_msgs/msg/Pose'](
            T['geometry_msgs/msg/Point'](1.0, 2.0, 0.0),
            T['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0),
        )
        message = T[POSE](header(stamp_ns), pose)
        self.add('/goal_pose', bytes(STORE.serialize_cdr(message, POSE)))

    def sensors(self, stamp_ns: int, number: float) -> None:
        self.joints(stamp_ns, number)
        self.goal(stamp_ns)

    def step(self, stamp_ns: int, action=(0.5, -0.5), **changed) -> None:
        values = {
            'episode': 0,
            'chunk': -1,
            'index': 0,
            'source': 0,
            'policy_version': 1,
            'clipped': 0,
            'lead_ns': self.lead_ns,
            'lockstep': self.lockstep,
        } | changed
        record = StepRecord(stamp_ns, np.array(action, dtype=np.float32), **values)
        self.add('/policy/step', vector(stamp_ns, *step_fields(record, CONTRACT)))

    def chunk(self, stamp_ns: int, chunk: int, stamps: dict[str, int] | None = None, k=4) -> None:
        import json

        point = T['trajectory_msgs/msg/JointTrajectoryPoint']
        start = T['builtin_interfaces/msg/Duration'](0, 0)
        points = [
            point(np.array([chunk + i / 10, -0.5]), EMPTY, EMPTY, EMPTY, start) for i in range(k)
        ]
        if stamps is None:
            stamps = dict.fromkeys(CONTRACT.streams, stamp_ns)
        about = {
            'chunk': chunk,
            'episode': 0,
            'seed': 1,
            'digest': 'd' * 64,
            'policy_version': 1,
            'observation_stamps': stamps,
        }
        message = T[TRAJECTORY](
            header(stamp_ns, json.dumps(about)), list(CONTRACT.action.names), points
        )
        self.add('/policy/chunk', bytes(STORE.serialize_cdr(message, TRAJECTORY)))

    def outcome(self, stamp_ns: int, reward: float = -1.0, **changed) -> None:
        self.tick += 1
        values = {
            'terminated': False,
            'truncated': False,
            'success': False,
            'episode': self.robot_episode,
            'tick': self.tick,
        } | changed
        values.setdefault('ended', values['terminated'] or values['truncated'])
        self.add(
            '/outcome', vector(stamp_ns, *outcome_fields(Outcome(stamp_ns, reward, **values)))
        )

    def run(self, start_ns: int, count: int, episode: int = 0, **last) -> int:
        """A run of `count` ticks in lockstep; `last` are fields of its last outcome.

        Returns the stamp of the sensors after it.
        """
        stamp = start_ns
        self.sensors(stamp, 0.0)
        for i in range(count):
            self.step(stamp, (i / 100, -0.5), episode=episode)
            self.outcome(stamp, **(last if i == count - 1 else {}))
            stamp += PERIOD
            self.sensors(stamp, float(i + 1))
        if last:
            self.robot_episode += 1
        return stamp
