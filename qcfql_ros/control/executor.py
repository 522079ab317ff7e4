# SPDX-License-Identifier: Apache-2.0
"""The timed executor: calls a tick at absolute deadlines on the monotonic clock.

::

    t0        t0+P      t0+2P     t0+3P     t0+4P
    |─sleep──▶|─sleep──▶|─ tick takes 1.4 P ──▶|   t0+3P was missed: skipped and counted;
    tick      tick      tick                   |   the next tick is t0+4P, on the same grid

Errors do not add up, and a missed tick is never made up in a burst.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from qcfql_ros.control.clock import Clock, MonotonicClock
from qcfql_ros.control.histogram import Histogram

_SLICE_NS = 20_000_000  # longest single sleep: how long `stop` can have to wait
_LATE_FRACTION = 0.1


@dataclass(frozen=True)
class NextCall:
    """A tick returns this to leave the grid.

    Attributes:
        at_ns: the next deadline; later ones are whole periods after it.
        paced: it is a tick, whose lateness counts; False for a poll while waiting.
    """

    at_ns: int
    paced: bool = True


class TimedExecutor:
    """Calls ``tick(deadline_ns)`` at ``t0 + i * period``.

    Args:
        period_ns: of the grid.
        tick: returns None to go on with the grid, or a `NextCall`.
        clock: the monotonic clock, or a test's.
        spin_ns: busy wait before a deadline, at most a tenth of a period: trades processor time
            for some ten microseconds. Other Python threads stand still meanwhile.
    """

    def __init__(
        self,
        period_ns: int,
        tick: Callable[[int], NextCall | None],
        clock: Clock | None = None,
        spin_ns: int = 0,
    ) -> None:
        if period_ns <= 0:
            raise ValueError(f'period is {period_ns} ns, wanted > 0')
        self.period_ns = period_ns
        self.clock = clock or MonotonicClock()
        self.spin_ns = max(0, min(spin_ns, period_ns // 10))
        self.lateness = Histogram()
        self.late_ticks = 0
        self.missed_ticks = 0
        self._tick = tick
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def run(self, t0_ns: int, paced: bool = True) -> None:
        """Tick until `stop`; the first deadline is `t0_ns`."""
        deadline = t0_ns
        while not self._stop.is_set():
            if not self._wait(deadline):
                return
            if paced:
                lateness = self.clock.now_ns() - deadline
                self.lateness.add(lateness)
                self.late_ticks += lateness > _LATE_FRACTION * self.period_ns
            following = self._tick(deadline)
            if following is not None:
                deadline, paced = following.at_ns, following.paced
                continue
            deadline, paced = deadline + self.period_ns, True
            behind = self.clock.now_ns() - deadline
            if behind > 0:
                # A tick that begins less than a period late is late; one whose period is over
                # by then is missed.
                missed = behind // self.period_ns
                self.missed_ticks += missed
                deadline += missed * self.period_ns

    def start(self, t0_ns: int, died: Callable[[BaseException], None], paced: bool = True) -> None:
        """Run in a thread of its own; `died` is told what it died of."""

        def body() -> None:
            try:
                self.run(t0_ns, paced)
            except BaseException as error:
                died(error)

        self._thread = threading.Thread(target=body, name='control', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the tick in progress, and wait for that."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def _wait(self, deadline_ns: int) -> bool:
        """Sleep, then spin, until the deadline; False if stopped meanwhile."""
        while (left := deadline_ns - self.spin_ns - self.clock.now_ns()) > 0:
            self.clock.sleep(min(left, _SLICE_NS))
            if self._stop.is_set():
                return False
        while self.clock.now_ns() < deadline_ns:
            pass
        return True
