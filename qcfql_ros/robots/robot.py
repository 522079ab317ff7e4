# SPDX-License-Identifier: Apache-2.0
"""What a simulated robot can do, and how to get one by name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qcfql_ros.contract.schema import Contract
from qcfql_ros.errors import RobotError, nearest

# Name to "module:class". A module is imported when its robot is asked for: the light one needs
# neither gymnasium nor MuJoCo.
ROBOTS = {
    'point_reach': 'qcfql_ros.robots.point_reach:PointReach',
    'ur5e_cube': 'qcfql_ros.robots.ur5e_cube:Ur5eCube',
}
MODES = ('task', 'play')


@dataclass(frozen=True)
class TickResult:
    """What came of one tick.

    Attributes:
        reward: of this tick.
        terminated: no bootstrap beyond this tick.
        truncated: cut from outside, here by the time limit.
        success: the task is solved, at the time the contract's `success_timing` says.
        ended: the episode ends here. A play episode goes on after a terminated tick.
    """

    reward: float
    terminated: bool
    truncated: bool
    success: bool
    ended: bool


class Robot(Protocol):
    """A simulated robot, one tick at a time. Knows no topic and no clock.

    Attributes:
        rate_hz: the control rate that it is built for.
        streams: stream name to message type of its sensors.
        action_names: numbers of its action row, in order; each in [-1, 1].
    """

    rate_hz: float
    streams: dict[str, str]
    action_names: tuple[str, ...]

    def reset(self, seed: int) -> None:
        """Begin an episode that depends on nothing but `seed`."""

    def apply(self, action: np.ndarray) -> TickResult:
        """Execute one action row, (action_dim,) float32, for one period."""

    def sensors(self, stamp_ns: int) -> dict[str, Any]:
        """Return a message for each stream, stamped. They are reused by the next call."""

    def close(self) -> None:
        """Free what it holds."""


def make_robot(name: str, mode: str, contract: Contract) -> Robot:
    """Return the robot called `name`, checked against the contract that will read it.

    Args:
        name: one of ROBOTS.
        mode: ``task``: episodes of the task, ended by success; ``play``: long episodes for
            demonstrations, labelled for the task.
        contract: gives `success_timing`.

    Raises:
        RobotError: unknown, or streams, actions or rate do not fit the contract.
    """
    if name not in ROBOTS:
        raise RobotError(
            f'robot {name!r} is unknown, wanted one of {", ".join(sorted(ROBOTS))}'
            f'{nearest(name, ROBOTS)}'
        )
    if mode not in MODES:
        raise RobotError(f'mode is {mode!r}, wanted one of {", ".join(MODES)}')
    module, _, kind = ROBOTS[name].partition(':')
    try:
        made = getattr(importlib.import_module(module), kind)
    except ModuleNotFoundError as error:
        raise RobotError(
            f"robot {name!r} needs the module {error.name!r}: pip install 'qcfql_ros[sim]'"
        ) from error
    _check_fit(name, made, contract)
    return made(mode=mode, success_timing=contract.success_timing)


def episode_seed(seed: int, episode: int) -> int:
    """Return the seed of one episode: far apart for neighbours, equal in every run."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


def _check_fit(name: str, robot: type[Robot], contract: Contract) -> None:
    for stream in contract.streams.values():
        if robot.streams.get(stream.name) != stream.type:
            offered = ', '.join(f'{n} ({t})' for n, t in robot.streams.items())
            raise RobotError(
                f'robot {name!r} has no stream {stream.name!r} of {stream.type} as '
                f'{contract.file} wants; it has {offered}'
            )
    if contract.action.names != robot.action_names:
        raise RobotError(
            f'robot {name!r} takes actions {", ".join(robot.action_names)}; {contract.file} has '
            f'{", ".join(contract.action.names)}'
        )
    if contract.rate_hz != robot.rate_hz:
        raise RobotError(
            f'robot {name!r} is built for {robot.rate_hz:g} Hz; control.rate_hz in '
            f'{contract.file} is {contract.rate_hz:g}'
        )
