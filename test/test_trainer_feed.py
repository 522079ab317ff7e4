# SPDX-License-Identifier: Apache-2.0
"""What a trainer is given, when it dies too, and how it paces the robot."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.errors import QcfqlError
from qcfql_ros.nodes.policy_shelf import PolicyShelf
from qcfql_ros.nodes.trainer_feed import SLACK_TICKS, UNLIMITED, TrainerFeed


class FakeLink:
    def __init__(self) -> None:
        self.alive, self.pending_bytes = True, 0
        self.received = []
        self.messages = [{'kind': 'status', 'updates': 0}]  # a trainer that has loaded says so
        self.closed = None

    def send_events(self, events) -> None:
        self.received += events

    def poll(self):
        messages, self.messages = self.messages, []
        return messages

    def close(self, timeout_s) -> None:
        self.closed = timeout_s


class Bench:
    """A feed on fake links, a bag that is a list, and a clock that stands."""

    def __init__(self, old=()) -> None:
        self.old, self.live = list(old), []
        self.links, self.warnings = [], []
        self.now = 0.0
        self.feed = TrainerFeed(self.start, self.history, self.warnings.append, lambda: self.now)

    def start(self):
        self.links.append(FakeLink())
        return self.links[-1]

    def history(self, live):
        return iter(self.old + self.live[:live])

    def add(self, *events) -> None:
        self.live += events
        self.feed.add(events)

    def pump(self, times=50):
        for _ in range(times):
            self.feed.pump()

    @property
    def link(self):
        return self.links[-1]


def step(number: int) -> Step:
    return Step(number, np.zeros(2, np.float32), np.zeros(1, np.float32), 0.0, False)


def steps(*numbers: int) -> list[Step]:
    return [step(number) for number in numbers]


def end() -> SegmentEnd:
    return SegmentEnd(np.zeros(2, np.float32), True, 'gap')


def test_history_goes_before_what_comes_in():
    old, new = steps(*range(200)), steps(200, 201)
    bench = Bench(old)
    bench.add(*new)
    bench.pump()
    assert bench.link.received == old + new
    assert bench.feed.steps == 202 and not bench.feed.loading


def test_a_new_trainer_is_given_everything_once_and_in_order():
    bench = Bench(steps(0, 1))
    bench.add(*steps(2, 3))
    bench.pump()
    bench.link.messages = [{'kind': 'status', 'updates': 5000}]
    bench.pump(1)
    bench.link.alive = False
    bench.pump(1)
    bench.add(step(4))  # while there is no trainer
    bench.now = 10.0
    bench.pump(1)
    bench.add(step(5))  # while it is given the history
    bench.pump()
    assert bench.feed.credits(7, 1.0, 0) == 7 + SLACK_TICKS - 6, 'updates of the dead do not count'
    assert len(bench.links) == 2 and bench.feed.restarts == 1
    assert [event.stamp_ns for event in bench.link.received] == [0, 1, 2, 3, 4, 5]
    assert bench.links[0].closed is not None
    assert 'the trainer ended' in bench.warnings[0]


def test_trainers_that_die_at_once_are_replaced_ever_more_slowly():
    bench = Bench()
    starts = []
    for tenth in range(600):
        bench.now = tenth / 10
        if len(bench.links) > len(starts):
            starts.append(bench.now)
        bench.link.alive, bench.link.messages = False, []
        bench.pump(1)
    gaps = np.diff(starts)
    assert len(starts) < 8 and all(gaps[1:] > gaps[:-1])


def test_a_trainer_that_refuses_to_start_ends_the_learner_with_its_words():
    bench = Bench()
    bench.link.messages = [{'kind': 'error', 'text': 'model for another contract'}]
    bench.link.alive = False
    with pytest.raises(QcfqlError, match='model for another contract'):
        bench.pump(1)


def test_a_busy_trainer_is_not_given_more():
    bench = Bench()
    bench.link.pending_bytes = 1 << 30
    bench.add(step(1))
    bench.pump()
    assert bench.link.received == []


def credits(bench, last_tick=100) -> int:
    return bench.feed.credits(last_tick, utd_ratio=0.5, warmup_steps=1000)


def test_credits_hold_the_update_to_data_ratio():
    bench = Bench()
    bench.add(*steps(*range(90)), end())
    assert credits(bench) == 100, 'none while the trainer is given the past'
    bench.pump()
    assert credits(bench) == 100 + 1000 + SLACK_TICKS - 90
    bench.link.messages = [{'kind': 'status', 'updates': 20}]
    bench.pump()
    assert credits(bench) == 100 + 1000 + 40 + SLACK_TICKS - 90
    bench.add(*steps(*range(5000)))
    assert credits(bench) == 100, 'steps that are queued count'


def test_no_credits_before_the_trainer_has_loaded():
    bench = Bench()
    bench.link.messages = []
    bench.pump()
    assert credits(bench) == 100
    bench.link.messages = [{'kind': 'status', 'updates': 0}]
    bench.pump()
    assert credits(bench) == 100 + 1000 + SLACK_TICKS


def test_no_credits_are_asked_for_when_learning_is_over():
    bench = Bench()
    bench.link.messages = [{'kind': 'status', 'updates': 1, 'stopped': 'not finite'}]
    bench.pump()
    assert credits(bench) == UNLIMITED


def policy_file(path, digest) -> None:
    header = json.dumps({'__metadata__': {'digest': digest}}).encode()
    path.write_bytes(len(header).to_bytes(8, 'little') + header)


def test_policies_that_drove_the_robot_stay_and_of_the_others_two(tmp_path):
    warnings = []
    start = tmp_path / 'start.safetensors'
    policy_file(start, 'd0')
    shelf = PolicyShelf(tmp_path / 'policies', [start], warnings.append)
    shelf.drove('d0')
    for number in range(1, 7):
        policy_file(shelf.folder / f'd{number}.safetensors', f'd{number}')
        shelf.made(f'd{number}')
        if number == 2:
            shelf.drove('d2')
    names = sorted(path.stem for path in shelf.folder.iterdir())
    assert names == ['d0', 'd2', 'd5', 'd6'] and not warnings
    again = PolicyShelf(tmp_path / 'policies', [], warnings.append)
    again.made('d7')
    again.drove('unknown')
    assert len(warnings) == 1 and 'unknown' in warnings[0]
    assert sorted(path.stem for path in shelf.folder.iterdir()) == names
