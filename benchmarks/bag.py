#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Messages a second from a bag to replay arrays, against the plain loop.

    python benchmarks/bag.py [--ticks 60000] [--runs 5] [--storage mcap|sqlite3] [--json PATH]

Writes a bag of the ur5e_cube robot without images (8.2 messages a tick) and fills a replay from it
in four ways, in turn, each time after a first run that is not counted:

plain       rosbags' `reader.messages()` and `deserialize_cdr` into a list for each topic, then in
            the order of receipt through the same event-wise assembler, which is spared the
            decoding of bytes, and step by step into the replay
event-wise  our reader and decoder for single messages, else the same
ours        `load_blocks` and `Replay.append_block`, as `qcfql train` does
cached      the same from the steps that were kept beside the bag in the run that is not counted

All four must give the same replay, byte for byte. CPU time is that of the process: what else the
machine does, it leaves out; wall time is told beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bag_messages import CONTRACT, STORE, messages, write_bag
from rosbags.highlevel import AnyReader

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.data.assembler import Assembler
from qcfql_ros.data.bag_metadata import CONTRACT_HASH
from qcfql_ros.data.bag_steps import BagSteps
from qcfql_ros.data.dataset import load_blocks
from qcfql_ros.data.reader import BagReader
from qcfql_ros.data.replay import Replay
from qcfql_ros.training.setup import empty_replay


class ObjectAssembler(Assembler):
    """The event-wise assembler, given messages that are objects already."""

    def __init__(self) -> None:
        super().__init__(CONTRACT)
        self._read: Any = lambda message, type_name: message


def empty(ticks: int) -> Replay:
    config = AlgorithmConfig(CONTRACT.state_dim, CONTRACT.action_dim)
    return empty_replay(config, ticks + ticks // 100 + 100, CONTRACT)


def plain(bag: Path, replay: Replay) -> None:
    """Fill `replay` as one would without this package's reader and decoder."""
    lists: dict[str, list[tuple[int, int, Any]]] = {}
    with AnyReader([bag], default_typestore=STORE) as reader:
        for number, (connection, receive_ns, data) in enumerate(reader.messages()):
            message = reader.deserialize(data, connection.msgtype)
            lists.setdefault(connection.topic, []).append((receive_ns, number, message))
    merged = [(*entry, topic) for topic, entries in lists.items() for entry in entries]
    merged.sort(key=lambda entry: entry[:2])
    assembler = ObjectAssembler()
    for receive_ns, _, message, topic in merged:
        for event in assembler.push(topic, receive_ns, message):
            replay.append(event)
    for event in assembler.finish():
        replay.append(event)


def event_wise(bag: Path, replay: Replay) -> None:
    """Fill `replay` message by message."""
    assembler = Assembler(CONTRACT)
    for part in BagReader(bag, CONTRACT.recorded_topics()).parts():
        for topic, receive_ns, _, data in part.messages:
            for event in assembler.push(topic, receive_ns, data):
                replay.append(event)
    for event in assembler.finish():
        replay.append(event)


def ours(bag: Path, replay: Replay) -> None:
    """Fill `replay` as `qcfql train` does when it decodes a bag."""
    for block in load_blocks(bag, CONTRACT, any_contract=True):
        replay.append_block(block)


def cached(bag: Path, replay: Replay) -> None:
    """Fill `replay` as `qcfql train` does: from the steps that the first run kept."""
    steps = BagSteps(bag, CONTRACT)
    steps.load()
    for block in steps.blocks():
        replay.append_block(block)


WAYS: dict[str, Callable[[Path, Replay], None]] = {
    'plain': plain,
    'event_wise': event_wise,
    'ours': ours,
    'cached': cached,
}


def make_bag(folder: Path, storage: str, ticks: int) -> int:
    """Write the bag; returns the number of messages."""
    if storage == 'mcap':
        return write_bag(folder, ticks)
    from rosbags.rosbag2 import StoragePlugin, Writer

    topics, count = CONTRACT.recorded_topics(), 0
    with Writer(folder, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        writer.set_custom_data(CONTRACT_HASH, CONTRACT.hash)
        connections = {
            topic: writer.add_connection(topic, kind, typestore=STORE)
            for topic, kind in topics.items()
        }
        for topic, receive_ns, data in messages(ticks):
            writer.write(connections[topic], receive_ns, data)
            count += 1
    return count


def measure(bag: Path, ticks: int, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Return CPU and wall seconds of every run that counts, by way."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for run in range(runs + 1):
        tables = {}
        for name, fill in WAYS.items():
            replay = empty(ticks)
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            fill(bag, replay)
            cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
            if run:
                times[name].append((cpu_s, wall_s))
            else:
                tables[name] = replay.table.tobytes()
                assert replay.steps == ticks, (name, replay.steps)
        if tables:
            assert len(set(tables.values())) == 1, 'all give the same replay'
    return times


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--ticks', type=int, default=60_000, help='of the robot in the bag')
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap')
    parser.add_argument('--json', type=Path, help='write a flat object, name to number')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='qcfql_bag_') as folder:
        bag = Path(folder) / 'bag'
        count = make_bag(bag, options.storage, options.ticks)
        size = sum(path.stat().st_size for path in bag.iterdir()) / 1e6
        print(f'{count} messages, {options.ticks} steps, {size:.1f} MB of {options.storage}')
        times = measure(bag, options.ticks, options.runs)
    flat: dict[str, float] = {'bag_messages': count}
    for name, seconds in times.items():
        for clock, column in zip(('cpu', 'wall'), zip(*seconds, strict=True), strict=True):
            rates = sorted(count / second for second in column)
            middle = statistics.median(rates)
            print(
                f'{name:>10} {clock:>4}: {middle:>9.0f} messages/s '
                f'({rates[0]:.0f} to {rates[-1]:.0f})'
            )
            suffix = '' if clock == 'cpu' else '_wall'
            flat[f'bag_{name}_messages_per_s{suffix}'] = round(middle)
    for suffix in ('', '_wall'):
        plain_rate = flat[f'bag_plain_messages_per_s{suffix}']
        for way, name in (('ours', 'bag_ratio'), ('cached', 'cache_ratio')):
            rate = flat[f'bag_{way}_messages_per_s{suffix}']
            flat[f'{name}{suffix}'] = round(rate / plain_rate, 2)
    print(f'ours to plain: {flat["bag_ratio"]} (cpu), {flat["bag_ratio_wall"]} (wall)')
    print(f'cached to plain: {flat["cache_ratio"]} (cpu), {flat["cache_ratio_wall"]} (wall)')
    if options.json:
        options.json.write_text(json.dumps(flat, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
