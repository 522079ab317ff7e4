#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hours in minutes: a million lockstep ticks, and a robot at 100 Hz that does all it should not.

    python benchmarks/soak.py [--ticks 1000000] [--wire-ticks 30000] [--minutes 20] [--seed 0]
                              [--json PATH]

calls   ticks of point_reach in lockstep through contract, planner, driver and filter, by calls
wire    the same over DDS: policy_node and gym_robot_node, each a process
wall    the policy node at 100 Hz against a faulty robot: late plans; sensor messages dropped,
        reordered, NaN, silent; new policies good, damaged and old; halts; parameters valid and
        not; a ROS clock that jumps

Every command is judged by `soak_checker`, in `wire` and `wall` a process of its own that shares
no code with the package. 0 leaves a part out. Exit status 1: a violation; each is told.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')

import torch
from soak_lockstep import run_lockstep
from soak_wall import run_wall
from soak_wire import run_wire

# Growth of memory that fails a part: this much and, over a run long enough to tell, this rate.
GROWTH_KIB, GROWTH_KIB_PER_H, LONG_S = 32 * 1024, 32 * 1024, 600.0


def judge_memory(report: dict[str, Any]) -> None:
    """Add the growth per hour; too much of it is a violation."""
    grown, seconds = report['growth_kib'], report['growth_s']
    report['growth_kib_per_h'] = grown * 3600.0 / seconds if seconds else 0.0
    steep = seconds > LONG_S and report['growth_kib_per_h'] > GROWTH_KIB_PER_H
    if grown > GROWTH_KIB or steep:
        report['violations']['memory'] = 1
        report['said'].append(f'memory grew by {grown} KiB in {seconds:.0f} s')


def table(name: str, report: dict[str, Any]) -> str:
    """Return what one part counted, for people."""
    rows = [f'{name}: {sum(report["violations"].values())} violations']
    for key, value in report.items():
        if isinstance(value, dict):
            rows.append(f'  {key}')
            rows += [f'    {what:28}{count:>12}' for what, count in sorted(value.items())]
        elif key == 'memory_samples_kib':
            rows.append(f'  {key}  {" ".join(map(str, value))}')
        elif isinstance(value, list):
            rows += [f'  ! {text}' for text in value]
        else:
            rows.append(f'  {key:30}{round(value, 3):>12}')
    return '\n'.join(rows)


def main() -> int:
    """Run all and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--ticks', type=int, default=1_000_000, help='in lockstep, by calls')
    parser.add_argument('--wire-ticks', type=int, default=30_000, help='in lockstep, over DDS')
    parser.add_argument('--minutes', type=float, default=20.0, help='at 100 Hz')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--json', type=Path, help='write all counts')
    options = parser.parse_args()
    torch.set_num_threads(1)
    reports: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix='qcfql_soak_') as folder:
        parts = {
            'calls': (options.ticks, run_lockstep, ()),
            'wire': (options.wire_ticks, run_wire, (Path(folder) / 'wire',)),
            'wall': (options.minutes * 60.0, run_wall, (Path(folder) / 'wall',)),
        }
        for name, (amount, run, rest) in parts.items():
            if amount:
                reports[name] = report = run(amount, options.seed, *rest)
                judge_memory(report)
                print(table(name, report), flush=True)
    if options.json:
        options.json.write_text(json.dumps({'seed': options.seed, **reports}, indent=2) + '\n')
    bad = sum(sum(report['violations'].values()) for report in reports.values())
    print(f'{bad} violations in all')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
