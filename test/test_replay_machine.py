# SPDX-License-Identifier: Apache-2.0
"""The replay against plain lists and loops, whatever comes in whatever order."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from slow_replay import SlowReplay, SlowSegment

from qcfql_ros.data.replay import Replay


def real(slow: SlowReplay) -> Replay:
    """Return a replay with the settings of `slow`."""
    values = {
        entry.name: getattr(slow, entry.name)
        for entry in dataclasses.fields(slow)
        if entry.name not in ('capacity', 'chunk', 'discount', 'rows', 'segments')
    }
    return Replay(slow.capacity, 1, 1, slow.chunk, slow.discount, **values)


def check(replay: Replay, slow: SlowReplay) -> None:
    """Compare what can be drawn, and every window."""
    wanted = slow.windows()
    starts = replay.sampling.starts()
    assert len(replay) == len(starts) == len(wanted)
    short = [s for s in slow.segments if s.closed and len(s.steps) < slow.n]
    short = [s for s in short if not slow.has_critic_window(s)]
    assert replay.short_segments == len(short)
    assert replay.short_segment_steps == sum(len(s.steps) for s in short)
    if not wanted:
        return
    drawn = replay.sample(8, np.random.default_rng(len(wanted))).state[:, 0].int()
    assert set(drawn.tolist()) <= set(wanted)
    batch = replay.sampling.windows(starts)
    rows = batch.state[:, 0].int().tolist()
    assert sorted(rows) == sorted(wanted)
    windows = [wanted[row] for row in rows]
    np.testing.assert_allclose(batch.reward, [w.reward for w in windows], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(batch.bootstrap, [w.bootstrap for w in windows], rtol=1e-6)
    assert batch.valid.tolist() == [w.valid for w in windows]
    assert batch.tail_unknown.tolist() == [w.unknown for w in windows]
    assert batch.weight.tolist() == [w.weight for w in windows]
    following, chunks = batch.next_state[:, 0].tolist(), batch.chunk[:, :, 0].tolist()
    for window, behind, chunk in zip(windows, following, chunks, strict=True):
        assert window.next_state is None or behind == window.next_state
        for action, known in zip(chunk, window.chunk, strict=True):
            assert known is None or action == known


class ReplayMachine(RuleBasedStateMachine):
    """Steps, plans and ends in any order, on rings that wrap many times."""

    @initialize(
        chunk=st.integers(1, 4),
        more=st.sampled_from([0, 0, 1, 3]),
        room=st.integers(2, 30),
        flags=st.tuples(*[st.booleans()] * 5),
        reference=st.booleans(),
    )
    def start(self, chunk, more, room, flags, reference) -> None:
        n = chunk + more
        self.slow = SlowReplay(
            n + room,
            chunk,
            0.9,
            return_steps=n if more else 0,
            terminal_windows=flags[0] and not reference,
            rewards_after_termination=flags[1],
            window_sampling='reference' if reference else 'legal',
            imitate_success_only=flags[2],
            price_failure=flags[3],
            imitate_short_segments=flags[4] and not reference,
        )
        self.replay = real(self.slow)

    @rule(
        reward=st.sampled_from([-1.0, 0.0, 2.0]),
        terminated=st.sampled_from([False, False, True]),
        success=st.booleans(),
        planned=st.sampled_from([0, 0, 1, 2, 4, 6]),
    )
    def step(self, reward, terminated, success, planned) -> None:
        self.replay.append(self.slow.step(reward, terminated, success and terminated, planned))

    @rule(count=st.integers(2, 40))
    def steps(self, count) -> None:
        for index in range(count):
            self.replay.append(self.slow.step(float(-index)))

    @rule()
    def end(self) -> None:
        self.replay.append(self.slow.end())

    @rule()
    def episode(self) -> None:
        for terminated in (False, False, True):
            self.replay.append(self.slow.step(-1.0, terminated))
        self.replay.append(self.slow.end())

    @invariant()
    def equals_the_slow_one(self) -> None:
        check(self.replay, self.slow)


TestReplay = ReplayMachine.TestCase
TestReplay.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def filled(episodes: int, seed: int, **values) -> tuple[Replay, SlowReplay]:
    """Return both replays after some random episodes."""
    random = np.random.default_rng(seed)
    slow = SlowReplay(60, 3, 0.9, **values)
    replay = real(slow)
    for _ in range(episodes):
        for terminated in random.random(int(random.integers(1, 12))) < 0.15:
            replay.append(slow.step(float(random.normal()), bool(terminated)))
        replay.append(slow.end())
    return replay, slow


def chi_square(counts: np.ndarray) -> float:
    """Return how far counts lie from equal ones, in standard deviations of chi-square."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return float(((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5


