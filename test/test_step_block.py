# SPDX-License-Identifier: Apache-2.0
"""Steps as blocks of arrays and back: nothing is lost, wherever a block ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcfql_ros.data.step_block import blocks_of_events
from qcfql_ros.data.steps import SegmentEnd, Source, Step, step_digest


def plain(event):
    if isinstance(event, Step):
        return step_digest(event), event.reward, event.planned is None
    return event.final_observation.tobytes(), event.truncated, event.reason, event.episode_end


@st.composite
def sequences(draw):
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    events = []
    for i in range(draw(st.integers(0, 25))):
        if draw(st.integers(0, 4)) == 0:
            events.append(
                SegmentEnd(
                    rng.normal(size=3).astype(np.float32),
                    draw(st.booleans()),
                    draw(st.sampled_from(['gap', 'timeout'])),
                    draw(st.booleans()),
                )
            )
            continue
        length = draw(st.sampled_from([None, None, 2, 3]))
        events.append(
            Step(
                stamp_ns=1_700_000_000_000_000_000 + i,
                observation=rng.normal(size=3).astype(np.float32),
                action=rng.normal(size=2).astype(np.float32),
                reward=float(rng.normal()),
                terminated=draw(st.booleans()),
                success=draw(st.booleans()),
                source=draw(st.sampled_from(Source)),
                chunk=draw(st.integers(-1, 9)),
                index=draw(st.integers(0, 9)),
                episode=draw(st.integers(0, 9)),
                planned=None if length is None else rng.normal(size=(length, 2)).astype('f4'),
            )
        )
    return events


@settings(max_examples=200, deadline=None)
@given(sequences(), st.sampled_from([1, 2, 3, 100]))
def test_blocks_give_the_same_events_back(events, most):
    blocks = list(blocks_of_events(events, 3, 2, most))
    assert all(len(block) <= most for block in blocks)
    again = [event for block in blocks for event in block.events()]
    assert [plain(e) for e in again] == [plain(e) for e in events]


def test_an_empty_sequence_has_no_block():
    assert list(blocks_of_events([], 3, 2)) == []


@pytest.mark.parametrize('most', [1, 4])
def test_shapes_of_a_block_without_chunks(most):
    step = Step(1, np.zeros(3, np.float32), np.zeros(2, np.float32), 0.0, False)
    block = next(blocks_of_events([step], 3, 2, most))
    assert block.observation.shape == (1, 3)
    assert block.planned.shape == (0, 0, 2)
    assert block.final_observation.shape == (0, 3)
