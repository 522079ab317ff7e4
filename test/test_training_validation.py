# SPDX-License-Identifier: Apache-2.0
"""Held-out segments: whole, the same ones each time; over-training is said once."""

from collections.abc import Iterator

import pytest
from practice_data import random_events

from qcfql_ros.data.step_block import StepBlock, blocks_of_events
from qcfql_ros.data.steps import SegmentEnd
from qcfql_ros.errors import ParameterError
from qcfql_ros.training.validation import Split, over_training


def split_of(
    fraction: float, seed: int, segments: int, most: int = 100
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the segments on both sides, each as the episode numbers of its steps."""
    held_out: list[StepBlock] = []
    events = random_events(segments, 3, 3, 2)
    blocks = list(blocks_of_events(events, 3, 2, most))
    split = Split(fraction, seed)
    training = list(split.training(blocks, segments, held_out.append))

    def by_segment(side: list[StepBlock]) -> Iterator[list[int]]:
        episodes: list[int] = []
        for event in (event for block in side for event in block.events()):
            if isinstance(event, SegmentEnd):
                yield episodes
                episodes = []
            else:
                episodes.append(event.episode)
        assert not episodes

    sides = list(by_segment(training)), list(by_segment(held_out))
    assert split.held_out == len(sides[1])
    return sides


def test_whole_segments_are_held_out_the_same_ones_each_time() -> None:
    training, held_out = split_of(0.1, 3, 100)
    assert len(held_out) == 10
    assert all(len(part) == 3 and len(set(part)) == 1 for part in [*training, *held_out])
    assert sorted(part[0] for part in [*training, *held_out]) == list(range(100))
    assert (training, held_out) == split_of(0.1, 3, 100)
    assert held_out != split_of(0.1, 4, 100)[1]
    for most in (1, 2, 3, 7):
        assert split_of(0.1, 3, 100, most) == (training, held_out)
    longer = split_of(0.1, 3, 130)[1]
    assert longer[:10] == held_out and len(longer) == 13


def test_of_few_segments_and_with_fraction_0_none_is_held_out() -> None:
    for fraction, segments in ((0.5, 19), (0.0, 100)):
        training, held_out = split_of(fraction, 0, segments)
        assert (len(training), held_out) == (segments, [])
    with pytest.raises(ParameterError, match=r'validation_fraction: got 0\.6'):
        Split(0.6, 0)


@pytest.mark.parametrize(('fraction', 'held_out'), [(0.05, 3), (0.3, 20), (0.4, 30), (0.5, 30)])
def test_a_fraction_holds_out_one_segment_of_a_whole_number(
    fraction: float, held_out: int
) -> None:
    assert len(split_of(fraction, 0, 60)[1]) == held_out


def test_over_training_warns_once_when_the_loss_has_clearly_risen() -> None:
    notes: dict = {}
    losses = [1.0, 0.5, 0.54, 0.6, 0.5, 0.6, 0.6, 0.4, 0.45, 0.45, 0.45, 0.5, 0.6]
    said = [over_training(notes, loss, 10 * index) for index, loss in enumerate(losses)]
    assert [index for index, line in enumerate(said) if line] == [10]
    assert 'is 0.45 and was 0.4 at update 70' in said[10]
