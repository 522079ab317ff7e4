# SPDX-License-Identifier: Apache-2.0
"""The timed executor: calls a tick at absolute deadlines on the monotonic clock.

::

    t0        t0+P      t0+2P     t0+3P     t0+4P
    |─sleep─s▶|─sleep─s▶|─ tick takes 1.4 P ──▶|   t0+3P was missed: skipped and counted;
    tick      tick      tick                   |   the next tick is t0+4P, on the same grid

Errors do not add up, and a missed tick is never made up in a burst. ``s`` is the spin: the sleep
ends a little early, and the rest is waited for busily. `OversleepQuantile` measures how early.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from qcfql_ros.control.clock import Clock, MonotonicClock
from qcfql_ros.control.histogram import Histogram

_LATE_FRACTION = 0.1
_SPIN_FRACTION = 0.1
# A thread that computes for longer loses its processor to whatever waits for one, for
# milliseconds (docs/results/timing.md, Spin).
SPIN_MOST_NS = 200_000
_CALIBRATION_SLEEPS = 20
_CALIBRATION_SLEEP_NS = 500_000
_QUANTILE = 0.95  # of the oversleep that the spin hides
_STEP = 0.05  # of the estimate: one sleep that is longer than it raises it by nearly that much


@dataclass(frozen=True)
class NextCall:
    """A tick returns this to leave the grid.

    Attributes:
        at_ns: the next deadline; later ones are whole periods after it.
        paced: it is a tick, whose lateness counts; False for a poll while waiting.
    """

    at_ns: int
    paced: bool = True


class Surroundings(Protocol):
    """What is around the ticks of a thread; `realtime.RealtimeThread` is one."""

    def __enter__(self) -> object:
        """Called in the thread that ticks, before anything else."""

    def __exit__(self, *error: Any) -> None:
        """Called in that thread when it ends."""

    def tick_begins(self) -> None:
        """Called before each tick, and before the spin that leads to it."""

    def tick_ended(self, left_ns: int, paced: bool) -> None:
        """Called after it; may use a part of the `left_ns` before the next deadline."""


class Nothing:
    """Surroundings of no consequence."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, *error: Any) -> None:
        """Do nothing."""

    def tick_begins(self) -> None:
        """Do nothing."""

    def tick_ended(self, left_ns: int, paced: bool) -> None:
        """Do nothing."""


class OversleepQuantile:
    """How much later than asked a sleep ends, as a quantile that follows what is seen.

    Each sleep moves the estimate by a fixed share of itself: up if it ended later than the
    estimate, down by less if not, so that 5 % of them end later once it has settled.

    Args:
        high_ns: never above this.
    """

    LOW_NS = 1000.0

    def __init__(self, high_ns: int) -> None:
        self.high_ns = high_ns
        self.estimate_ns = self.LOW_NS

    def add(self, oversleep_ns: int) -> None:
        """Take one sleep into account."""
        if oversleep_ns > self.estimate_ns:
            estimate_ns = self.estimate_ns * (1.0 + _STEP * _QUANTILE)
        else:
            estimate_ns = self.estimate_ns * (1.0 - _STEP * (1.0 - _QUANTILE))
        self.estimate_ns = max(self.LOW_NS, min(estimate_ns, self.high_ns))

    def calibrate(self, clock: Clock, gate: threading.Lock) -> None:
        """Begin with the second longest of some short sleeps, 10 ms in all."""
        longest = second = 0
        for _ in range(_CALIBRATION_SLEEPS):
            until_ns = clock.now_ns() + _CALIBRATION_SLEEP_NS
            if clock.wait(gate, _CALIBRATION_SLEEP_NS):
                gate.release()  # stopped already; `run` is to see it too
                return
            over_ns = clock.now_ns() - until_ns
            if over_ns > longest:
                longest, second = over_ns, longest
            elif over_ns > second:
                second = over_ns
        self.estimate_ns = max(self.LOW_NS, min(float(second), self.high_ns))


