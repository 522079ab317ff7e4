# SPDX-License-Identifier: Apache-2.0
"""What `qcfql train` learns from: recordings into replays, within a limit of memory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from qcfql_ros.cli.memory import resident_bytes, size_in_bytes
from qcfql_ros.cli.progress import progress_of
from qcfql_ros.errors import ParameterError

CAPACITY = 2_000_000
_MIB = 1 << 20
_MARGIN_BYTES = 32 * _MIB


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is read, and how much memory that may take."""
    add = parser.add_argument
    add(
        '--dataset_path',
        type=Path,
        nargs='+',
        required=True,
        metavar='BAG',
        help='recordings, or folders of recordings',
    )
    add(
        '--no_cache',
        action='store_true',
        help='decode all anew, and keep no steps beside the recordings',
    )
    add('--capacity', type=int, default=CAPACITY, help='rows of the replay')
    add(
        '--memory-limit',
        '--memory_limit',
        type=size_in_bytes,
        metavar='SIZE',
        help='of the resident memory of this process, as 800M or 2G; what does not fit is an '
        'error before training begins',
    )


class Memory:
    """Sees to it that a run stays within ``--memory-limit``; without one, does nothing.

    Args:
        limit: bytes, or None.
        training: what a training takes, in bytes; asked for where there is a limit.

    Raises:
        ParameterError: training alone takes more.
    """

    def __init__(self, limit: int | None, training: Callable[[], int]) -> None:
        self._limit = limit
        if limit is None:
            return
        self._before, _ = resident_bytes()
        self._training = training() + _MARGIN_BYTES
        if self._training > limit:
            wanted = -(-(self._training + _MARGIN_BYTES) // _MIB)
            raise ParameterError(
                f'--memory-limit {limit // _MIB}M: training takes more before the first step is '
                f'read; give at least {wanted}M, or smaller networks or batches'
            )

    def reading(self, bag: Path, needed: Callable[[], int]) -> None:
        """Refuse a recording of others whose messages do not fit while its steps are made.

        Args:
            bag: the recording.
            needed: what that takes, in bytes; asked for where there is a limit.

        Raises:
            ParameterError: it takes more.
        """
        if self._limit is None:
            return
        needs = needed()
        wanted = self._before + needs
        if wanted > self._limit:
            least = -(-(wanted + _MARGIN_BYTES) // _MIB)
            raise ParameterError(
                f'--memory-limit {self._limit // _MIB}M: {bag}, which others recorded, is held '
                f'at once while its steps are made, about {-(-needs // _MIB)}M; give at least '
                f'--memory-limit {least}M, or shorter recordings'
            )

    def capacity(self, rows: int, asked: int, row_bytes: int) -> int:
        """Return the rows that the replay is to hold.

        Args:
            rows: there are in the recordings.
            asked: --capacity.
            row_bytes: of one row.

        Raises:
            ParameterError: they do not fit.
        """
        if self._limit is None:
            return asked
        left_behind = max(0, resident_bytes()[0] - self._before)  # by what read the recordings
        taken = self._training + left_behind
        most = max(0, (self._limit - taken) // row_bytes)
        if min(rows, asked) > most:
            # Another run does not take just the same: what is named here has to fit then too.
            wanted = -(-(taken + min(rows, asked) * row_bytes + _MARGIN_BYTES) // _MIB)
            fewer = most - _MARGIN_BYTES // row_bytes
            smaller = (
                f', or --capacity {fewer} to learn from the last ones' if fewer > 1000 else ''
            )
            raise ParameterError(
                f'--memory-limit {self._limit // _MIB}M: {min(rows, asked)} rows of {row_bytes} '
                f'bytes do not fit beside the {-(-taken // _MIB)}M that training takes; give at '
                f'least --memory-limit {wanted}M{smaller}'
            )
        return asked

    def report(self) -> dict[str, float]:
        """Return the most memory that was taken; say so where that is more than the limit."""
        peak = resident_bytes()[1]
        if self._limit is not None and peak > self._limit:
            print(
                f'warning: {peak // _MIB}M of memory were taken at most, over --memory-limit '
                f'{self._limit // _MIB}M',
                flush=True,
            )
        return {'peak_memory_mib': round(peak / _MIB, 1)}


def load_data(
    arguments: argparse.Namespace, contract: Any, config: Any, split: Any, memory: Memory
) -> Any:
    """Return the replay to train on, and that of the held-out segments or None.

    Raises:
        BagError: recordings are unfit, or hold nothing to learn from; names each.
        ParameterError: they do not fit into the memory that may be taken.
    """
    from qcfql_ros.data.bag_steps import load_bags, open_bags
    from qcfql_ros.data.teleoperation import recorded_by_others
    from qcfql_ros.data.teleoperation_memory import reading_bytes
    from qcfql_ros.training.setup import empty_replay, fill

    bags = open_bags(arguments.dataset_path, contract, cache=not arguments.no_cache)
    for bag in bags:
        if not bag.from_cache and recorded_by_others(bag.path):
            memory.reading(bag.path, partial(reading_bytes, bag.path, contract))
    with progress_of('reading') as progress:
        load_bags(bags, progress)
    _describe(bags)
    rows = sum(bag.steps + bag.segments for bag in bags)
    small = empty_replay(config, config.window_steps + 2, contract)
    row_bytes = small.nbytes // small.capacity
    if arguments.normalize_observations:
        row_bytes += 8 * config.state_dim  # a copy in float64 while mean and std are taken
    capacity = memory.capacity(rows, arguments.capacity, row_bytes)
    training = empty_replay(config, capacity, contract)
    held_out = empty_replay(config, capacity, contract)
    blocks = chain.from_iterable(bag.blocks() for bag in bags)
    segments = sum(bag.segments for bag in bags)
    source = ', '.join(map(str, arguments.dataset_path))
    fill(training, split.training(blocks, segments, held_out.append_block), source)
    line = f'{training.steps} steps, {training.segment} segments, {len(training)} windows'
    if split.held_out:
        line = f'{line}; held out: {held_out.steps} steps, {split.held_out} segments'
    elif split.fraction:
        line = f'{line}; too few segments to hold any out'
    print(line, flush=True)
    if training.rows > training.capacity:
        print(
            f'warning: --capacity {capacity}: the oldest {training.rows - capacity} of '
            f'{training.rows} rows are not learned from',
            flush=True,
        )
    return training, held_out if len(held_out) else None


def _describe(bags: Sequence[Any]) -> None:
    """Say of each recording what is in it, and what is not."""
    for bag in bags:
        print(bag, flush=True)
        for line in bag.remarks():
            print(line, file=sys.stderr, flush=True)
