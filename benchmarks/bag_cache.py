#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What keeping a bag's steps saves, and what `qcfql train` takes of memory for a large bag.

    python benchmarks/bag_cache.py [--quick] [--limit 1G] [--json PATH] [--folder FOLDER]

Writes a bag three times as large as --limit with our recorder: the messages of a robot in
lockstep, and pictures that nobody trains on to fill it up. Then `qcfql train --memory-limit` runs
on it twice, decoding first and then from what was kept; peak_mib is the most that its process had
in memory as the kernel counts (ru_maxrss). Last, on a second bag without pictures, the time from
the bag to replay arrays, decoded and from what was kept, in turn, each time after a first run that
is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rosbags.typesys import Stores, get_typestore

from qcfql_ros.algorithm.config import AlgorithmConfig
from qcfql_ros.cli.memory import size_in_bytes
from qcfql_ros.contract import load_contract
from qcfql_ros.contract.named_vector import Outcome, StepRecord, outcome_fields, step_fields
from qcfql_ros.data.bag_steps import BagSteps
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.training.setup import empty_replay

CONTRACT = load_contract('point_reach')
STORE = get_typestore(Stores.ROS2_JAZZY)
JOINTS, POSE = 'sensor_msgs/msg/JointState', 'geometry_msgs/msg/PoseStamped'
IMAGE = 'sensor_msgs/msg/Image'
EPISODE = 200
IMAGE_BYTES = 640 * 480 * 3
TOPICS = {
    '/joint_states': JOINTS,
    '/goal_pose': POSE,
    '/policy/step': JOINTS,
    '/outcome': JOINTS,
    '/camera/image_raw': IMAGE,
}


class Template:
    """Messages of one kind: serialised once, then only stamp and numbers change.

    Args:
        message: whose numbers are 1001, 1002 and so on.
        kind: its type.
    """

    def __init__(self, message, kind: str) -> None:
        self._data = bytearray(STORE.serialize_cdr(message, kind))
        self._at = self._data.find(struct.pack('<d', 1001.0))

    def __call__(self, stamp_ns: int, values=()) -> bytes:
        struct.pack_into('<iI', self._data, 4, *divmod(stamp_ns, 1_000_000_000))
        if values:
            struct.pack_into(f'<{len(values)}d', self._data, self._at, *values)
        return bytes(self._data)


def header():
    types = STORE.types
    return types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](0, 0), 'base')


def named(names, velocities: int = 0) -> Template:
    numbers = np.arange(len(names) + velocities, dtype=np.float64) + 1001.0
    position, velocity = numbers[: len(names)], numbers[len(names) :]
    return Template(
        STORE.types[JOINTS](header(), list(names), position, velocity, np.zeros(0)), JOINTS
    )


