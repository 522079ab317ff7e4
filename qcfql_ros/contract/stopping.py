# SPDX-License-Identifier: Apache-2.0
"""How positions that move come to rest inside their limits."""

from __future__ import annotations

import numpy as np

from qcfql_ros.contract.schema import Contract

_SHORTEST_S = 0.001
_STANDING = 1e-9  # unit/s


def stopping_points(
    contract: Contract, actions: list[int], values: np.ndarray, velocities: np.ndarray
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Return points that bring positions to rest, each at its own constant deceleration.

    A position takes one period, or longer where its acceleration limit says so, but never so long
    that it passes its own limit; where it moves out of it, a millisecond. There is a point where
    each of them comes to rest, so that cubic interpolation between points follows the parabolas
    exactly.

    Args:
        contract: period and limits.
        actions: places in the action row of the positions.
        values: (action_dim,) command values at the start.
        velocities: (action_dim,) in unit/s at the start.

    Returns:
        (time since the start in ns, positions (n,), velocities (n,)) in order; at least one; the
        velocities of the last are 0.
    """
    safety = contract.safety
    start, speed = values[actions], velocities[actions]
    low, high = np.array(safety.low)[actions], np.array(safety.high)[actions]
    hardest = np.array(safety.acceleration)[actions]
    moving = np.abs(speed) > _STANDING
    divisor = np.where(moving, np.abs(speed), 1.0)
    room = np.where(speed > 0.0, high - start, start - low)
    time = np.maximum(contract.period_ns * 1e-9, np.abs(speed) / hardest)
    time = np.clip(time, _SHORTEST_S, np.maximum(_SHORTEST_S, 2.0 * room / divisor))
    time[~moving] = contract.period_ns * 1e-9
    times_ns = np.round(time * 1e9).astype(np.int64)
    time = times_ns * 1e-9
    points = []
    for end_ns in sorted(set(times_ns.tolist())):
        past = np.minimum(end_ns * 1e-9, time)
        positions = start + speed * past * (1.0 - past / (2.0 * time))
        slower = np.where(times_ns <= end_ns, 0.0, speed * (1.0 - past / time))
        points.append((end_ns, np.clip(positions, low, high), slower))
    return points