def test_every_start_is_drawn_with_the_same_chance_also_after_the_ring_has_wrapped() -> None:
    reference = {'window_sampling': 'reference', 'terminal_windows': False}
    for values in ({}, {'return_steps': 5}, reference, reference | {'return_steps': 5}):
        for episodes in (5, 40):
            replay, slow = filled(episodes, seed=episodes, **values)
            batch = replay.sample(400 * len(replay), np.random.default_rng(7))
            rows = batch.state[:, 0].numpy().astype(np.int64)
            assert set(rows.tolist()) == set(slow.windows())
            counts = np.bincount(rows)[sorted(slow.windows())]
            assert chi_square(counts) < 4.0, (values, episodes)
            counts[0] *= 2
            assert chi_square(counts) > 4.0, 'a start drawn twice as often is noticed'


def test_the_windows_of_the_reference_are_those_of_its_sampler_on_a_plain_array() -> None:
    """Nothing of ours but the events goes in here: arrays with next observations, as theirs."""
    h, discount = 3, 0.9
    random = np.random.default_rng(3)
    slow = SlowReplay(
        500,
        h,
        discount,
        terminal_windows=False,
        rewards_after_termination=True,
        window_sampling='reference',
    )
    replay = real(slow)
    state, following, action, reward, mask, terminal = [], [], [], [], [], []
    for length in (1, 7, 2, 3, 12, 1, 1, 5):
        for index in range(length):
            done = bool(random.random() < 0.2)
            step = slow.step(float(random.normal()), done)
            replay.append(step)
            state.append(float(step.observation[0]))
            following.append(float(step.observation[0]) + 1.0)
            action.append(float(step.action[0]))
            reward.append(step.reward)
            mask.append(1.0 - done)
            terminal.append(float(index == length - 1))
        replay.append(slow.end())
    wanted = []
    for first in range(len(state) - h + 1):
        total, live, ended, valid = 0.0, 1.0, 0.0, []
        for index in range(first, first + h):
            valid.append(1.0 - ended)
            total += discount ** (index - first) * reward[index]
            live = min(live, mask[index])
            ended = max(ended, terminal[index])
        bootstrap = live * discount**h
        window = (state[first], *action[first : first + h], total, bootstrap)
        wanted.append((*window, following[first + h - 1], *valid))
    batch = replay.sampling.windows(replay.sampling.starts())
    drawn = np.concatenate(
        [
            batch.state,
            batch.chunk[:, :, 0],
            batch.reward[:, None],
            batch.bootstrap[:, None],
            batch.next_state,
            batch.valid,
        ],
        axis=1,
    )
    np.testing.assert_allclose(drawn, np.array(wanted), rtol=1e-5, atol=1e-6)
    assert batch.weight.tolist() == batch.valid[:, -1].tolist()
    assert 0.0 in batch.weight.tolist() and 1.0 in batch.weight.tolist()


def test_segments_of_one_step_are_drawn_as_the_reference_does_wherever_the_ring_stands() -> None:
    for chunk, room in itertools.product((1, 2, 3), range(2, 8)):
        slow = SlowReplay(
            chunk + room, chunk, 0.9, terminal_windows=False, window_sampling='reference'
        )
        replay = real(slow)
        for _ in range(slow.capacity):
            replay.append(slow.step(-1.0))
            check(replay, slow)
            replay.append(slow.end())
            check(replay, slow)


def test_a_segment_longer_than_the_ring_leaves_only_what_is_kept() -> None:
    replay, slow = filled(0, seed=0)
    for index in range(500):
        replay.append(slow.step(-1.0, terminated=index == 499, planned=3))
    replay.append(slow.end())
    check(replay, slow)
    assert slow.segments[0] != SlowSegment() and len(replay) == 59