class TimedExecutor:
    """Calls ``tick(deadline_ns)`` at ``t0 + i * period``.

    Args:
        period_ns: of the grid.
        tick: returns None to go on with the grid, or a `NextCall`.
        clock: the monotonic clock, or a test's.
        spin_ns: busy wait before a deadline, at most a tenth of a period and 0.2 ms: trades
            processor time for what a sleep is late. Other Python threads stand still meanwhile.
            None measures how much is needed, at the start and from then on.
        surroundings: entered by the thread that ticks, and told of the time between ticks.

    Attributes:
        lateness: begin of ticks after their deadlines.
        published: end of ticks after their deadlines.
        late_ticks: begun more than a tenth of a period late.
        missed_ticks: grid times at which none was begun before the next one.
        last_begin_ns: when the last call began, monotonic; 0 before the first.
    """

    def __init__(
        self,
        period_ns: int,
        tick: Callable[[int], NextCall | None],
        clock: Clock | None = None,
        spin_ns: int | None = 0,
        surroundings: Surroundings | None = None,
    ) -> None:
        if period_ns <= 0:
            raise ValueError(f'period is {period_ns} ns, wanted > 0')
        self.period_ns = period_ns
        self.clock = clock or MonotonicClock()
        self.lateness = Histogram()
        self.published = Histogram()
        self.late_ticks = 0
        self.missed_ticks = 0
        self.last_begin_ns = 0
        most_ns = min(round(_SPIN_FRACTION * period_ns), SPIN_MOST_NS)
        self._oversleep = OversleepQuantile(most_ns) if spin_ns is None else None
        self._spin_ns = max(0, min(spin_ns or 0, most_ns))
        self._surroundings: Surroundings = surroundings or Nothing()
        self._tick = tick
        self._stopped = False
        self._gate = threading.Lock()  # held while running: a sleep that `stop` ends at once
        self._gate.acquire()
        self._thread: threading.Thread | None = None

    @property
    def spin_ns(self) -> int:
        """How long before a deadline the sleep is to end."""
        return self._spin_ns if self._oversleep is None else int(self._oversleep.estimate_ns)

    def run(self, t0_ns: int, paced: bool = True) -> None:
        """Tick until `stop`; the first deadline is `t0_ns`."""
        with self._surroundings:
            self._run(t0_ns, paced)

    def _run(self, t0_ns: int, paced: bool) -> None:
        now_ns, period_ns = self.clock.now_ns, self.period_ns
        tick_ended = self._surroundings.tick_ended
        late_ns = _LATE_FRACTION * period_ns
        if self._oversleep is not None:
            self._oversleep.calibrate(self.clock, self._gate)
        deadline = t0_ns
        while self._wait(deadline, paced):
            self.last_begin_ns = begin = now_ns()
            if paced:
                lateness = begin - deadline
                self.lateness.add(lateness)
                if lateness > late_ns:
                    self.late_ticks += 1
                    deadline += self._miss(lateness)
            following = self._tick(deadline)
            end = now_ns()
            if paced:
                self.published.add(end - deadline)
            if following is not None:
                deadline, paced = following.at_ns, following.paced
            else:
                deadline, paced = deadline + period_ns, True
                if end - deadline >= period_ns:
                    deadline += self._miss(end - deadline)
            tick_ended(deadline - end, paced)

    def start(self, t0_ns: int, died: Callable[[BaseException], None], paced: bool = True) -> None:
        """Run in a thread of its own; `died` is told what it died of."""

        def body() -> None:
            try:
                self.run(t0_ns, paced)
            except BaseException as error:
                died(error)

        self._thread = threading.Thread(target=body, name='control', daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """End after the tick in progress, at once if it waits; whether the thread has ended."""
        if not self._stopped:
            self._stopped = True
            self._gate.release()
        if self._thread is None or self._thread is threading.current_thread():
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _miss(self, behind_ns: int) -> int:
        """Count the grid times that are over, and return how far to move the deadline."""
        missed = behind_ns // self.period_ns
        self.missed_ticks += missed
        return missed * self.period_ns

    def _wait(self, deadline_ns: int, paced: bool) -> bool:
        """Sleep, then spin, until the deadline; False once stopped."""
        clock = self.clock
        wake_ns = deadline_ns - (self.spin_ns if paced else 0)
        now_ns = clock.now_ns()
        if now_ns < wake_ns and not self._stopped:
            clock.wait(self._gate, wake_ns - now_ns)
            now_ns = clock.now_ns()
            if paced and self._oversleep is not None:
                self._oversleep.add(now_ns - wake_ns)
        # Before the spin: who asked for the interpreter's lock during it would get it at the
        # deadline, and has to be given a processor before it can give the lock back.
        self._surroundings.tick_begins()
        while now_ns < deadline_ns and not self._stopped:
            now_ns = clock.now_ns()
        return not self._stopped
