# SPDX-License-Identifier: Apache-2.0
"""A policy that can be read off its actions, for the tests of control."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.schema import (
    Action,
    Command,
    CommandField,
    Measured,
    Safety,
    no_limits,
)

POINT = load_contract('point_reach')
PERIOD_NS = POINT.period_ns
CHUNK = 4


class CountingPolicy:
    """Plans (version / 100, row / 100): what was played tells who planned it."""

    def __init__(self, version=1, rows=CHUNK, columns=2):
        self.info = SimpleNamespace(version=version, action_chunk_size=rows, action_dim=columns)
        self.digest = f'{version:064x}'
        self.seeds = []
        self.observations = []
        numbers = [[version / 100, *[i / 100] * (columns - 1)] for i in range(rows)]
        self.actions = np.array(numbers, np.float32)

    def plan(self, observation, seed, noise_scale=1.0, num_samples=0):
        """Note what was asked; always the same chunk."""
        self.seeds.append(seed)
        self.observations.append(observation)
        return self.actions.copy()


class Sent:
    """Stands where the publishers are.

    `wire` has all of it in order: (kind, stamp, values...).
    """

    def __init__(self):
        self.steps = []
        self.chunks = []
        self.commands = []
        self.wire = []

    def command(self, values, stamp_ns):
        """Keep a command: (stamp, values)."""
        self.commands.append((stamp_ns, values.tolist()))
        self.wire.append(('command', stamp_ns, values.tolist()))

    def trajectory(self, values, velocities, stamp_ns):
        """Keep a whole chunk."""
        self.wire.append(('trajectory', stamp_ns, values.copy(), velocities.copy()))

    def rest(self, values, stamp_ns):
        """Keep a safe command."""
        self.commands.append((stamp_ns, values.tolist()))
        self.wire.append(('rest', stamp_ns, values.tolist()))

    def record(self, record):
        """Keep the record of a tick."""
        self.steps.append(record)
        self.wire.append(('step', record.stamp_ns, record))

    def announce(self, record):
        """Keep the record of a chunk."""
        self.chunks.append(record)

    def rows(self):
        """Return (source, episode, chunk, index) of every tick."""
        return [(int(s.source), s.episode, s.chunk, s.index) for s in self.steps]


def joint_contract(joints=2, commands=1, relative='', whole_chunk=False, **changes):
    """Return POINT with its joints commanded by position: scale 2, offset 0.1.

    Of `changes`, what is a field of Safety goes there, one number for all joints.
    """
    streams = {'joint_states': POINT.streams['joint_states'], 'goal': POINT.streams['goal']}
    hold = (0.0 if relative else math.nan,) * joints
    fields = tuple(
        CommandField(
            'position',
            f'j{i}',
            i,
            2.0,
            0.0 if relative else 0.1,
            relative,
            Measured('joint_states', i % 4, 0.0, 1.0),
        )
        for i in range(joints)
    )
    names = tuple(f'a{i}' for i in range(joints))
    command = Command(
        'arm', 'trajectory_msgs/msg/JointTrajectory', '', fields, whole_chunk=whole_chunk
    )
    action = Action(names, (-1.0,) * joints, (1.0,) * joints, hold, (command,))
    limits = {
        name: (changes.pop(name),) * joints
        for name in ('low', 'high', 'velocity', 'acceleration')
        if name in changes
    }
    others = {f.name for f in dataclasses.fields(Safety)} & set(changes)
    safety = dataclasses.replace(
        no_limits(joints), **limits, **{name: changes.pop(name) for name in others}
    )
    return dataclasses.replace(
        POINT,
        streams=streams,
        action=action,
        safety=safety,
        commands_per_tick=commands,
        **changes,
    )
