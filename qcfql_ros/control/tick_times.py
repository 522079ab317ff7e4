# SPDX-License-Identifier: Apache-2.0
"""When the last commands began and ended, and what that says of the rate.

::

    deadline   |d0            |d1            |d2
    command      |b0──e0|       |b1─e1|       |b2──e2|
                 |<─ 1 / rate ─▶|
               |b0 - d0: lateness                          |e0 - d0: publish lateness
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 4096


@dataclass(frozen=True)
class Statistics:
    """Of some numbers; all 0 where there are none.

    Attributes:
        count: how many.
        average: their mean.
        standard_deviation: of the population.
        min, max: the extremes.
        p50, p99: the smallest number that this share of them does not exceed.
    """

    count: int = 0
    average: float = 0.0
    standard_deviation: float = 0.0
    min: float = 0.0
    max: float = 0.0
    p50: float = 0.0
    p99: float = 0.0

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Statistics:
        """Return the statistics of `numbers`."""
        count = len(numbers)
        if not count:
            return cls()
        average = math.fsum(numbers) / count
        variance = math.fsum((number - average) ** 2 for number in numbers) / count
        ordered = sorted(numbers)
        p50, p99 = (ordered[max(0, math.ceil(q * count) - 1)] for q in (0.5, 0.99))
        return cls(count, average, math.sqrt(variance), ordered[0], ordered[-1], p50, p99)


@dataclass(frozen=True)
class Timing:
    """Of the commands in some span of time.

    Attributes:
        periodicity: in Hz, from each begin to the next.
        execution_us: from begin to end.
        lateness_us: from deadline to begin.
        publish_lateness_us: from deadline to end.
    """

    periodicity: Statistics
    execution_us: Statistics
    lateness_us: Statistics
    publish_lateness_us: Statistics


class TickTimes:
    """Written by the control thread, which allocates nothing that stays; read by any other."""

    def __init__(self) -> None:
        self._times: deque[tuple[int, int, int]] = deque(maxlen=KEPT)

    def add(self, deadline_ns: int, begin_ns: int, end_ns: int) -> None:
        """Note one command; all times monotonic."""
        self._times.append((deadline_ns, begin_ns, end_ns))

    def pause(self) -> None:
        """Note that the next command belongs to another run: what is between them is no period."""
        if self._times and self._times[-1][1]:
            self._times.append((0, 0, 0))

    def since(self, begin_ns: int) -> Timing:
        """Return what is known of the commands begun after `begin_ns`, monotonic."""
        times = list(self._times)  # at once: the other thread cannot come between
        first = len(times)
        while first and (times[first - 1][1] > begin_ns or not times[first - 1][1]):
            first -= 1  # from the end: most of what is kept is older
        times = times[max(0, first - 1) :]
        recent = [t for t in times if t[1] > begin_ns]
        rates = [
            1e9 / (after[1] - before[1])
            for before, after in itertools.pairwise(times)
            if before[1] and after[1] > begin_ns
        ]
        return Timing(
            Statistics.of(rates),
            Statistics.of([(end - begin) * 1e-3 for _, begin, end in recent]),
            Statistics.of([(begin - deadline) * 1e-3 for deadline, begin, _ in recent]),
            Statistics.of([(end - deadline) * 1e-3 for deadline, _, end in recent]),
        )
