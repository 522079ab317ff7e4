# SPDX-License-Identifier: Apache-2.0
"""Deadlines, lateness and missed ticks, on a clock that only a test moves."""

from __future__ import annotations

import itertools
import random
import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from qcfql_ros.control.clock import FakeClock
from qcfql_ros.control.executor import (
    SPIN_MOST_NS,
    NextCall,
    Nothing,
    OversleepQuantile,
    TimedExecutor,
)
from qcfql_ros.control.histogram import Histogram

MS = 1_000_000
PERIOD = 10 * MS


def run(executor_of, ticks, oversleep_ns=0, spin_ns=0, t0_ns=PERIOD):
    """Run `ticks` ticks from `t0_ns` on; `executor_of(i, clock)` is what tick i does."""
    clock = FakeClock(oversleep_ns=oversleep_ns)
    deadlines, begun = [], []

    def tick(deadline_ns):
        deadlines.append(deadline_ns)
        begun.append(clock.time_ns)
        if len(deadlines) == ticks:
            executor.stop()
        return executor_of(len(deadlines) - 1, clock)

    executor = TimedExecutor(PERIOD, tick, clock, spin_ns)
    executor.run(t0_ns)
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


def test_a_spin_is_at_most_a_tenth_of_the_period_and_short_in_any_case():
    def spin_ns(period_ns):
        return TimedExecutor(period_ns, lambda d: None, FakeClock(), spin_ns=period_ns).spin_ns

    assert spin_ns(MS) == MS // 10
    assert spin_ns(100 * MS) == SPIN_MOST_NS


def test_a_spin_hides_the_oversleep():
    _, deadlines, begun = run(
        lambda i, clock: None, 20, oversleep_ns=SPIN_MOST_NS - 1, spin_ns=PERIOD
    )
    assert max(b - d for b, d in zip(begun, deadlines)) < 10


class ErraticClock(FakeClock):
    """Each sleep lasts longer than asked by the next of `oversleeps_ns`, and then by none."""

    def __init__(self, oversleeps_ns):
        super().__init__(reading_ns=5000)
        self.oversleeps = iter(oversleeps_ns)

    def sleep(self, duration_ns):
        """Let time pass."""
        self.oversleep_ns = next(self.oversleeps, 0)
        super().sleep(duration_ns)


DELAYS = st.lists(st.integers(0, 4 * PERIOD), min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(oversleeps=DELAYS, durations=DELAYS, spin_ns=st.none() | st.integers(0, PERIOD))
def test_whatever_is_late_ticks_are_on_the_grid_counted_and_never_in_a_burst(
    oversleeps, durations, spin_ns
):
    clock = ErraticClock(oversleeps)
    deadlines, begun = [], []

    def tick(deadline_ns):
        begun.append(clock.time_ns)
        deadlines.append(deadline_ns)
        clock.time_ns += durations[len(begun) - 1]
        if len(begun) == len(durations):
            executor.stop()

    executor = TimedExecutor(PERIOD, tick, clock, spin_ns)
    t0_ns = 10 * PERIOD * (1 + len(oversleeps))  # after the calibration, however long it takes
    executor.run(t0_ns)
    numbers = [(deadline - t0_ns) // PERIOD for deadline in deadlines]
    assert [t0_ns + n * PERIOD for n in numbers] == deadlines
    assert all(a < b for a, b in itertools.pairwise(numbers))
    # Each tick belongs to the grid time that it begins at: two in one period there cannot be.
    assert all(
        0 <= begin - d < PERIOD + 3 * clock.reading_ns for begin, d in zip(begun, deadlines)
    )
    # All grid times are ticked or counted as missed, those that the last tick covers included.
    due = {
        numbers[-1] + 1 + max(0, (end_ns - deadlines[-1]) // PERIOD - 1)
        for end_ns in (clock.time_ns - 3 * clock.reading_ns, clock.time_ns)
    }
    assert len(begun) + executor.missed_ticks in due
    assert executor.lateness.count == executor.published.count == len(begun)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 10 * MS), min_size=1, max_size=200))
def test_the_measured_spin_stays_inside_its_bounds(oversleeps):
    executor = TimedExecutor(PERIOD, lambda deadline: None, FakeClock(), spin_ns=None)
    for oversleep in oversleeps:
        executor._oversleep.add(oversleep)
        assert 0 < executor.spin_ns <= SPIN_MOST_NS


def test_the_measured_spin_finds_the_quantile_and_follows_when_it_changes():
    quantile = OversleepQuantile(10 * MS)
    draw = random.Random(3)
    for scale in (100_000, 400_000, 50_000):
        for _ in range(4000):
            quantile.add(int(draw.expovariate(1 / scale)))
        over = []
        for _ in range(4000):
            sample = int(draw.expovariate(1 / scale))
            over.append(sample > quantile.estimate_ns)
            quantile.add(sample)
        assert 0.02 < sum(over) / len(over) < 0.10, scale


