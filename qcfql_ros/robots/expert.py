# SPDX-License-Identifier: Apache-2.0
"""Scripted experts: who drives the robot while demonstrations are recorded."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from qcfql_ros.errors import RobotError, nearest

EXPERTS = {
    'point_reach': 'qcfql_ros.robots.point_expert:PointExpert',
    'ur5e_cube': 'qcfql_ros.robots.cube_expert:CubeExpert',
}


class Expert(Protocol):
    """Chooses actions from the messages of a robot's sensor streams."""

    def begin(self, messages: Mapping[str, Any], seed: int) -> None:
        """Begin an episode.

        Args:
            messages: stream name to message, the first of the episode.
            seed: all that is drawn in the episode comes from it.
        """

    def action(self, messages: Mapping[str, Any]) -> np.ndarray:
        """Return the action row for this tick, (action_dim,) float32 in [-1, 1]."""


def make_expert(robot: str) -> Expert:
    """Return the expert for the robot of this name.

    Raises:
        RobotError: there is none, or what it needs is not installed.
    """
    if robot not in EXPERTS:
        raise RobotError(
            f'robot {robot!r} has no scripted expert, wanted one of '
            f'{", ".join(sorted(EXPERTS))}{nearest(robot, EXPERTS)}'
        )
    module, _, kind = EXPERTS[robot].partition(':')
    try:
        return getattr(importlib.import_module(module), kind)()
    except ModuleNotFoundError as error:
        raise RobotError(
            f'the expert for {robot!r} needs the module {error.name!r}: '
            "pip install 'qcfql_ros[sim]'"
        ) from error
