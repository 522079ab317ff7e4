# SPDX-License-Identifier: Apache-2.0
"""What a chunk's tail behind a termination does to Q, on a chain whose Q is known exactly.

The margin is half of a step's cost, against the bias of about two steps that least squares tends
to with zeros and without these windows. ``docs/results/tails.md`` has the spread over ten seeds
and the cases in which ours is biased.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chain_task import (
    CHUNK,
    SIGNS,
    STATES,
    TREATMENTS,
    draw_episodes,
    errors_near_the_end,
    expected_bias,
    fill,
    fit,
    true_q,
    true_values,
)

from qcfql_ros.data.replay import Replay

EPISODES, UPDATES, SEED = 3000, 500, 0
MARGIN = 0.5


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def bias(treatment: str) -> float:
    """Return the mean error near the end of episodes with one sign."""
    update = fit(treatment, 'one', EPISODES, UPDATES, SEED)
    return float(errors_near_the_end(update, 'one', 1000, SEED + 100).mean())


@pytest.mark.parametrize('treatment', ['flow', 'oracle'])
def test_tails_of_the_behaviour_flow_and_recorded_ones_leave_q_unbiased(treatment: str) -> None:
    assert abs(bias(treatment)) < MARGIN


def test_nothing_recorded_behind_a_termination_begins_a_window_or_stays_unknown() -> None:
    episodes = draw_episodes(20, 'coherent', np.random.default_rng(4))
    replay = Replay(500, STATES, 1, CHUNK, 0.95)
    fill(replay, episodes, goes_on=True)
    assert len(replay) == sum(episode.steps for episode in episodes)
    batch = replay.sample(200, np.random.default_rng(5))
    assert not batch.tail_unknown.any()
    assert (batch.chunk.sign() == batch.chunk[:, :1].sign()).all()


@pytest.mark.parametrize('treatment', ['zeros', 'dropped'])
def test_zero_tails_and_dropped_windows_hide_the_termination_from_q(treatment: str) -> None:
    assert bias(treatment) < -2.0 * MARGIN


@pytest.mark.parametrize('signs', SIGNS)
def test_the_known_q_is_the_mean_return_of_played_episodes(signs: str) -> None:
    random = np.random.default_rng(1)
    episodes = draw_episodes(4000, signs, random)
    discount = 0.95
    for state in range(STATES):
        returns = [
            -(1.0 - discount ** (e.steps - 1)) / (1.0 - discount)
            for e in episodes
            if e.first == state
        ]
        error = np.std(returns) / np.sqrt(len(returns))
        assert np.mean(returns) == pytest.approx(true_values()[state], abs=4.0 * error)


def test_the_known_q_averages_to_the_known_value() -> None:
    random = np.random.default_rng(2)
    chunks = random.uniform(0.5, 1.0, (20000, CHUNK))
    for state in range(STATES):
        q = true_q(np.full(len(chunks), state), chunks)
        assert q.mean() == pytest.approx(true_values()[state], abs=4.0 * q.std() / 141.0)


def test_the_limit_of_least_squares_is_the_true_q_only_where_tails_tell_nothing() -> None:
    expected = {t: expected_bias(t, 'one', 500, 3) for t in TREATMENTS}
    for treatment in ('flow', 'planned', 'pinned', 'nearest', 'oracle'):
        assert expected[treatment] == pytest.approx(0.0, abs=1e-9)
    assert expected['zeros'] == expected['dropped'] < expected['uniform'] < -1.0
    # Signs that hang together: a tail drawn without knowledge of the prefix is often another.
    assert -1.0 < expected_bias('flow', 'coherent', 500, 3) < -0.3
