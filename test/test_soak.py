# SPDX-License-Identifier: Apache-2.0
"""A short soak passes, and its judge catches each kind of bad command.

The long one is ``python benchmarks/soak.py``; what it found is in docs/results/soak.md.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qcfql_ros.control.limits import PositionLimit
from qcfql_ros.control.safety import SafetyFilter

BENCHMARKS = Path(__file__).parents[1] / 'benchmarks'
PERIOD_NS = 10_000_000
ARM, BASE = 'arm/command', 'base/twist_command'


@pytest.fixture
def soak(monkeypatch):
    """Return the modules of the benchmark, which are no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import soak_checker
    import soak_lockstep

    return soak_checker, soak_lockstep


class Wire:
    """Feeds a judge with commands that are right but for what a test changes."""

    def __init__(self, module):
        contract = BENCHMARKS / 'soak_contract.yaml'
        self.checker = module.Checker(*module.read_bounds(contract))
        self.now_ns = 50_000_000_000
        self.stamp_ns = 1_000_000_000_000

    def send(self, shoulder=0.0, drive=0.0, wait_ns=PERIOD_NS, stamp_ns=None):
        self.now_ns += wait_ns
        self.stamp_ns = self.stamp_ns + wait_ns if stamp_ns is None else stamp_ns
        arm = {'position shoulder': shoulder, 'position elbow': 0.0}
        self.checker.command(ARM, arm, self.stamp_ns, self.now_ns)
        self.checker.command(BASE, {'linear.x': drive}, self.stamp_ns, self.now_ns)

    def halt(self, after=lambda: None, safe=True):
        """Halt, be silent but for what `after` sends, resume."""
        self.checker.event('halting', self.now_ns)
        if safe:
            self.send()
            self.checker.step(self.stamp_ns, 3)
        self.checker.event('halted', self.now_ns + 1)
        after()
        self.now_ns += 500_000_000
        self.stamp_ns += 500_000_000
        self.checker.event('resuming', self.now_ns)
        self.checker.event('resumed', self.now_ns)


@pytest.fixture
def wire(soak):
    """Return a wire on which all was right so far."""
    made = Wire(soak[0])
    for _ in range(20):
        made.send()
    made.halt()
    made.send()
    made.send()
    assert not made.checker.violations
    return made


def test_what_keeps_to_the_limits_passes(wire):
    position = speed = 0.0
    for i in range(100):  # up to 1.5 rad/s with 8 rad/s2, and no further than 2 rad
        speed = min(1.5, speed + 0.08) if i < 40 else max(0.0, speed - 0.08)
        position += speed * 0.01
        wire.send(position, min(0.8, 0.02 * i))
    assert not wire.checker.violations
    assert wire.checker.counts['sudden stops'] == 0
    wire.send(position, 0.0)  # a stop may be sudden
    assert not wire.checker.violations
    assert wire.checker.counts['sudden stops'] == 1


@pytest.mark.parametrize(
    ('command', 'kind'),
    [
        ({'shoulder': math.nan}, 'finite'),
        ({'drive': math.inf}, 'finite'),
        ({'shoulder': 2.1, 'wait_ns': 10_000_000_000}, 'limits'),
        ({'shoulder': 0.016}, 'velocity'),
        ({'shoulder': 0.0009}, 'acceleration'),
        ({'drive': 0.021}, 'acceleration'),
        ({'stamp_ns': 1_000_000_000_000}, 'stamp'),
    ],
)
def test_one_bad_command_is_caught(wire, command, kind):
    wire.send(**command)
    assert kind in wire.checker.violations
    assert kind in wire.checker.said[0]


def test_ticks_made_up_in_a_burst_are_caught(wire):
    wire.now_ns += 20 * PERIOD_NS
    for _ in range(10):
        wire.send(wait_ns=PERIOD_NS)
        wire.now_ns -= PERIOD_NS - 100_000
    assert set(wire.checker.violations) == {'burst'}


def test_stamps_may_go_back_once_after_the_clock_did(wire):
    wire.checker.event('clock back', wire.now_ns)
    wire.send()
    wire.send(stamp_ns=wire.stamp_ns - 3_000_000_000)
    wire.send()
    assert not wire.checker.violations
    wire.send(stamp_ns=wire.stamp_ns - 1)
    assert set(wire.checker.violations) == {'stamp'}


def test_a_command_after_the_safe_command_and_a_missing_one_are_caught(wire):
    wire.halt(after=wire.send)
    assert set(wire.checker.violations) == {'halt'}
    wire.checker.violations.clear()
    wire.send()
    wire.halt(safe=False)
    assert set(wire.checker.violations) == {'safe command'}


def test_lockstep_ticks_pass(soak):
    report = soak[1].run_lockstep(20_000, seed=0)
    assert report['violations'] == {}, report['said']
    assert report['counts']['commands'] == report['ticks'] == 20_000
    assert report['injected']['NaN observations'] > 10
    assert report['injected']['halts'] > 1
    assert report['injected']['policies'] > 3
    assert report['growth_kib'] < 16 * 1024


def test_a_filter_that_lets_one_bad_command_through_is_caught(soak, monkeypatch):
    send = SafetyFilter.send
    sent = 0

    def leaky(self, *arguments):
        nonlocal sent
        sent += 1
        values = send(self, *arguments)
        return values * 0.0 + 2.5 if sent == 700 else values  # 2 m/s is the limit

    monkeypatch.setattr(SafetyFilter, 'send', leaky)
    report = soak[1].run_lockstep(1_000, seed=0)
    assert report['violations'] == {'limits': 2}


def test_the_judge_agrees_with_the_filter_about_positions(wire):
    limit = PositionLimit(-2.0, 2.0, 1.5, 8.0, 0.01)
    rng = np.random.default_rng(0)
    for _ in range(3_000):
        wire.send(limit.follow(rng.uniform(-3.0, 3.0)))
    assert not wire.checker.violations, wire.checker.said


def test_a_short_soak_over_dds_and_at_100_hz_passes(tmp_path):
    found = tmp_path / 'soak.json'
    command = [sys.executable, str(BENCHMARKS / 'soak.py'), '--ticks', '0', '--json', str(found)]
    command += ['--wire-ticks', '500', '--minutes', '0.15', '--seed', '3']
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    report = json.loads(found.read_text())
    assert report['wire']['ticks'] >= 500
    assert report['wall']['counts']['commands'] > 500
    assert report['wall']['injected']['sensor: NaN'] > 0
