# SPDX-License-Identifier: Apache-2.0
"""How far a robot in lockstep may go: no tick of it is to be missed. No ROS.

That we see a publisher is not yet its seeing us; only its messages tell. A robot that waits for
us sends none. So it is let go on one tick at a time until every topic of a tick was heard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

SETTLE_S = 0.3
PROBE_S = 0.2


class CreditGate:
    """Says what of the credits that learning allows may be given out.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._publishers: dict[str, int] = {}
        self._changed_s = self._probed_s = -1e9
        self._probe = 0

    def changed(self, publishers: Mapping[str, int]) -> set[str]:
        """Return the topics with other publishers than before, by number; call it often.

        What was heard of them before says nothing any more.
        """
        topics = {
            topic for topic, count in publishers.items() if self._publishers.get(topic) != count
        }
        if topics:
            self._publishers = dict(publishers)
            self._changed_s = self._clock()
            self._probe = 0
        return topics

    @property
    def matched(self) -> bool:
        """Whether every topic has a publisher, and that for a while."""
        there = all(self._publishers.values())
        return there and self._clock() > self._changed_s + SETTLE_S

    def allow(self, wanted: int, tick: int, *, heard: bool) -> int:
        """Return the last tick that the robot may execute.

        Args:
            wanted: the last one that the pace of learning allows.
            tick: the last one that it has executed, as far as known.
            heard: every topic was heard since its publishers changed.
        """
        if not self.matched:
            return min(wanted, tick)
        if heard:
            return wanted
        now_s = self._clock()
        if tick >= self._probe and now_s >= self._probed_s + PROBE_S:
            self._probe, self._probed_s = tick + 1, now_s
        return min(wanted, max(tick, self._probe))
