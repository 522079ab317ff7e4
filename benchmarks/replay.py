#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time to draw a batch of 256 windows, and memory, as the replay grows.

    python benchmarks/replay.py [--quick] [--json PATH] [--window-sampling legal]

sample_us: the median over all draws of one `Replay.sample(256)`, windows of 5 steps, states of 28
and actions of 5 numbers, episodes of 200 steps. All sizes are drawn in turn, so that what else the
machine does falls on each alike. ratio: to the smallest. near_us: the windows of the same starts
again and again, so that they are in the processor's caches whatever the size: what a replay takes
longer than that to draw is waiting for memory. bytes_per_step: of the arrays, and as the process
grew (memory that was free in it before is not counted).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from qcfql_ros.data.replay import Replay
from qcfql_ros.data.steps import SegmentEnd, Step

STATE_DIM, ACTION_DIM, CHUNK, BATCH, EPISODE = 28, 5, 5, 256, 200
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)


def resident_bytes() -> int:
    """Return what the process holds in memory."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmRSS:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError('/proc/self/status has no VmRSS')


def empty(capacity: int, sampling: str) -> Replay:
    """Return a replay without steps."""
    return Replay(
        capacity,
        STATE_DIM,
        ACTION_DIM,
        CHUNK,
        0.99,
        window_sampling=sampling,
        terminal_windows=sampling == 'legal',
    )


def filled(steps: int, sampling: str) -> Replay:
    """Return a replay of `steps` steps: one episode is appended, its rows are then repeated.

    The starts repeat too, so that the replay is what appending all of it would have made;
    `check_filled` holds it to that.
    """
    episodes = steps // EPISODE
    rows = EPISODE + 1
    replay = empty(episodes * rows, sampling)
    append_episodes(replay, 1)
    replay.table.reshape(episodes, rows)[1:] = replay.table[:rows]
    replay.rows = replay.segment_start = episodes * rows
    replay.steps, replay.segment = episodes * EPISODE, episodes
    if sampling == 'legal':
        legal = replay.sampling
        starts = legal._starts[: len(legal)] + rows * np.arange(episodes)[:, None]
        legal._tail = starts.size
        legal._starts[: starts.size] = starts.reshape(-1)
    else:
        replay.sampling._stored = replay.steps
    return replay


def append_episodes(replay: Replay, episodes: int) -> None:
    """Append the same episode `episodes` times, step by step."""
    for _ in range(episodes):
        random = np.random.default_rng(0)
        for index in range(EPISODE):
            observation, action = random.random(STATE_DIM), random.random(ACTION_DIM)
            replay.append(Step(index, observation, action, -1.0, index == EPISODE - 1))
        replay.append(SegmentEnd(random.random(STATE_DIM), False, 'terminated', True))


def check_filled(sampling: str) -> None:
    """Compare a small replay made by repetition with one that was appended."""
    fast = filled(5 * EPISODE, sampling)
    slow = empty(fast.capacity, sampling)
    append_episodes(slow, 5)
    for replay in (fast, slow):
        replay.sampled = replay.sample(512, np.random.default_rng(0))
    for name in ('state', 'chunk', 'reward', 'bootstrap', 'next_state', 'valid', 'weight'):
        ours, theirs = getattr(fast.sampled, name), getattr(slow.sampled, name)
        assert (ours == theirs).all(), name
    assert len(fast) == len(slow)


def neighbours(replay: Replay, generator: np.random.Generator) -> np.ndarray:
    """Return starts that lie within 10 000 rows, so that they fit the cache."""
    starts = replay.sampling.starts()[:10_000]
    return starts[generator.integers(0, len(starts), BATCH)]


def main() -> int:
    """Measure all sizes in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='up to a million steps, 200 draws')
    parser.add_argument('--json', type=Path, help='write a flat object, name to number')
    parser.add_argument('--window-sampling', default='legal', choices=('legal', 'reference'))
    options = parser.parse_args()
    sizes, draws = (SIZES[:3], 200) if options.quick else (SIZES, 2000)
    check_filled(options.window_sampling)
    replays, rows = [], []
    for size in sizes:
        before = resident_bytes()
        replay = filled(size, options.window_sampling)
        grown = resident_bytes() - before
        replays.append(replay)
        rows.append(
            {
                'bytes_per_step': replay.nbytes / replay.steps,
                'resident_bytes_per_step': grown / replay.steps,
            }
        )
    generator = np.random.default_rng(1)
    near = [neighbours(replay, generator) for replay in replays]
    times = np.zeros((2, draws, len(sizes)))
    for draw in range(-10, draws):  # the first ten warm up
        for index, replay in enumerate(replays):
            begin = time.perf_counter_ns()
            replay.sample(BATCH, generator)
            middle = time.perf_counter_ns()
            replay.sampling.windows(near[index])
            end = time.perf_counter_ns()
            if draw >= 0:
                times[:, draw, index] = middle - begin, end - middle
    sample_us, near_us = np.median(times, axis=1) / 1e3
    for index, row in enumerate(rows):
        row['sample_us'] = sample_us[index]
        row['sample_ratio'] = sample_us[index] / sample_us[0]
        row['near_us'] = near_us[index]
        row['near_ratio'] = near_us[index] / near_us[0]
    columns = list(rows[0])
    print(f'{options.window_sampling} windows, batch {BATCH}, {draws} draws of each size')
    print(f'{"steps":>12}' + ''.join(f'{column:>26}' for column in columns))
    for size, row in zip(sizes, rows, strict=True):
        print(f'{size:>12}' + ''.join(f'{row[column]:>26.2f}' for column in columns))
    if options.json:
        flat = {
            f'steps_{size}_{column}': round(float(value), 3)
            for size, row in zip(sizes, rows, strict=True)
            for column, value in row.items()
        }
        options.json.write_text(json.dumps(flat, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
