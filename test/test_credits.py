# SPDX-License-Identifier: Apache-2.0
"""A robot that nobody is sure to hear is let go on tick by tick."""

from __future__ import annotations

import pytest

from qcfql_ros.nodes.credits import PROBE_S, SETTLE_S, CreditGate


class Bench:
    """A gate, a clock that stands, and two topics."""

    def __init__(self) -> None:
        self.now = 100.0
        self.gate = CreditGate(lambda: self.now)
        self.changed(1, 1)

    def changed(self, outcome: int, step: int) -> set[str]:
        return self.gate.changed({'/outcome': outcome, '/step': step})

    def allow(self, tick: int, heard: bool = False) -> int:
        return self.gate.allow(1000, tick, heard=heard)


@pytest.fixture
def bench():
    return Bench()


def test_none_before_every_topic_has_had_a_publisher_for_a_while(bench):
    assert bench.allow(7, heard=True) == 7
    bench.now += SETTLE_S + 0.01
    assert bench.allow(7, heard=True) == 1000
    assert bench.changed(0, 1) == {'/outcome'}
    bench.now += 100.0
    assert bench.allow(7, heard=True) == 7, 'nobody publishes outcomes'


def test_one_tick_at_a_time_until_everything_is_heard(bench):
    bench.now += SETTLE_S + 0.01
    assert bench.allow(7) == 8
    bench.now += 10.0
    assert bench.allow(7) == 8, 'the one that was allowed was not executed'
    assert bench.allow(8) == 9
    bench.now += PROBE_S / 2
    assert bench.allow(9) == 9, 'not as fast as the robot may'
    bench.now += PROBE_S
    assert bench.allow(9) == 10
    assert bench.allow(10, heard=True) == 1000


def test_who_comes_anew_must_be_heard_anew(bench):
    bench.now += SETTLE_S + 0.01
    assert bench.allow(500, heard=True) == 1000
    assert bench.changed(1, 1) == set()
    assert bench.changed(2, 1) == {'/outcome'}
    assert bench.allow(0) == 0
    bench.now += SETTLE_S + 0.01
    assert bench.allow(0) == 1, 'another robot, which begins at 0'


def test_no_more_than_learning_allows(bench):
    bench.now += SETTLE_S + 0.01
    assert bench.gate.allow(7, 7, heard=False) == 7
    assert bench.gate.allow(7, 7, heard=True) == 7
