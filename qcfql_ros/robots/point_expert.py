# SPDX-License-Identifier: Apache-2.0
"""Goes to places of its own choice, the goal among them, with noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

GAIN = 8.0
NOISE = 0.3
NEW_TARGET = 0.03  # chance a tick


class PointExpert:
    """Play for the point: half of its targets are the goal."""

    def begin(self, messages: Mapping[str, Any], seed: int) -> None:
        """Choose a first target."""
        self._rng = np.random.default_rng(seed)
        self._choose(messages)

    def action(self, messages: Mapping[str, Any]) -> np.ndarray:
        """Return a velocity toward the target."""
        if self._rng.random() < NEW_TARGET:
            self._choose(messages)
        joints = messages['joint_states']
        position = [joints.position[list(joints.name).index(name)] for name in ('x', 'y')]
        row = GAIN * (self._target - position) + NOISE * self._rng.standard_normal(2)
        return np.clip(row, -1.0, 1.0).astype(np.float32)

    def _choose(self, messages: Mapping[str, Any]) -> None:
        self._target = self._rng.uniform(-1.0, 1.0, 2)
        if self._rng.random() < 0.5:
            goal = messages['goal'].pose.position
            self._target = np.array([goal.x, goal.y])
