# SPDX-License-Identifier: Apache-2.0
"""A recording of the ur5e_cube robot without images, made up, for the benchmarks of bags.

Ticks in lockstep: four sensors, two commands, a step and an outcome a tick, and a chunk every
five. Every message is serialised once; then only its stamp and its numbers change.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rosbags.typesys import Stores, get_typestore

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.named_vector import Outcome, StepRecord, outcome_fields, step_fields
from qcfql_ros.data.recorder import BagRecorder

CONTRACT = load_contract('ur5e_cube')
STORE = get_typestore(Stores.ROS2_JAZZY)
JOINTS, POSE = 'sensor_msgs/msg/JointState', 'geometry_msgs/msg/PoseStamped'
TWIST, TRAJECTORY = 'geometry_msgs/msg/TwistStamped', 'trajectory_msgs/msg/JointTrajectory'
ARM = CONTRACT.state[0].names
EPISODE, CHUNK = 200, 5
START_NS, RECEIVED_NS = 1_000_000_000_000, 1_700_000_000_000_000_000


class Template:
    """Messages of one kind.

    Args:
        message: whose numbers are 1001, 1002 and so on.
        kind: its type.
    """

    def __init__(self, message: object, kind: str) -> None:
        self._data = bytearray(STORE.serialize_cdr(message, kind))
        self._runs: list[list[int]] = []  # offset, first number, number behind the last
        number = 0
        while (at := self._data.find(struct.pack('<d', 1001.0 + number))) >= 0:
            last = self._runs[-1] if self._runs else [0, 0, 0]
            if number and at == last[0] + 8 * (number - last[1]):
                last[2] += 1
            else:
                self._runs.append([at, number, number + 1])
            number += 1

    def __call__(self, stamp_ns: int, values: list[float]) -> bytes:
        struct.pack_into('<iI', self._data, 4, *divmod(stamp_ns, 1_000_000_000))
        for at, first, stop in self._runs:
            struct.pack_into(f'<{stop - first}d', self._data, at, *values[first:stop])
        return bytes(self._data)


def header(stamp_ns: int = 0, frame_id: str = ''):
    types = STORE.types
    stamp = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1_000_000_000))
    return types['std_msgs/msg/Header'](stamp, frame_id)


def joints(names, fields: int = 1, effort: bool = False) -> Template:
    """Return joint states with positions, or these and velocities, or these and efforts."""
    count = len(names)
    numbers = 1001.0 + np.arange(2 * count)
    none = np.zeros(0)
    second = numbers[count:] if fields > 1 else none
    message = STORE.types[JOINTS](
        header(),
        list(names),
        numbers[:count],
        none if effort else second,
        second if effort else none,
    )
    return Template(message, JOINTS)


def pose() -> Template:
    types = STORE.types
    body = types['geometry_msgs/msg/Pose'](
        types['geometry_msgs/msg/Point'](1001.0, 1002.0, 1003.0),
        types['geometry_msgs/msg/Quaternion'](1004.0, 1005.0, 1006.0, 1007.0),
    )
    return Template(types[POSE](header(frame_id='base'), body), POSE)


def twist() -> Template:
    types = STORE.types
    vector = types['geometry_msgs/msg/Vector3']
    body = types['geometry_msgs/msg/Twist'](
        vector(1001.0, 1002.0, 1003.0), vector(1004.0, 1005.0, 1006.0)
    )
    return Template(types[TWIST](header(frame_id='base'), body), TWIST)


def chunk_data(stamp_ns: int, number: int, episode: int, rows: np.ndarray) -> bytes:
    """Return a chunk's message as the policy announces it."""
    types = STORE.types
    none = np.zeros(0)
    point, duration = (
        types['trajectory_msgs/msg/JointTrajectoryPoint'],
        types['builtin_interfaces/msg/Duration'],
    )
    about = {
        'chunk': number,
        'episode': episode,
        'seed': number * 7919,
        'digest': 'd' * 64,
        'policy_version': 1,
        'observation_stamps': dict.fromkeys(CONTRACT.streams, stamp_ns),
    }
    points = [
        point(row, none, none, none, duration(0, i * CONTRACT.period_ns))
        for i, row in enumerate(rows)
    ]
    head = header(stamp_ns, json.dumps(about, separators=(',', ':')))
    message = types[TRAJECTORY](head, list(CONTRACT.action.names), points)
    return bytes(STORE.serialize_cdr(message, TRAJECTORY))


def messages(ticks: int, chunks: bool = True) -> Iterator[tuple[str, int, bytes]]:
    """Yield topic, receive stamp and CDR bytes; half a millisecond between two of them."""
    random = np.random.default_rng(0)
    arm, gripper = joints(ARM, 2), joints(['gripper'], 2, effort=True)
    tool, cube, command, finger = pose(), pose(), twist(), joints(['gripper'], 2)
    record = StepRecord(0, np.zeros(CONTRACT.action_dim), 0, 0, 0, 0, 1, 0, 0, True)
    names, meta = step_fields(record, CONTRACT)
    meta = meta[CONTRACT.action_dim :]
    step, outcome = joints(names), joints(outcome_fields(Outcome(0, *[0.0] * 7))[0])
    now_ns, stamp_ns = RECEIVED_NS, START_NS

    def sensors(stamp_ns: int) -> list[tuple[str, bytes]]:
        numbers = random.random(22).tolist()
        turn = random.normal(size=(2, 4))
        turn /= np.linalg.norm(turn, axis=1, keepdims=True)
        return [
            ('joint_states', arm(stamp_ns, numbers[:12])),
            ('effector_pose', tool(stamp_ns, numbers[12:15] + turn[0].tolist())),
            ('gripper/state', gripper(stamp_ns, numbers[15:17])),
            ('cube_pose', cube(stamp_ns, numbers[17:20] + turn[1].tolist())),
        ]

    for tick in range(ticks):
        episode, index = divmod(tick, EPISODE)
        out = sensors(stamp_ns) if index == 0 else []
        row = random.uniform(-1.0, 1.0, CONTRACT.action_dim)
        place = index % CHUNK
        if place == 0 and chunks:
            rows = random.uniform(-1.0, 1.0, (CHUNK, CONTRACT.action_dim))
            out.append(('policy/chunk', chunk_data(stamp_ns, tick // CHUNK, episode, rows)))
        row = row.astype(np.float32).astype(float).tolist()
        meta[:3] = episode, tick // CHUNK if chunks else -1, place
        ends = float(index == EPISODE - 1)
        out += [
            ('arm/twist_command', command(stamp_ns, row[:3] + [0.0, 0.0] + row[3:4])),
            ('gripper/command', finger(stamp_ns, [0.0, row[4]])),
            ('policy/step', step(stamp_ns, row + meta)),
            ('outcome', outcome(stamp_ns, [-1.0, 0.0, ends, 0.0, episode, tick + 1, ends])),
            *sensors(stamp_ns + CONTRACT.period_ns),
        ]
        for topic, data in out:
            now_ns += 500_000
            yield f'/{topic}', now_ns, data
        stamp_ns += CONTRACT.period_ns * (2 if ends else 1)


def write_bag(folder: Path, ticks: int, chunks: bool = True) -> int:
    """Record `ticks` ticks into a bag as the learner does; returns the number of messages."""
    recorder = BagRecorder(
        folder,
        CONTRACT.recorded_topics(),
        contract_name=CONTRACT.name,
        contract_hash=CONTRACT.hash,
    )
    count = 0
    for topic, now_ns, data in messages(ticks, chunks):
        recorder.write(topic, now_ns, 0, data)
        count += 1
    recorder.close()
    return count
