#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Messages a second that are recorded without a drop while two trainers compute.

    python benchmarks/record.py [--rounds 3] [--seconds 5] [--no-dds] [--idle] [--json PATH]

The messages of the ur5e_cube robot without images (9 topics) go to a bag

ours        through the spool and the thread of this package's recorder: zstd, a checksum a chunk,
            on the disk each second
rosbags     to the plain writer of the rosbags library in the call: not compressed, no checksum
mcap        to that of the mcap library in the call: zstd and checksums, never synced

by calls: first as fast as it goes for the time given (`fastest`), then at shares of that until
the first at which nothing is dropped (`sustained`). A writer that gets so far behind that the
queues of the subscriptions (1000 messages each) would overflow drops, and so does one that refuses
a message, or that needs more than a second at the end to write the rest.

over DDS: from a publisher process through the same raw subscriptions, at rising rates; `sustained`
is the highest at which every message that was sent is in the bag. The publisher is Python too:
what it cannot send is no measure, so the rate is the one it came to.

Contenders take turns. Told are the median over the rounds and (lowest to highest).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record_contenders import QUEUE, TOPICS, WRITERS

from qcfql_ros.cli.session import ros_domain
from qcfql_ros.contract import find_contract
from qcfql_ros.data.reader import bag_info

HERE = Path(__file__).parent
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
RATES_HZ = (1000, 2000, 4000, 8000, 12_000, 16_000)
TRAINERS = 2
DRAIN_S = 1.0


class Child:
    """A contender or a trainer, ended with the benchmark."""

    def __init__(self, script: str, *words: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, HERE / script, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            raise RuntimeError(f'{self._process.args} ended with {self._process.wait()}')
        return text

    def result(self) -> dict[str, Any]:
        """Return what it prints at its end."""
        return json.loads(self.line())

    def release(self) -> None:
        """Let it end by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def end(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


def by_calls(name: str, seconds: float) -> dict[str, float]:
    """Return what one round by calls came to."""

    def at(rate_hz: float) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix='qcfql_record_') as folder:
            child = Child('record_contenders.py', 'calls', name, f'{folder}/bag', rate_hz, seconds)
            try:
                return child.result()
            finally:
                child.end()

    fastest = at(0)
    top_hz = fastest['messages'] / fastest['took_s']
    row = {
        'fastest_hz': top_hz,
        'fastest_mb_s': fastest['mb'] / fastest['took_s'],
        'cpu_us': fastest['cpu_us'],
        'stored_share': fastest['stored_mb'] / fastest['mb'],
        'sustained_hz': 0.0,
        'sustained_mb_s': 0.0,
    }
    for share in SHARES:
        one = at(share * top_hz)
        kept_up = one['behind'] <= QUEUE * len(TOPICS) and one['drain_s'] <= DRAIN_S
        if kept_up and not one['refused']:
            row['sustained_hz'] = one['messages'] / seconds
            row['sustained_mb_s'] = one['mb'] / seconds
            break
    return row


def over_dds(name: str, seconds: float) -> dict[str, float]:
    """Return what one round over DDS came to."""
    row = {'dds_sustained_hz': 0.0, 'dds_sustained_mb_s': 0.0, 'dds_lost_at_hz': 0.0}
    for rate_hz in RATES_HZ:
        with tempfile.TemporaryDirectory(prefix='qcfql_record_') as folder:
            recorder = Child('record_contenders.py', 'dds', name, f'{folder}/bag')
            recorder.line()
            publisher = Child('record_contenders.py', 'publish', rate_hz, seconds)
            try:
                sent = publisher.result()
                recorder.result()
                publisher.release()
                kept = bag_info(f'{folder}/bag').messages - (name == 'ours')  # its mark
            finally:
                recorder.end()
                publisher.end()
        came_to_hz = sent['sent'] / sent['took_s']
        if kept < sent['sent']:
            row['dds_lost_at_hz'] = came_to_hz
            break
        row['dds_sustained_hz'] = came_to_hz
        row['dds_sustained_mb_s'] = sent['mb'] / sent['took_s']
        if came_to_hz < 0.9 * rate_hz:
            break  # the publisher is at its end
    return row


def main() -> int:
    """Measure all contenders in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=5.0)
    parser.add_argument('--no-dds', action='store_true', help='by calls alone')
    parser.add_argument('--idle', action='store_true', help='without the trainers')
    parser.add_argument('--json', type=Path, help='write a flat object, name to number')
    options = parser.parse_args()
    contract = find_contract('ur5e_cube')
    trainers = []
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in WRITERS}
    try:
        for _ in range(0 if options.idle else TRAINERS):
            trainers.append(Child('executor_contenders.py', 'train', contract, '-', 0))
            trainers[-1].line()
        with ros_domain() as (domain, _):
            os.environ['ROS_DOMAIN_ID'] = str(domain)
            for _ in range(options.rounds):
                for name, made in rows.items():
                    row = by_calls(name, options.seconds)
                    if not options.no_dds and name != 'mcap':
                        row |= over_dds(name, options.seconds)
                    made.append(row)
                    print(name, json.dumps({k: round(v, 2) for k, v in row.items()}), flush=True)
    finally:
        for trainer in trainers:
            trainer.end()
    flat: dict[str, float] = {}
    for name, made in rows.items():
        for column in made[0]:
            values = [row[column] for row in made]
            low, middle, high = min(values), statistics.median(values), max(values)
            flat[f'{name}_{column}'] = round(middle, 3)
            print(f'{name:>8} {column:<20} {middle:12.2f} ({low:.2f} to {high:.2f})')
    if options.json:
        options.json.write_text(json.dumps(flat, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
