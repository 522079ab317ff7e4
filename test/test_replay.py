# SPDX-License-Identifier: Apache-2.0
"""Windows drawn from the replay against a slow loop over a plain list of episodes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcfql_ros.data.replay import Replay
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.errors import ParameterError

DISCOUNT = 0.9


class Episode:
    """Steps whose observation is a number of their own, so that a window can be recognised."""

    def __init__(self, first: int, terminated: list[bool], plan: bool = False) -> None:
        self.first, self.terminated = first, terminated
        self.steps = []
        for index, ended in enumerate(terminated):
            number = first + index
            chunk = np.full((3, 1), number + 0.5, np.float32) + np.arange(3)[:, None]
            planned = chunk if plan and index % 3 == 0 else None
            observation = np.array([number], np.float32)
            action = np.array([-number], np.float32)
            self.steps.append(
                Step(number, observation, action, float(number % 7), ended, planned=planned)
            )
        final = np.array([first + len(terminated)], np.float32)
        self.end = SegmentEnd(final, truncated=not terminated[-1], reason='test')


def slow_window(episode: Episode, start: int, h: int) -> tuple | None:
    """Return (reward, bootstrap, next state, known actions) of a window; None if not legal."""
    steps = episode.steps[start : start + h]
    reward, bootstrap = 0.0, DISCOUNT**h
    for index, step in enumerate(steps):
        reward += DISCOUNT**index * step.reward
        if step.terminated:
            bootstrap = 0.0
            break
    if len(steps) < h and bootstrap:
        return None
    behind = episode.first + start + h if bootstrap else None
    return reward, bootstrap, behind, [float(step.action[0]) for step in steps]


episodes = st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(shape=episodes, h=st.integers(1, 4), capacity=st.integers(7, 80))
def test_every_legal_window_is_drawn_and_equals_the_slow_loop(shape, h, capacity) -> None:
    replay = Replay(capacity, 1, 1, h, DISCOUNT)
    made, row = [], 0
    for index, terminated in enumerate(shape):
        episode = Episode(1000 * (index + 1), terminated)
        for event in (*episode.steps, episode.end):
            replay.append(event)
        made.append((episode, row))
        row += len(terminated) + 1
    oldest = max(0, row - capacity)
    wanted = {}
    for episode, first_row in made:
        for start in range(len(episode.steps)):
            window = slow_window(episode, start, h)
            if window is not None and first_row + start >= oldest:
                wanted[episode.first + start] = window
    starts = replay.sampling.starts()
    assert len(starts) == len(wanted)
    if not len(starts):
        return
    batch = replay.sampling.windows(starts)
    assert sorted(batch.state[:, 0].tolist()) == sorted(wanted)
    for i, state in enumerate(batch.state[:, 0].tolist()):
        reward, bootstrap, behind, known = wanted[int(state)]
        assert float(batch.reward[i]) == pytest.approx(reward, rel=1e-5)
        assert float(batch.bootstrap[i]) == pytest.approx(bootstrap, rel=1e-6)
        if behind is not None:
            assert float(batch.next_state[i, 0]) == behind
        assert batch.chunk[i, : len(known), 0].tolist() == known
        assert batch.valid[i].tolist() == [1.0] * len(known) + [0.0] * (h - len(known))
        assert batch.tail_unknown[i].tolist() == [False] * len(known) + [True] * (h - len(known))


def test_the_tail_behind_a_termination_is_the_plan_where_the_window_starts_the_chunk() -> None:
    replay = Replay(50, 1, 1, 3, DISCOUNT)
    episode = Episode(100, [False, False, False, False, True], plan=True)
    for event in (*episode.steps, episode.end):
        replay.append(event)
    batch = replay.sampling.windows(np.array([3, 4]))
    assert batch.chunk[0, :, 0].tolist() == [-103.0, -104.0, 105.5]  # planned at step 3
    assert not batch.tail_unknown[0].any()
    assert batch.valid[0].tolist() == [1.0, 1.0, 0.0]
    assert batch.tail_unknown[1].tolist() == [False, True, True]


def test_a_plan_shorter_than_the_window_leaves_the_rest_unknown() -> None:
    replay = Replay(50, 1, 1, 5, DISCOUNT)
    episode = Episode(100, [False, False, False, True], plan=True)  # plans of 3 for windows of 5
    for event in (*episode.steps, episode.end):
        replay.append(event)
    batch = replay.sampling.windows(np.array([3]))
    assert batch.chunk[0, :3, 0].tolist() == [-103.0, 104.5, 105.5]
    assert batch.tail_unknown[0].tolist() == [False, False, False, True, True]


def test_behaviour_is_imitated_from_successes_only_where_asked() -> None:
    replay = Replay(50, 1, 1, 2, DISCOUNT, imitate_success_only=True)
    for first, success in ((0, False), (10, True)):
        for step in Episode(first, [False, False, True]).steps:
            replay.append(dataclasses.replace(step, success=success and step.terminated))
        replay.append(SegmentEnd(np.zeros(1, np.float32), False, 'terminated', True))
    assert replay.sampling.windows(np.array([0])).valid.tolist() == [[0.0, 0.0]]
    assert replay.sampling.windows(np.array([4])).valid.tolist() == [[1.0, 1.0]]
    assert replay.sampling.windows(np.array([0])).weight.tolist() == [
        1.0
    ]  # the critic learns from all


def test_the_window_that_ends_on_a_time_out_bootstraps_from_the_true_last_observation() -> None:
    replay = Replay(50, 1, 1, 2, DISCOUNT)
    episode = Episode(10, [False, False, False])
    for event in (*episode.steps, episode.end):
        replay.append(event)
    batch = replay.sampling.windows(np.array([1]))
    assert float(batch.next_state[0, 0]) == 13.0
    assert float(batch.bootstrap[0]) == pytest.approx(DISCOUNT**2)


def test_without_terminal_windows_only_complete_ones_are_drawn() -> None:
    replay = Replay(50, 1, 1, 3, DISCOUNT, terminal_windows=False)
    episode = Episode(10, [False, False, False, True])
    for event in (*episode.steps, episode.end):
        replay.append(event)
    assert len(replay) == 2


def test_an_empty_replay_says_what_to_do() -> None:
    replay = Replay(50, 1, 1, 3, DISCOUNT)
    with pytest.raises(ParameterError, match='record more, or lower action_chunk_size'):
        replay.sample(4, np.random.default_rng(0))
