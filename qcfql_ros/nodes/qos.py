# SPDX-License-Identifier: Apache-2.0
"""Quality of service of our topics, the same on both ends.

A best-effort publisher and a reliable subscription never connect: ask for sensors at wall rate
with `sensor_qos('wall')` on both ends.
"""

from __future__ import annotations

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
)


def _profile(depth: int, reliable: bool = True, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


# Outcome, step, chunk: every one counts. Deep enough for a recorder that stalls for a while.
RECORD_QOS = _profile(1000)
# Only the newest number matters, also to who comes late.
CREDITS_QOS = _profile(1, latched=True)
# Between a player and its learners: what is played, its pieces, what was taken.
PLAYBACK_QOS = _profile(1, latched=True)
PIECE_QOS = _profile(1000)
ANSWER_QOS = _profile(100)


def sensor_qos(pacing: str) -> QoSProfile:
    """Return the profile of sensor topics: best effort at wall rate, all of them in lockstep."""
    return _profile(1000) if pacing == 'lockstep' else _profile(10, reliable=False)


def command_qos(pacing: str) -> QoSProfile:
    """Return the profile of command topics."""
    return _profile(1000 if pacing == 'lockstep' else 10)


def played_qos(latched: int) -> QoSProfile:
    """Return the profile that a recorded topic is played with: who asks for less connects too.

    Deadlines, lifespans and leases are left out: they hold for another rate than that of a
    playback.

    Args:
        latched: messages kept for who comes late; 0 if the topic is not latched.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST if latched else HistoryPolicy.KEEP_ALL,
        depth=max(100, latched),
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
