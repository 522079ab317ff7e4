# SPDX-License-Identifier: Apache-2.0
"""A policy that can be read off its actions, for the tests of control."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from qcfql_ros.contract import load_contract

POINT = load_contract('point_reach')
PERIOD_NS = POINT.period_ns
CHUNK = 4


class CountingPolicy:
    """Plans (version / 100, row / 100): what was played tells who planned it."""

    def __init__(self, version=1, rows=CHUNK):
        self.info = SimpleNamespace(version=version, action_chunk_size=rows, action_dim=2)
        self.digest = f'{version:064x}'
        self.seeds = []
        self.observations = []
        self.actions = np.array([[version / 100, i / 100] for i in range(rows)], np.float32)

    def plan(self, observation, seed):
        """Note what was asked; always the same chunk."""
        self.seeds.append(seed)
        self.observations.append(observation)
        return self.actions.copy()


class Sent:
    """Stands where the publishers are."""

    def __init__(self):
        self.steps = []
        self.chunks = []

    def rows(self):
        """Return (source, episode, chunk, index) of every tick."""
        return [(int(s.source), s.episode, s.chunk, s.index) for s in self.steps]
