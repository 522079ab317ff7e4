# SPDX-License-Identifier: Apache-2.0
"""What the replay says of every window agrees with the rules in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from float64_cases import N_STEP, SMALL, Case, config_of, distance, name_of
from numpy_qcfql import LOSSES
from numpy_windows import PlainEpisode, Window, every_ending, reference_window, window

from qcfql_ros.algorithm.batch import Batch
from qcfql_ros.data.replay import Replay
from qcfql_ros.data.steps import SegmentEnd, Step

DISCOUNT, STATE_DIM, ACTION_DIM = SMALL['discount'], SMALL['state_dim'], SMALL['action_dim']
SIZES = [(1, 1), (3, 3), (1, 3), (2, 5), (3, 4)]  # action_chunk_size, return_steps
LOSS_TOLERANCE, REWARD_TOLERANCE = 1e-9, 1e-6


def episodes_of(chunk: int, n: int) -> list[PlainEpisode]:
    return every_ending(np.random.default_rng(chunk + 10 * n), chunk, n, STATE_DIM, ACTION_DIM)


def replay_of(episodes: list[PlainEpisode], chunk: int, n: int, **settings) -> Replay:
    steps = 0 if n == chunk else n
    rows = sum(len(episode.steps) + 1 for episode in episodes)
    capacity = settings.pop('capacity', rows + 1)
    sizes = (capacity, STATE_DIM, ACTION_DIM, chunk, DISCOUNT)
    replay = Replay(*sizes, return_steps=steps, **settings)
    for episode in episodes:
        for index, step in enumerate(episode.steps):
            values = (step.observation, step.action, step.reward, step.terminated, step.success)
            replay.append(Step(index, *values, planned=step.planned))
        truncated = not episode.steps[-1].terminated
        replay.append(SegmentEnd(episode.final_observation, truncated, 'test'))
    return replay


def starts_of(episodes: list[PlainEpisode]) -> list[tuple[int, PlainEpisode, int]]:
    """Return (row, episode, step) of every step; a final observation takes a row of its own."""
    rows, found = 0, []
    for episode in episodes:
        found += [(rows + index, episode, index) for index in range(len(episode.steps))]
        rows += len(episode.steps) + 1
    return found


def assert_same(batch: Batch, windows: list[Window]) -> None:
    assert len(windows) == len(batch.state)
    bootstraps = np.array([one.bootstrap for one in windows])
    assert np.array_equal(batch.bootstrap.numpy(), bootstraps.astype(np.float32))
    rewards = np.array([one.reward for one in windows])
    assert distance(batch.reward.double(), rewards) <= REWARD_TOLERANCE
    for index, one in enumerate(windows):
        assert np.array_equal(batch.state[index].numpy(), one.state)
        assert np.array_equal(batch.valid[index].numpy(), one.valid), index
        assert np.array_equal(batch.tail_unknown[index].numpy(), one.tail_unknown), index
        known = ~one.tail_unknown
        assert np.array_equal(batch.chunk[index].numpy()[known], one.chunk[known]), index
        if one.next_state is not None:
            assert np.array_equal(batch.next_state[index].numpy(), one.next_state), index


@pytest.mark.parametrize('price_failure', [False, True])
@pytest.mark.parametrize('rewards_after_termination', [False, True])
@pytest.mark.parametrize('terminal_windows', [True, False])
@pytest.mark.parametrize(('chunk', 'n'), SIZES)
def test_every_window_agrees(
    chunk, n, terminal_windows, rewards_after_termination, price_failure
) -> None:
    episodes = episodes_of(chunk, n)
    settings = {
        'terminal_windows': terminal_windows,
        'rewards_after_termination': rewards_after_termination,
        'price_failure': price_failure,
    }
    replay = replay_of(episodes, chunk, n, **settings)
    sizes = {'chunk': chunk, 'return_steps': n, 'discount': DISCOUNT}
    windows = [
        (row, window(episode, start, **sizes, **settings))
        for row, episode, start in starts_of(episodes)
    ]
    legal = [(row, one) for row, one in windows if one is not None]
    assert len(legal) < len(windows) or n == 1
    rows = np.array([row for row, _ in legal])
    assert np.array_equal(replay.sampling.starts(), rows)
    batch = replay.sampling.windows(rows)
    assert_same(batch, [one for _, one in legal])
    assert bool((batch.weight == 1.0).all())


@pytest.mark.parametrize('terminal_windows', [True, False])
@pytest.mark.parametrize(('chunk', 'n'), SIZES)
@pytest.mark.parametrize('kept', [1.0, 0.6])
def test_all_legal_windows_are_drawn_equally_often(chunk, n, terminal_windows, kept) -> None:
    """Also after the ring has gone round, when the oldest rows are gone."""
    episodes = episodes_of(chunk, n)
    rows = sum(len(episode.steps) + 1 for episode in episodes)
    capacity = rows + 1 if kept == 1.0 else int(kept * rows)
    settings = {'terminal_windows': terminal_windows, 'capacity': capacity}
    replay = replay_of(episodes, chunk, n, **settings)
    sizes = {'chunk': chunk, 'return_steps': n, 'discount': DISCOUNT}
    legal = {
        one.state.tobytes(): 0
        for row, episode, start in starts_of(episodes)
        if row >= rows - capacity
        and (one := window(episode, start, terminal_windows=terminal_windows, **sizes))
    }
    assert len(replay) == len(legal)
    expected = 400
    states = replay.sample(expected * len(legal), np.random.default_rng(0)).state.numpy()
    for state in states:
        legal[state.tobytes()] += 1  # a KeyError: drawn, but not legal
    counts = np.array(list(legal.values()))
    assert np.all(np.abs(counts - expected) < 5.0 * np.sqrt(expected)), counts


@pytest.mark.parametrize(('chunk', 'n'), SIZES)
def test_windows_as_the_authors_draw_them_agree(chunk, n) -> None:
    episodes = episodes_of(chunk, n)
    replay = replay_of(
        episodes,
        chunk,
        n,
        terminal_windows=False,
        rewards_after_termination=True,
        window_sampling='reference',
    )
    sizes = {'chunk': chunk, 'return_steps': n, 'discount': DISCOUNT}
    made = [
        (row, reference_window(episodes, start, **sizes))
        for start, (row, _, _) in enumerate(starts_of(episodes))
    ]
    legal = [(row, *one) for row, one in made if one is not None]
    rows = np.array([row for row, _, _ in legal])
    assert len(rows) == len(made) - n + 1
    assert np.array_equal(replay.sampling.starts(), rows)
    batch = replay.sampling.windows(rows)
    assert_same(batch, [one for _, one, _ in legal])
    assert np.array_equal(batch.weight.numpy(), [weight for _, _, weight in legal])


def test_only_successful_episodes_are_imitated_where_that_is_set() -> None:
    episodes = episodes_of(3, 3)
    everything = replay_of(episodes, 3, 3)
    chosen = replay_of(episodes, 3, 3, imitate_success_only=True)
    sizes = {'chunk': 3, 'return_steps': 3, 'discount': DISCOUNT}
    legal = [(r, e) for r, e, start in starts_of(episodes) if window(e, start, **sizes)]
    rows = np.array([row for row, _ in legal])
    success = np.array([any(step.success for step in one.steps) for _, one in legal], np.float32)
    assert 0 < success.sum() < len(success)
    theirs = everything.sampling.windows(rows).valid.numpy() * success[:, None]
    assert np.array_equal(chosen.sampling.windows(rows).valid.numpy(), theirs)


@pytest.mark.parametrize(
    'settings',
    [
        {},
        {'actor': 'best_of_n'},
        {'behavior_weighting': 'value'},
        {'critic_aggregation': 'mean_minus_std'},
        {'terminal_windows': False, 'rewards_after_termination': True},
        {
            'terminal_windows': False,
            'rewards_after_termination': True,
            'window_sampling': 'reference',
        },
        {'terminal_windows': False, 'window_sampling': 'reference', 'actor': 'best_of_n'},
        N_STEP,
        {**N_STEP, 'actor': 'best_of_n'},
        {**N_STEP, 'terminal_windows': False},
    ],
    ids=name_of,
)
def test_losses_of_windows_from_the_replay_agree(settings) -> None:
    config = config_of(settings)
    chunk, n = config.action_chunk_size, config.window_steps
    names = ('terminal_windows', 'rewards_after_termination', 'window_sampling')
    chosen = {name: getattr(config, name) for name in names}
    replay = replay_of(episodes_of(chunk, n), chunk, n, **chosen)
    case = Case(settings, replay.sample(300, np.random.default_rng(1)).to(torch.float64))
    losses, fixed = case.losses(), case.fixed()
    for name, loss in LOSSES.items():
        theirs = loss(case.weights, case.numpy_batch, case.numpy_noise, case.config, fixed)
        assert distance(getattr(losses, name), theirs) <= LOSS_TOLERANCE, name
