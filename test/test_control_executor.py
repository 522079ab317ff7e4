# SPDX-License-Identifier: Apache-2.0
"""Deadlines, lateness and missed ticks, on a clock that only a test moves."""

from __future__ import annotations

import itertools
import random
import threading

from qcfql_ros.control.clock import FakeClock
from qcfql_ros.control.executor import NextCall, TimedExecutor
from qcfql_ros.control.histogram import Histogram

MS = 1_000_000
PERIOD = 10 * MS


def run(executor_of, ticks, oversleep_ns=0, spin_ns=0):
    """Run `ticks` ticks from time 0; `executor_of(i, clock)` is what tick i does."""
    clock = FakeClock(oversleep_ns=oversleep_ns)
    deadlines, begun = [], []

    def tick(deadline_ns):
        deadlines.append(deadline_ns)
        begun.append(clock.time_ns)
        if len(deadlines) == ticks:
            executor._stop.set()
        return executor_of(len(deadlines) - 1, clock)

    executor = TimedExecutor(PERIOD, tick, clock, spin_ns)
    executor.run(PERIOD)
    return executor, deadlines, begun


def test_errors_do_not_add_up():
    executor, deadlines, begun = run(lambda i, clock: None, 1000, oversleep_ns=MS // 2)
    assert deadlines == [PERIOD * (i + 1) for i in range(1000)]
    assert max(b - d for b, d in zip(begun, deadlines)) < MS
    assert executor.missed_ticks == executor.late_ticks == 0
    assert executor.lateness.count == 1000


def test_a_missed_tick_is_skipped_and_counted_and_never_made_up_in_a_burst():
    def long_fourth(i, clock):
        if i == 3:
            clock.time_ns += 35 * MS

    executor, deadlines, begun = run(long_fourth, 8)
    # Deadline 40 ms took until 75 ms: 50 and 60 are missed, 70 is late, 80 is on time again.
    assert [d // MS for d in deadlines] == [10, 20, 30, 40, 70, 80, 90, 100]
    assert executor.missed_ticks == 2
    assert executor.late_ticks == 1
    assert all(later - earlier >= 4 * MS for earlier, later in itertools.pairwise(begun))


def test_a_late_wake_up_is_counted_as_late():
    executor, _, _ = run(lambda i, clock: None, 20, oversleep_ns=2 * MS)
    assert executor.late_ticks == 20
    assert executor.lateness.quantile(0.5) >= 2 * MS


def test_a_spin_hides_the_oversleep_and_is_at_most_a_tenth_of_the_period():
    executor, deadlines, begun = run(
        lambda i, clock: None, 20, oversleep_ns=MS // 2, spin_ns=PERIOD
    )
    assert executor.spin_ns == PERIOD // 10
    assert max(b - d for b, d in zip(begun, deadlines)) < 10


def test_a_tick_can_move_the_grid():
    executor, deadlines, _ = run(
        lambda i, clock: NextCall(23 * MS, paced=False) if i == 0 else None, 4
    )
    assert [d // MS for d in deadlines] == [10, 23, 33, 43]
    assert executor.lateness.count == 3  # the poll is no tick


def test_a_tick_that_raises_is_told_to_the_owner():
    died = threading.Event()
    errors = []

    def tick(deadline_ns):
        raise RuntimeError('broken')

    executor = TimedExecutor(PERIOD, tick)
    executor.start(executor.clock.now_ns(), lambda e: (errors.append(e), died.set()))
    assert died.wait(5.0)
    assert str(errors[0]) == 'broken'
    executor.stop()


def test_in_real_time_fifty_ticks_at_100_hz_take_half_a_second():
    began = []
    done = threading.Event()

    def tick(deadline_ns):
        began.append(executor.clock.now_ns() - deadline_ns)
        if len(began) == 50:
            done.set()

    executor = TimedExecutor(PERIOD, tick)
    start_ns = executor.clock.now_ns()
    executor.start(start_ns + PERIOD, lambda error: None)
    assert done.wait(5.0)
    executor.stop()
    assert min(began) >= 0  # never early
    assert executor.missed_ticks + len(began) >= 50
    assert sorted(began)[25] < PERIOD  # a loaded machine may be late, not by a period each time


def test_a_histogram_is_never_below_the_true_quantile_and_at_most_a_sixteenth_above():
    histogram = Histogram()
    draw = random.Random(1)
    samples = sorted(int(draw.lognormvariate(11, 2)) for _ in range(5000))
    for sample in samples:
        histogram.add(sample)
    for q in (0.01, 0.5, 0.9, 0.99, 1.0):
        exact = samples[max(1, round(q * len(samples))) - 1]
        assert exact <= histogram.quantile(q) <= exact * (1 + 1 / 16) + 1
    assert histogram.max_ns == samples[-1]
    assert Histogram().quantile(0.5) == 0
