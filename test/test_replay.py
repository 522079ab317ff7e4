# SPDX-License-Identifier: Apache-2.0
"""What the replay promises, one promise a test. The machine of test_replay_machine.py has all."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcfql_ros.algorithm.config import AlgorithmConfig, preset
from qcfql_ros.algorithm.normalizer import Normalizer
from qcfql_ros.contract import load_contract
from qcfql_ros.data.replay import Replay
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.errors import ParameterError
from qcfql_ros.training.buffers import Buffers
from qcfql_ros.training.setup import empty_replay

DISCOUNT = 0.9


def steps(first: int, terminated: list[bool], plan: bool = False) -> list[Step]:
    """Return steps whose observation is a number of their own, action its negative."""
    made = []
    for number, ended in enumerate(terminated, first):
        chunk = np.full((3, 1), number + 0.5, np.float32) + np.arange(3)[:, None]
        planned = chunk if plan and (number - first) % 3 == 0 else None
        observation = np.array([number], np.float32)
        made.append(Step(number, observation, -observation, -1.0, ended, planned=planned))
    return made


def replay_of(*segments: list[Step], chunk: int, **values) -> Replay:
    """Return a replay that holds `segments`, each ended."""
    replay = Replay(50, 1, 1, chunk, DISCOUNT, **values)
    for segment in segments:
        for step in segment:
            replay.append(step)
        last = segment[-1]
        replay.append(SegmentEnd(last.observation + 1, not last.terminated, 'test'))
    return replay


def windows(replay: Replay, *starts: int):
    return replay.sampling.windows(np.array(starts))


def test_the_tail_behind_a_termination_is_the_plan_where_the_window_starts_the_chunk() -> None:
    replay = replay_of(steps(100, [False] * 4 + [True], plan=True), chunk=3)
    batch = windows(replay, 3, 4)
    assert batch.chunk[0, :, 0].tolist() == [-103.0, -104.0, 105.5]  # planned at step 3
    assert not batch.tail_unknown[0].any()
    assert batch.valid[0].tolist() == [1.0, 1.0, 0.0]
    assert batch.tail_unknown[1].tolist() == [False, True, True]


def test_a_plan_shorter_than_the_window_leaves_the_rest_unknown() -> None:
    replay = replay_of(steps(100, [False] * 3 + [True], plan=True), chunk=5)  # plans of 3
    batch = windows(replay, 3)
    assert batch.chunk[0, :3, 0].tolist() == [-103.0, 104.5, 105.5]
    assert batch.tail_unknown[0].tolist() == [False, False, False, True, True]


def test_behaviour_is_imitated_from_successes_only_where_asked() -> None:
    failure, success = (steps(first, [False, False, True]) for first in (0, 10))
    success[-1] = dataclasses.replace(success[-1], success=True)
    replay = replay_of(failure, success, chunk=2, imitate_success_only=True)
    batch = windows(replay, 0, 4)
    assert batch.valid.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert batch.weight.tolist() == [1.0, 1.0]  # the critic learns from both


def test_the_window_that_ends_on_a_time_out_bootstraps_from_the_true_last_observation() -> None:
    batch = windows(replay_of(steps(10, [False] * 3), chunk=2), 1)
    assert float(batch.next_state[0, 0]) == 13.0
    assert float(batch.bootstrap[0]) == pytest.approx(DISCOUNT**2)


def test_without_terminal_windows_only_complete_ones_are_drawn() -> None:
    assert len(replay_of(steps(10, [False] * 3 + [True]), chunk=3)) == 4
    assert len(replay_of(steps(10, [False] * 3 + [True]), chunk=3, terminal_windows=False)) == 2


def test_an_n_step_return_goes_beyond_the_chunk_and_bootstraps_behind_it() -> None:
    replay = replay_of(steps(10, [False] * 6), chunk=1, return_steps=4)
    assert replay.sampling.starts().tolist() == [0, 1, 2]
    batch = windows(replay, 1)
    assert batch.chunk[:, :, 0].tolist() == [[-11.0]] and batch.valid.shape == (1, 1)
    assert float(batch.reward[0]) == pytest.approx(-(1 + 0.9 + 0.81 + 0.729))
    assert float(batch.bootstrap[0]) == pytest.approx(DISCOUNT**4)
    assert float(batch.next_state[0, 0]) == 15.0


def test_rewards_behind_a_termination_count_only_where_asked() -> None:
    play = steps(10, [False, True, False, False])  # relabelled play data go on
    for after, wanted in ((False, -1.9), (True, -2.71)):
        batch = windows(replay_of(play, chunk=3, rewards_after_termination=after), 0)
        assert float(batch.reward[0]) == pytest.approx(wanted)
        assert float(batch.bootstrap[0]) == 0.0
        assert batch.valid.tolist() == [[1.0, 1.0, 1.0]]  # what was done then is recorded


def test_segments_without_a_window_are_counted_and_imitated_where_asked() -> None:
    segments = steps(10, [False] * 2), steps(20, [False] * 5), steps(30, [False, True])
    replay = replay_of(*segments, chunk=3)
    assert (replay.short_segments, replay.short_segment_steps) == (1, 2)
    assert len(replay) == 3 + 2
    replay = replay_of(*segments, chunk=3, imitate_short_segments=True)
    assert len(replay) == 2 + 3 + 2
    batch = windows(replay, 0)
    assert batch.weight.tolist() == [0.0]
    assert batch.valid.tolist() == [[1.0, 1.0, 0.0]]


def test_an_empty_replay_says_what_to_do() -> None:
    with pytest.raises(ParameterError, match='record more, or lower action_chunk_size'):
        Replay(50, 1, 1, 3, DISCOUNT).sample(4, np.random.default_rng(0))


def test_a_capacity_below_one_window_and_settings_that_disagree_are_refused() -> None:
    with pytest.raises(ParameterError, match='capacity: got 6, wanted at least 7'):
        Replay(6, 1, 1, 3, DISCOUNT, return_steps=5)
    with pytest.raises(ParameterError, match='terminal_windows'):
        Replay(50, 1, 1, 3, DISCOUNT, window_sampling='reference')


def test_memory_is_what_the_class_says_and_no_observation_is_kept_twice() -> None:
    for rows, state_dim, action_dim in ((100, 28, 5), (1000, 3, 2)):
        replay = Replay(rows, state_dim, action_dim, 4, DISCOUNT)
        assert replay.nbytes == rows * (4 * (state_dim + action_dim) + 12)
        arrays = [
            value if value.base is None else value.base
            for owner in (replay, replay.sampling)
            for value in vars(owner).values()
            if isinstance(value, np.ndarray) and len(value) == rows
        ]
        assert sum({id(a): a.nbytes for a in arrays}.values()) == replay.nbytes
        observations = [n for n in replay.table.dtype.names if 'observation' in n]
        assert observations == ['observation'], 'one observation a row'


def failing_return(replay: Replay, length: int, reward: float, price: float = 0.0) -> float:
    """Return the discounted return of an episode of constant reward that fails at its end."""
    zero = np.zeros(1, np.float32)
    start = replay.rows
    for index in range(length):
        last = index == length - 1
        replay.append(Step(index, zero, zero, reward + price * last, last))
    replay.append(SegmentEnd(zero, False, 'terminated', True))
    return float(windows(replay, start).reward[0])


lengths = st.lists(st.integers(1, 40), min_size=2, max_size=6, unique=True).map(sorted)


@settings(max_examples=60, deadline=None)
@given(discount=st.floats(0.5, 0.999), cost=st.floats(0.01, 10.0), lengths=lengths)
def test_failing_sooner_is_never_worth_more_at_any_discount(discount, cost, lengths) -> None:
    replay = Replay(1000, 1, 1, 40, discount, price_failure=True)
    found = [failing_return(replay, length, -cost) for length in lengths]
    assert np.diff(found).min() >= -1e-5 * cost / (1.0 - discount)


@settings(max_examples=60, deadline=None)
@given(discount=st.floats(0.5, 0.999), cost=st.floats(0.01, 10.0))
def test_with_half_that_price_failing_sooner_would_be_worth_more(discount, cost) -> None:
    replay = Replay(1000, 1, 1, 40, discount)
    half = -cost * 0.5 * discount / (1.0 - discount)
    found = [failing_return(replay, length, -cost, half) for length in (1, 2)]
    assert np.diff(found).min() < -1e-5 * cost / (1.0 - discount)


def test_success_costs_nothing_and_no_reward_is_won_by_failing() -> None:
    zero = np.zeros(1, np.float32)
    replay = Replay(50, 1, 1, 1, DISCOUNT, price_failure=True)
    for reward, success in ((-1.0, True), (-1.0, False), (0.0, False), (1.0, False)):
        replay.append(Step(0, zero, zero, reward, terminated=True, success=success))
    assert replay.rewards[:4].tolist() == pytest.approx([-1.0, -10.0, 0.0, 1.0])


def test_at_discount_one_only_a_failure_that_costs_is_refused() -> None:
    zero = np.zeros(1, np.float32)
    replay = Replay(50, 1, 1, 1, 1.0, price_failure=True)
    replay.append(Step(0, zero, zero, -1.0, terminated=False))
    replay.append(Step(1, zero, zero, -1.0, terminated=True, success=True))
    replay.append(Step(2, zero, zero, 0.0, terminated=True))
    with pytest.raises(ParameterError, match='infinite; give outcome'):
        replay.append(Step(3, zero, zero, -1.0, terminated=True))
    assert replay.steps == 3, 'nothing of it is kept'


def test_the_default_price_holds_only_where_the_contract_names_none() -> None:
    contract = load_contract('ur5e_cube')
    config = AlgorithmConfig(contract.state_dim, contract.action_dim)
    for named, price_failure, wanted in ((None, True, True), (-5.0, True, False), (None, 0, 0)):
        outcome = dataclasses.replace(contract.outcome, failure_reward=named)
        made = dataclasses.replace(contract, outcome=outcome)
        settings = config.with_changes(price_failure=bool(price_failure))
        assert empty_replay(settings, 100, made).price_failure == bool(wanted)


def test_preset_paper_gives_a_replay_that_draws_as_the_reference() -> None:
    config = AlgorithmConfig(3, 2, **preset('paper'))
    replay = empty_replay(config, 100)
    assert type(replay.sampling).__name__ == 'ReferenceSampling'
    assert replay.rewards_after_termination and not replay.price_failure


def test_uniform_mixing_goes_by_the_starts_that_can_be_drawn() -> None:
    identity = Normalizer.identity(1)
    for values, starts in (
        ({}, (3, 12)),
        ({'window_sampling': 'reference', 'terminal_windows': False}, (7, 12)),
    ):
        demonstrations = replay_of(
            *(steps(10 * i, [False] * 3) for i in (1, 2, 3)), chunk=3, **values
        )
        practice = replay_of(steps(100, [False] * 14), chunk=3, **values)
        assert (len(demonstrations), len(practice)) == starts
        share = starts[0] / sum(starts)
        for fraction, wanted in ((None, share), (0.5, 0.5)):
            buffers = Buffers(practice, demonstrations, fraction, identity)
            batch = buffers.sample(20000, np.random.default_rng(1))
            assert float((batch.state < 100).float().mean()) == pytest.approx(wanted, abs=0.015)
