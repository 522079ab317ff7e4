#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How late a 100 Hz tick is: our timed executor, an rclpy timer, and a relative sleep.

    python benchmarks/executor.py [--quick] [--json PATH] [--rate-hz 100] [--load 0]

lateness: begin of tick i after t0 + i * period. drift: lateness of the last tick less that of the
first, which a relative sleep piles up. ticks: how many of those due were run. `--load N` keeps N
other processes busy meanwhile. The relative sleep is what the loops of LeRobot 0.6 do on Linux
(rollout/strategies, `precise_sleep`): sleep for what is left of the period after the work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from qcfql_ros.control.executor import TimedExecutor

WORK_NS = 1_000_000  # what a tick does: a millisecond of Python


def work() -> None:
    """Be busy for a millisecond."""
    until = time.monotonic_ns() + WORK_NS
    while time.monotonic_ns() < until:
        pass


def timed_executor(period_ns: int, ticks: int, spin_ns: int = 0) -> tuple[list[int], int]:
    """Return begin times and t0 of ours."""
    begun: list[int] = []

    def tick(deadline_ns: int) -> None:
        begun.append(time.monotonic_ns())
        work()
        if time.monotonic_ns() >= t0_ns + (ticks - 1) * period_ns:
            executor._stop.set()

    executor = TimedExecutor(period_ns, tick, spin_ns=spin_ns)
    t0_ns = time.monotonic_ns() + period_ns
    executor.run(t0_ns)
    return begun, t0_ns


def relative_sleep(period_ns: int, ticks: int) -> tuple[list[int], int]:
    """Return begin times and t0 of a loop that sleeps for the rest of each period."""
    begun = []
    for _ in range(ticks):
        begin = time.perf_counter()
        begun.append(time.monotonic_ns())
        work()
        time.sleep(max(0.0, period_ns * 1e-9 - (time.perf_counter() - begin)))
    return begun, begun[0]


def rclpy_timer(period_ns: int, ticks: int) -> tuple[list[int], int]:
    """Return begin times and t0 of a timer on the single-threaded executor."""
    import rclpy
    from rclpy.clock import Clock, ClockType
    from rclpy.executors import SingleThreadedExecutor

    rclpy.init()
    node = rclpy.create_node('benchmark')
    begun = []

    def tick() -> None:
        begun.append(time.monotonic_ns())
        work()

    t0_ns = time.monotonic_ns() + period_ns
    node.create_timer(period_ns * 1e-9, tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while time.monotonic_ns() < t0_ns + (ticks - 1) * period_ns:
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    rclpy.shutdown()
    return begun, t0_ns


def summary(begun: list[int], t0_ns: int, period_ns: int, grid: bool) -> dict[str, float]:
    """Return lateness in us against the grid; `grid`: whether a late tick may skip grid times."""
    times = np.array(begun) - t0_ns
    number = times // period_ns if grid else np.arange(len(times))
    late_us = (times - number * period_ns) / 1e3
    p50, p99 = np.percentile(late_us, [50, 99])
    return {
        'ticks': len(begun),
        'p50_us': round(float(p50), 1),
        'p99_us': round(float(p99), 1),
        'max_us': round(float(late_us.max()), 1),
        'drift_us': round(float(late_us[-1] - late_us[0]), 1),
    }


def main() -> int:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='3 s each instead of 30')
    parser.add_argument('--json', type=Path, help='write a flat object, name to number')
    parser.add_argument('--rate-hz', type=float, default=100.0)
    parser.add_argument('--load', type=int, default=0, help='busy processes beside it')
    options = parser.parse_args()
    period_ns = round(1e9 / options.rate_hz)
    ticks = round((3 if options.quick else 30) * options.rate_hz)
    busy = [
        subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(options.load)
    ]
    try:
        rows = {
            'timed_executor': summary(*timed_executor(period_ns, ticks), period_ns, True),
            'timed_executor_spin': summary(
                *timed_executor(period_ns, ticks, period_ns // 20), period_ns, True
            ),
            'rclpy_timer': summary(*rclpy_timer(period_ns, ticks), period_ns, True),
            'relative_sleep': summary(*relative_sleep(period_ns, ticks), period_ns, False),
        }
    finally:
        for process in busy:
            process.kill()
            process.wait()
    columns = list(rows['timed_executor'])
    print(f'{options.rate_hz:g} Hz, {ticks} ticks due, {options.load} busy processes beside it')
    print(f'{"":22}' + ''.join(f'{column:>12}' for column in columns))
    for name, row in rows.items():
        print(f'{name:22}' + ''.join(f'{row[column]:>12}' for column in columns))
    if options.json:
        flat = {
            f'{name}_{column}': value
            for name, row in rows.items()
            for column, value in row.items()
        }
        options.json.write_text(json.dumps({'rate_hz': options.rate_hz, **flat}, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