def pose() -> Template:
    types = STORE.types
    point = types['geometry_msgs/msg/Point'](1001.0, 1002.0, 1003.0)
    turn = types['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0)
    return Template(types[POSE](header(), types['geometry_msgs/msg/Pose'](point, turn)), POSE)


def image(seed: int) -> Template:
    pixels = np.random.default_rng(seed).integers(0, 256, IMAGE_BYTES, dtype=np.uint8)
    return Template(STORE.types[IMAGE](header(), 480, 640, 'rgb8', 0, 1920, pixels), IMAGE)


def make_bag(folder: Path, steps: int, wanted_bytes: int = 0) -> None:
    """Record `steps` ticks, and pictures until there are `wanted_bytes`."""
    recorder = BagRecorder(
        folder, TOPICS, contract_name=CONTRACT.name, contract_hash=CONTRACT.hash, namespace=''
    )
    record = StepRecord(0, np.zeros(2, np.float32), 0, -1, 0, 0, 1, 0, 0, True)
    step = named(step_fields(record, CONTRACT)[0])
    outcome = named(outcome_fields(Outcome(0, 0.0, False, False, False, 0, 0, False))[0])
    joints, goal = named(('x', 'y'), velocities=2), pose()
    looks = [image(seed) for seed in range(4)]  # no two of a chunk are alike
    period, now = CONTRACT.period_ns, 1_700_000_000_000_000_000
    pictures = wanted_bytes // IMAGE_BYTES
    every = max(1, steps // pictures) if pictures else steps + 1
    values = np.random.default_rng(1).normal(size=(1024, 4)).tolist()

    def sense(stamp: int, row: list[float]) -> None:
        recorder.write('/joint_states', stamp + 1000, stamp, joints(stamp, row[:2]))
        recorder.write('/goal_pose', stamp + 2000, stamp, goal(stamp, (*row[2:4], 0.0)))

    sense(now, values[0])
    for number in range(steps):
        last = number % EPISODE == EPISODE - 1
        record = StepRecord(now, np.zeros(2), number // EPISODE, -1, 0, 0, 1, 0, 0, True)
        row = values[number % 1024]
        fields = step_fields(record, CONTRACT)[1]
        fields[:2] = np.tanh(row[:2]).tolist()
        recorder.write('/policy/step', now + 3000, now, step(now, fields))
        made = Outcome(now, -1.0, last, False, last, number // EPISODE, number + 1, last)
        recorder.write('/outcome', now + 4000, now, outcome(now, outcome_fields(made)[1]))
        if number % every == 0:
            recorder.write('/camera/image_raw', now + 5000, now, looks[number // every % 4](now))
        now += period
        sense(now, values[(number + 1) % 1024])
        if last:
            now += period
            sense(now, values[0])
    recorder.close()


def train(bag: Path, out: Path, limit: str) -> dict[str, float]:
    """Run `qcfql train` on the bag; return what it took."""
    command = [sys.executable, '-m', 'qcfql_ros.cli', 'train', '--dataset_path', str(bag)]
    command += ['--contract', CONTRACT.name, '--output_dir', str(out), '--memory-limit', limit]
    command += ['--num_pretrain_steps', '20', '--log_every', '10', '--save_every', '10']
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f'{" ".join(command)} ended with {process.returncode}\n{said}')
    print('\n'.join(f'    {line}' for line in said.splitlines()), flush=True)
    return {
        'peak_mib': round(usage.ru_maxrss / 1024, 1),
        'seconds': round(time.monotonic() - started, 2),
    }


def load_seconds(bag: Path, contract, cache: bool) -> float:
    """Return the time from a bag to replay arrays."""
    config = AlgorithmConfig(contract.state_dim, contract.action.dim)
    started = time.perf_counter()
    steps = BagSteps(bag, contract, cache=cache)
    steps.load()
    replay = empty_replay(config, steps.steps + steps.segments, contract)
    for block in steps.blocks():
        replay.append_block(block)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true', help='a bag of 50 000 steps, 3 runs')
    parser.add_argument('--limit', default='1G', help='--memory-limit of the training')
    parser.add_argument('--folder', type=Path, help='where to put the bags (default: temporary)')
    parser.add_argument('--json', type=Path)
    arguments = parser.parse_args()
    steps, runs = (50_000, 3) if arguments.quick else (200_000, 7)
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix='bag_cache_', dir=arguments.folder) as folder:
        root = Path(folder)
        make_bag(root / 'large', steps, 3 * size_in_bytes(arguments.limit))
        size = sum(path.stat().st_size for path in (root / 'large').iterdir())
        report['bag_mib'] = round(size / 2**20, 1)
        report['limit_mib'] = size_in_bytes(arguments.limit) / 2**20
        print(f'bag of {report["bag_mib"]} MiB, {steps} steps, limit {arguments.limit}')
        for name in ('decoded', 'kept'):
            report[f'train_{name}'] = found = train(root / 'large', root / name, arguments.limit)
            print(f'train, {name}: {found}', flush=True)
        make_bag(root / 'small', steps)
        load_seconds(root / 'small', CONTRACT, cache=True)
        times: dict[str, list[float]] = {'decoded': [], 'kept': []}
        for _ in range(runs):
            for name, spent in times.items():
                spent.append(load_seconds(root / 'small', CONTRACT, cache=name == 'kept'))
        kept = next((root / 'small.qcfql_cache').glob('*.steps')).stat().st_size
        size = sum(path.stat().st_size for path in (root / 'small').iterdir())
        report |= {'state_bag_mib': size / 2**20, 'kept_mib': kept / 2**20}
        for name, spent in times.items():
            report[f'{name}_s'] = statistics.median(spent)
            print(
                f'{name}: median {statistics.median(spent):.3f} s, '
                f'{min(spent):.3f} to {max(spent):.3f}, of {runs} runs'
            )
    report['cache_ratio_to_ours'] = report['decoded_s'] / report['kept_s']
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + '\n')


if __name__ == '__main__':
    main()