def test_a_measured_spin_hides_a_constant_oversleep_from_the_first_tick_on():
    executor, deadlines, begun = run(
        lambda i, clock: None, 50, oversleep_ns=MS // 8, spin_ns=None, t0_ns=10 * PERIOD
    )
    lateness = [begin - deadline for begin, deadline in zip(begun, deadlines)]
    assert sorted(lateness)[45] < 20
    assert executor.missed_ticks == executor.late_ticks == 0


def test_the_end_of_a_tick_is_counted_against_its_deadline_and_its_begin_can_be_seen():
    seen = []

    def work(i, clock):
        seen.append(clock.time_ns)
        clock.time_ns += 3 * MS

    executor, _, begun = run(work, 10)
    assert 3 * MS <= executor.published.quantile(0.5) <= 3.2 * MS
    assert executor.last_begin_ns == begun[-1]


def test_what_is_done_between_ticks_is_told_how_long_it_has():
    told = []

    class Noted(Nothing):
        def tick_ended(self, left_ns, paced):
            told.append((round(left_ns / MS), paced))

    clock = FakeClock()

    def tick(deadline_ns):
        clock.time_ns += (2 if deadline_ns < 25 * MS else 14) * MS
        if deadline_ns >= 35 * MS:
            executor.stop()
        return NextCall(25 * MS, paced=False) if deadline_ns == 20 * MS else None

    executor = TimedExecutor(PERIOD, tick, clock, surroundings=Noted())
    executor.run(PERIOD)
    # 10 until 12; 20 until 22, then a poll at 25, which takes until 39, 4 after the next tick.
    assert told[:3] == [(8, True), (3, False), (-4, True)]


def test_stop_ends_a_long_sleep_at_once():
    executor = TimedExecutor(PERIOD, lambda deadline: None)
    executor.start(executor.clock.now_ns() + 3_600_000 * MS, lambda error: None)
    begin_s = time.monotonic()
    executor.stop()
    assert time.monotonic() - begin_s < 5.0
    assert executor.lateness.count == 0


def test_the_thread_enters_its_surroundings_and_leaves_them_when_it_dies():
    died = threading.Event()
    seen = []

    class Noted:
        def __enter__(self):
            seen.append(('enter', threading.current_thread().name))

        def __exit__(self, *error):
            seen.append(('exit', threading.current_thread().name))

        def tick_ended(self, left_ns, paced):
            seen.append('ended')

        def tick_begins(self):
            seen.append('begins')

    def tick(deadline_ns):
        seen.append('tick')
        raise RuntimeError('broken')

    executor = TimedExecutor(PERIOD, tick, surroundings=Noted())
    executor.start(0, lambda error: died.set())
    assert died.wait(5.0)
    assert seen == [('enter', 'control'), 'begins', 'tick', ('exit', 'control')]
    executor.stop()


def test_the_surroundings_hear_of_a_tick_before_the_spin_that_leads_to_it():
    heard = []

    class Noted(Nothing):
        def tick_begins(self):
            heard.append(clock.time_ns)

    clock = FakeClock()
    executor = TimedExecutor(PERIOD, lambda d: executor.stop() and None, clock, MS // 10, Noted())
    executor.run(PERIOD)
    assert PERIOD - MS // 10 <= heard[0] < PERIOD - MS // 20


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


def test_a_histogram_is_never_below_the_true_quantile_and_at_most_a_thirty_second_above():
    histogram = Histogram()
    draw = random.Random(1)
    samples = sorted(int(draw.lognormvariate(11, 2)) for _ in range(5000))
    for sample in samples:
        histogram.add(sample)
    for q in (0.01, 0.5, 0.9, 0.99, 1.0):
        exact = samples[max(1, round(q * len(samples))) - 1]
        assert exact <= histogram.quantile(q) <= exact * (1 + 1 / 32) + 1
    assert histogram.max_ns == samples[-1]
    assert Histogram().quantile(0.5) == 0


def test_a_histogram_shows_an_interval_and_is_pooled():
    first, second = [5, 300, 70_000], [8, 1_000_000, 900, 5]
    histogram, only_second = Histogram(), Histogram()
    for sample in first:
        histogram.add(sample)
    before = histogram.snapshot()
    for sample in second:
        histogram.add(sample)
        only_second.add(sample)
    interval = histogram.since(before)
    assert interval.counts == only_second.counts
    assert interval.count == 4
    assert interval.max_ns == 1_000_000
    before.merge(interval)
    assert before.counts == histogram.counts
    assert (before.count, before.max_ns) == (histogram.count, histogram.max_ns)
    assert histogram.since(histogram.snapshot()).quantile(0.99) == 0


def test_a_histogram_holds_any_duration_that_a_clock_can_give():
    histogram = Histogram()
    for duration in (-5, 0, 1, 2**31, 2**63 - 1, 2**64 + 1):
        histogram.add(duration)
    assert histogram.count == sum(histogram.counts) == 6
    assert histogram.quantile(1.0) >= 2**63 - 1
