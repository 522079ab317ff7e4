# SPDX-License-Identifier: Apache-2.0
"""A replay filled by blocks is that filled by events, bit for bit, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcfql_ros.data.replay import Replay
from qcfql_ros.data.step_block import blocks_of_events
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.errors import ParameterError

STATES, ACTIONS = 3, 2


@st.composite
def settings_of(draw):
    """Arguments of a replay."""
    chunk = draw(st.integers(1, 4))
    steps = chunk + draw(st.sampled_from([0, 0, 2]))
    reference = draw(st.booleans())
    return (
        (steps + draw(st.integers(2, 60)), STATES, ACTIONS, chunk, 0.9),
        {
            'return_steps': steps if steps > chunk else 0,
            'terminal_windows': draw(st.booleans()) and not reference,
            'window_sampling': 'reference' if reference else 'legal',
            'imitate_success_only': draw(st.booleans()),
            'price_failure': draw(st.booleans()),
            'imitate_short_segments': draw(st.booleans()) and not reference,
        },
    )


def events_of(random: np.random.Generator, count: int, ending: float):
    """Return random steps and ends, as they come from a recording."""
    events = []
    for number in range(count):
        if random.random() < ending:
            final = random.normal(size=STATES).astype(np.float32)
            events.append(SegmentEnd(final, bool(random.random() < 0.5), 'test'))
            continue
        planned = None
        if random.random() < 0.3:
            planned = random.normal(size=(int(random.integers(1, 6)), ACTIONS)).astype(np.float32)
        events.append(
            Step(
                number,
                random.normal(size=STATES).astype(np.float32),
                random.normal(size=ACTIONS).astype(np.float32),
                float(random.choice([-1.0, 0.0, -0.0, 0.1, random.normal()])),
                terminated=bool(random.random() < 0.15),
                success=bool(random.random() < 0.1),
                planned=planned,
            )
        )
    return events


def assert_equal(blocks: Replay, events: Replay) -> None:
    """Compare everything in two replays."""
    assert blocks.table.tobytes() == events.table.tobytes()
    for name in ('rows', 'steps', 'segment', 'segment_start', 'short_segments'):
        assert getattr(blocks, name) == getattr(events, name), name
    assert blocks.short_segment_steps == events.short_segment_steps
    assert blocks._segment_success == events._segment_success
    assert len(blocks) == len(events)
    ours, theirs = vars(blocks.sampling), vars(events.sampling)
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {'_replay', '_planned', '_reach', '_discounts'}:
        assert np.array_equal(ours[name], theirs[name]), name
    plans, other = ours.get('_planned', {}), theirs.get('_planned', {})
    assert plans.keys() == other.keys()
    assert all(np.array_equal(plans[place], other[place]) for place in plans)
    assert (blocks._last_plan is None) == (events._last_plan is None)
    if blocks._last_plan is not None:
        assert blocks._last_plan[0] == events._last_plan[0]
        assert np.array_equal(blocks._last_plan[1], events._last_plan[1])


@settings(max_examples=300, deadline=None)
@given(
    made=settings_of(),
    seed=st.integers(0, 2**32),
    count=st.integers(0, 200),
    ending=st.sampled_from([0.0, 0.05, 0.3]),
    most=st.sampled_from([1, 3, 20, 1000]),
)
def test_blocks_and_events_fill_a_replay_alike(made, seed, count, ending, most):
    arguments, values = made
    by_block, by_event = Replay(*arguments, **values), Replay(*arguments, **values)
    events = events_of(np.random.default_rng(seed), count, ending)
    for block in blocks_of_events(events, STATES, ACTIONS, most):
        by_block.append_block(block)
        for event in block.events():
            by_event.append(event)
        assert_equal(by_block, by_event)
    if len(by_block):
        drawn = [r.sample(16, np.random.default_rng(1)) for r in (by_block, by_event)]
        for name in ('state', 'chunk', 'reward', 'bootstrap', 'next_state', 'valid', 'weight'):
            assert (getattr(drawn[0], name) == getattr(drawn[1], name)).all(), name


def test_a_failure_that_costs_for_ever_is_refused_behind_the_steps_before_it():
    zero = np.zeros(STATES, np.float32), np.zeros(ACTIONS, np.float32)
    events = [Step(i, *zero, -float(i), terminated=i in (0, 3)) for i in range(5)]
    replay = Replay(50, STATES, ACTIONS, 1, 1.0, price_failure=True)
    with pytest.raises(ParameterError, match='reward -3 ended in failure'):
        replay.append_block(next(blocks_of_events(events, STATES, ACTIONS)))
    assert replay.steps == 3
