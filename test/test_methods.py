# SPDX-License-Identifier: Apache-2.0
"""FQL, QC and QC-FQL against the imitation of the same play, each offline on one buffer.

Margin stated before the runs: 20 points of success over the same 100 episodes. The whole table,
with more seeds, FQL-n, BFN and SAC, comes from ``benchmarks/methods.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from point_task import (
    DISTILLATION_WEIGHTS,
    evaluate,
    fill,
    play,
    run_episodes,
    settings,
    train,
)

from qcfql_ros.algorithm.update import Update
from qcfql_ros.data.steps import SegmentEnd, Step

UPDATES, EPISODES, MARGIN, SEED = 1000, 100, 20, 0
Events = list[Step | SegmentEnd]


@pytest.fixture(scope='module', autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def recorded() -> Events:
    return play(50, seed=7)


@pytest.fixture(scope='module')
def imitated(recorded: Events) -> int:
    """Return the successes of BC: the flow alone is trained, for its critics decide nothing."""
    config = settings('bc')
    replay, update = fill(config, recorded), Update(config, SEED)
    random = np.random.default_rng(SEED)
    for _ in range(UPDATES):
        update.behavior_step(replay.sample(config.batch_size, random))
    return evaluate(update, EPISODES, seed=10_000).successes


CHANGES = {
    'fql': {'distillation_weight': DISTILLATION_WEIGHTS['fql']},
    'qc': {'num_action_samples': 8},  # of 32, for the time of the test
    'qc_fql': {'distillation_weight': DISTILLATION_WEIGHTS['qc_fql']},
}


@pytest.mark.parametrize(('name', 'changes'), CHANGES.items(), ids=CHANGES)
def test_the_method_beats_imitation_by_20_points(name, changes, recorded, imitated) -> None:
    update = train(settings(name, **changes), recorded, UPDATES, SEED)
    assert evaluate(update, EPISODES, seed=10_000).successes >= imitated + MARGIN


def test_episodes_of_a_planner_that_knows_the_way_all_succeed_and_of_one_at_rest_none() -> None:
    def straight(states: np.ndarray) -> np.ndarray:
        way = 8.0 * (states[:, 4:] - states[:, :2]) - states[:, 2:4]
        return np.clip(way, -1.0, 1.0)[:, None]

    def at_rest(states: np.ndarray) -> np.ndarray:
        return np.zeros((len(states), 4, 2))

    assert run_episodes(straight, 50, seed=3).successes == 50
    resting = run_episodes(at_rest, 50, seed=3)
    assert (resting.successes, resting.mean_ticks) == (0, 40.0)
