#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `qcfql train --memory-limit` takes of memory for a bag three times as large.

    python benchmarks/bag_cache.py [--limit 1G] [--ticks 100000] [--json PATH] [--folder FOLDER]

Writes a bag of the ur5e_cube robot with our recorder, filled up with pictures that nobody trains
on to three times the limit, and trains on it twice: decoding, and from the steps that were kept.
peak_mib is the most that the training's process had in memory, as the kernel counts it
(ru_maxrss, read by the process that waits for it).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bag_messages import CONTRACT, RECEIVED_NS, STORE, header, messages

from qcfql_ros.cli.memory import size_in_bytes
from qcfql_ros.data.recorder import BagRecorder

IMAGE, CAMERA = 'sensor_msgs/msg/Image', '/camera/image_raw'
IMAGE_BYTES = 640 * 480 * 3


def make_bag(folder: Path, ticks: int, wanted_bytes: int) -> None:
    """Record `ticks` ticks, and pictures among them until there are `wanted_bytes`."""
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(4):  # no two of a chunk are alike
        pixels = random.integers(0, 256, IMAGE_BYTES, dtype=np.uint8)
        message = STORE.types[IMAGE](header(), 480, 640, 'rgb8', 0, 1920, pixels)
        pictures.append(bytes(STORE.serialize_cdr(message, IMAGE)))
    recorder = BagRecorder(
        folder,
        {**CONTRACT.recorded_topics(), CAMERA: IMAGE},
        contract_name=CONTRACT.name,
        contract_hash=CONTRACT.hash,
    )
    every = max(1, ticks * 8 * IMAGE_BYTES // wanted_bytes)
    for number, (topic, now_ns, data) in enumerate(messages(ticks)):
        recorder.write(topic, now_ns, 0, data)
        if number % every == 0:
            recorder.write(CAMERA, now_ns, 0, pictures[number // every % 4])
            recorder.commit()
    left = wanted_bytes - sum(path.stat().st_size for path in folder.iterdir())
    last_ns = max(now_ns, RECEIVED_NS)
    for number in range(max(0, left) // IMAGE_BYTES + 2):
        recorder.write(CAMERA, last_ns + number, 0, pictures[number % 4])
        recorder.commit()
    recorder.close()


def train(bag: Path, out: Path, limit: str) -> dict[str, float]:
    """Run `qcfql train` on the bag; return what it took."""
    report = out.with_suffix('.json')
    command = [sys.executable, '-m', 'qcfql_ros.cli', 'train', '--dataset_path', str(bag)]
    command += ['--contract', CONTRACT.name, '--output_dir', str(out), '--memory-limit', limit]
    command += ['--num_pretrain_steps', '20', '--log_every', '10', '--save_every', '10']
    command += ['--json', str(report)]
    started_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f'{" ".join(command)} ended with {process.returncode}\n{said}')
    print('\n'.join(f'    {line}' for line in said.splitlines()), flush=True)
    return {
        'peak_mib': round(usage.ru_maxrss / 1024, 1),
        'said_mib': json.loads(report.read_text())['peak_memory_mib'],
        'seconds': round(time.monotonic() - started_s, 1),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--limit', default='1G', help='--memory-limit of the training')
    parser.add_argument('--ticks', type=int, default=100_000, help='of the robot in the bag')
    parser.add_argument('--folder', type=Path, help='where to put the bag (default: temporary)')
    parser.add_argument('--json', type=Path, help='write a flat object, name to number')
    options = parser.parse_args()
    limit = size_in_bytes(options.limit)
    flat: dict[str, float] = {'cache_limit_mib': limit / 2**20}
    with tempfile.TemporaryDirectory(prefix='qcfql_bag_', dir=options.folder) as folder:
        bag = Path(folder) / 'bag'
        # By a process of its own: the most that this one took would count for the training too.
        maker = multiprocessing.get_context('spawn').Process(
            target=make_bag, args=(bag, options.ticks, 3 * limit)
        )
        maker.start()
        maker.join()
        flat['cache_bag_mib'] = round(sum(p.stat().st_size for p in bag.iterdir()) / 2**20, 1)
        print(f'bag of {flat["cache_bag_mib"]} MiB, {options.ticks} ticks; limit {options.limit}')
        for name in ('decoded', 'kept'):
            found = train(bag, Path(folder) / name, options.limit)
            print(f'train, {name}: {found}', flush=True)
            flat |= {f'cache_{name}_{what}': value for what, value in found.items()}
        kept = sum(p.stat().st_size for p in Path(folder, 'bag.qcfql_cache').iterdir())
        flat['cache_kept_mib'] = round(kept / 2**20, 1)
    print(json.dumps(flat, indent=2))
    if options.json:
        options.json.write_text(json.dumps(flat, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
