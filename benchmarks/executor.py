#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How late a tick is: the policy node, a C program, an rclpy timer, and LeRobot's loop.

    python benchmarks/executor.py [--quick] [--json PATH] [--rates 50 100 200 500 1000]
    python benchmarks/executor.py --markdown PATH         # the table of a run before

c: clock_nanosleep with absolute deadlines and a timer slack of 1 ns, no other work. c_slice: with
the time slice that our control thread asks for. ours: the policy node at wall pacing, with
inference and DDS to another process. rclpy_timer, lerobot_sleep: the same work in a timer's
callback, and in a loop that sleeps for the rest of each period.
load: two trainers beside it, niced as the package does it. docs/results/timing.md explains the
numbers. Blocks of all take turns, so that what else the machine does falls on each alike.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from qcfql_ros.algorithm.policy import ChunkPolicy, PolicyInfo
from qcfql_ros.cli.session import ros_domain
from qcfql_ros.cli.shared_memory import remove_orphans
from qcfql_ros.contract import find_contract, load_contract
from qcfql_ros.control.histogram import Histogram
from qcfql_ros.control.realtime import TIME_SLICE_NS

HERE = Path(__file__).resolve().parent
RATES_HZ = (50, 100, 200, 500, 1000)
CONTENDERS = ('c', 'c_slice', 'ours', 'rclpy_timer', 'lerobot_sleep')
C_PROGRAMS = ('c', 'c_slice')
LOADS = ('idle', 'load')
TRAINERS = 2
DRIFT_RATE_HZ = 100
CHUNK_S = 0.05  # a chunk has as many rows, but at least five
LEAST_CHUNK = 5


class Results:
    """Samples of all blocks, pooled by (contender, rate, load)."""

    def __init__(self) -> None:
        self.cells: dict[str, dict[str, Any]] = {}
        self.flat: dict[str, Any] = {}

    def add(self, name: str, block: dict[str, Any]) -> None:
        """Pool one block."""
        cell = self.cells.setdefault(
            name, {'wake': Histogram(), 'published': Histogram(), 'missed': 0, 'cpu': [], 'n': 0}
        )
        for key in ('wake', 'published'):
            if key in block:
                cell[key].merge(block[key])
        cell['missed'] += block['missed']
        cell['n'] += 1
        cell['cpu'].append(block['cpu'])
        values: dict[str, Any] = {'ticks': cell['wake'].count, 'missed': cell['missed']}
        values['cpu'] = round(sum(cell['cpu']) / len(cell['cpu']), 4)
        for key, prefix in (('wake', ''), ('published', 'published_')):
            histogram = cell[key]
            if histogram.count:
                for word, q in (('p50', 0.5), ('p99', 0.99), ('p99_9', 0.999)):
                    values[f'{prefix}{word}_us'] = round(histogram.quantile(q) / 1e3, 1)
                values[f'{prefix}max_us'] = round(histogram.max_ns / 1e3, 1)
        for extra in ('spin_us', 'chunk_misses', 'gc_longest_us', 'realtime'):
            if extra in block:
                values[extra] = block[extra]
        self.flat.update({f'{name}_{key}': value for key, value in values.items()})


class Child:
    """A process of executor_contenders.py that answers lines."""

    def __init__(self, role: str, contract: Path, model: Path, priority: int) -> None:
        self.role = role
        words = [sys.executable, str(HERE / 'executor_contenders.py'), role, str(contract)]
        self.process = subprocess.Popen(
            [*words, str(model), str(priority)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """Wait for its next line; raise RuntimeError if it ended instead."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f'{self.role} ended with status {self.process.wait()}')
        return line

    def block(self, seconds: float, trace: bool = False) -> dict[str, Any]:
        """Run one block."""
        self.process.stdin.write(f'{seconds} {int(trace)}\n')
        self.process.stdin.flush()
        block = json.loads(self.line())
        for key in ('wake', 'published'):
            block[key] = dense(block[key])
        return block

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def dense(sparse: dict[str, Any]) -> Histogram:
    """Return the histogram that a child printed."""
    histogram = Histogram()
    for bucket, count in sparse['counts'].items():
        histogram.counts[int(bucket)] = count
    histogram.count, histogram.max_ns = sparse['count'], sparse['max_ns']
    return histogram


class CProgram:
    """absolute_sleep.c, compiled for this run."""

    def __init__(self, role: str, folder: Path, rate_hz: float, priority: int) -> None:
        self.role = role
        self._command = [str(folder / 'absolute_sleep'), str(rate_hz)]
        slice_ns = TIME_SLICE_NS if role == 'c_slice' and not priority else 0
        self._arguments = [str(priority), str(slice_ns)]

    def block(self, seconds: float, trace: bool = False) -> dict[str, Any]:
        """Run one block."""
        words = [*self._command, str(seconds), *self._arguments]
        first, *lines = subprocess.run(
            words, check=True, capture_output=True, text=True
        ).stdout.splitlines()
        missed, used_ns, wall_ns = map(int, first.split())
        times = [tuple(map(int, line.split())) for line in lines]
        wake = Histogram()
        for due_ns, begin_ns in times:
            wake.add(begin_ns - due_ns)
        block = {'wake': wake, 'missed': missed, 'cpu': used_ns / wall_ns}
        return block | {'ticks': len(times), 'trace': times}

    def close(self) -> None:
        """Nothing is left running."""


def compile_c(folder: Path) -> bool:
    """Compile the C program; False, with a word, where there is no compiler."""
    compiler = shutil.which('cc')
    if compiler is None:
        print(
            'no C compiler: `c` and `c_slice` are left out; install one (apt-get install gcc)',
            flush=True,
        )
        return False
    source, program = HERE / 'absolute_sleep.c', folder / 'absolute_sleep'
    subprocess.run([compiler, '-O2', '-o', str(program), str(source)], check=True)
    return True


def prepare(folder: Path, rate_hz: float) -> tuple[Path, Path]:
    """Write the contract of the point robot at this rate, and a policy for it."""
    text = yaml.safe_load(find_contract('point_reach').read_text())
    text['control']['rate_hz'] = float(rate_hz)
    file = folder / f'point_reach_{rate_hz:g}.yaml'
    file.write_text(yaml.safe_dump(text))
    contract = load_contract(file)
    rows = max(LEAST_CHUNK, round(rate_hz * CHUNK_S))
    info = PolicyInfo(contract.name, contract.hash, contract.state_dim, contract.action_dim, rows)
    model = folder / f'policy_{rate_hz:g}.safetensors'
    model.write_bytes(ChunkPolicy.random(info).to_bytes())
    return file, model


def drift_us_per_min(trace: list[tuple[int, int]]) -> float:
    """Return the slope of begin - due, from the medians of the first and the last third.

    A least-squares line would show where the few late ticks happen to be.
    """
    due, begun = np.array(trace, dtype=np.int64).T
    third = len(due) // 3
    first, last = slice(0, third), slice(len(due) - third, None)
    grown_us = (np.median((begun - due)[last]) - np.median((begun - due)[first])) / 1e3
    return float(grown_us / ((np.median(due[last]) - np.median(due[first])) / 60e9))


def run_rate(rate_hz: float, options: argparse.Namespace, folder: Path, results: Results) -> None:
    """All contenders at one rate, idle and under load."""
    contract, model = prepare(folder, rate_hz)
    words = contract, model, options.priority
    robot = Child('robot', *words)
    contenders: list[Any] = [
        CProgram(name, folder, rate_hz, options.priority)
        if name in C_PROGRAMS
        else Child(name, *words)
        for name in options.contenders
    ]
    trainers: list[Child] = []
    try:
        for child in (robot, *contenders):
            if isinstance(child, Child):
                child.line()
        for load in options.loads:
            if load == 'load':
                trainers = [Child('train', *words) for _ in range(TRAINERS)]
                for trainer in trainers:
                    trainer.line()
            for _ in range(options.blocks):
                for contender in contenders:
                    name = f'{contender.role}_{rate_hz:g}hz_{load}'
                    results.add(name, contender.block(options.seconds))
            if load == 'idle' and rate_hz == DRIFT_RATE_HZ:
                measure_drift(contenders, options, results)
            for contender in contenders:
                show(results.flat, contender.role, rate_hz, load)
    finally:
        for child in (*trainers, *contenders, robot):
            child.close()


def measure_drift(contenders: list[Any], options: argparse.Namespace, results: Results) -> None:
    """One long idle block of each contender with a grid of its own to hold on to."""
    for contender in contenders:
        if contender.role == 'rclpy_timer':
            continue  # its grid cannot be seen from outside
        block = contender.block(options.drift_seconds, trace=True)
        name = f'{contender.role}_{DRIFT_RATE_HZ}hz_idle_long'
        results.flat[f'{name}_drift_us_per_min'] = round(drift_us_per_min(block['trace']), 2)
        results.flat[f'{name}_missed'] = block['missed']
        results.flat[f'{name}_ticks'] = block['ticks']


COLUMNS = ('p50_us', 'p99_us', 'p99_9_us', 'max_us', 'published_p99_us', 'missed', 'cpu')


def show(flat: dict[str, Any], contender: str, rate_hz: float, load: str) -> None:
    """Print a row."""
    name = f'{contender}_{rate_hz:g}hz_{load}'
    cells = ''.join(f'{flat.get(f"{name}_{column}", "-"):>18}' for column in COLUMNS)
    print(f'{name:28}{cells}', flush=True)


def markdown(flat: dict[str, Any]) -> str:
    """Return the tables of docs/results/timing.md."""
    lines = []
    for load in LOADS:
        lines += [f'**{load}**', '', '| Hz | | ' + ' | '.join(COLUMNS) + ' |']
        lines.append('|' + '---|' * (len(COLUMNS) + 2))
        for rate in RATES_HZ:
            for contender in CONTENDERS:
                name = f'{contender}_{rate}hz_{load}'
                if f'{name}_p50_us' in flat:
                    cells = ' | '.join(str(flat.get(f'{name}_{c}', '-')) for c in COLUMNS)
                    lines.append(f'| {rate} | `{contender}` | {cells} |')
        lines.append('')
    lines += ['| long run at 100 Hz, idle | ticks | missed | drift, us/min |', '|---|---|---|---|']
    for contender in CONTENDERS:
        name = f'{contender}_{DRIFT_RATE_HZ}hz_idle_long'
        if f'{name}_ticks' in flat:
            words = (flat[f'{name}_{w}'] for w in ('ticks', 'missed', 'drift_us_per_min'))
            lines.append(f'| `{contender}` | ' + ' | '.join(map(str, words)) + ' |')
    return '\n'.join(lines)


def main() -> int:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='100 Hz, a minute')
    parser.add_argument('--json', type=Path, help='write a flat object, name to number')
    parser.add_argument('--markdown', type=Path, help='print the tables of such a file, and end')
    parser.add_argument('--rates', type=float, nargs='+', default=RATES_HZ, help='Hz')
    parser.add_argument('--loads', nargs='+', choices=LOADS, default=LOADS)
    parser.add_argument('--contenders', nargs='+', choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument('--blocks', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=5.0, help='of a block')
    parser.add_argument('--drift-seconds', type=float, default=60.0)
    parser.add_argument(
        '--priority', type=int, default=0, help='of SCHED_FIFO, for c and ours; 0: SCHED_OTHER'
    )
    options = parser.parse_args()
    if options.markdown:
        print(markdown(json.loads(options.markdown.read_text())))
        return 0
    if options.quick:
        options.rates, options.blocks, options.seconds = [DRIFT_RATE_HZ], 2, 2.0
        options.drift_seconds = 6.0
    results, started_s = Results(), time.time()
    print(f'{"":28}' + ''.join(f'{column:>18}' for column in COLUMNS), flush=True)
    with tempfile.TemporaryDirectory() as text, ros_domain():
        folder = Path(text)
        os.environ['ROS_LOG_DIR'] = text
        if not compile_c(folder):
            options.contenders = [name for name in options.contenders if name not in C_PROGRAMS]
        for rate_hz in options.rates:
            run_rate(rate_hz, options, folder, results)
    remove_orphans(started_s)
    about = {'processors': os.cpu_count(), 'kernel': os.uname().release}
    if options.json:
        words = {**about, 'priority': options.priority, **results.flat}
        options.json.write_text(json.dumps(words, indent=2) + '\n')
    print('\n'.join(f'{k}: {v}' for k, v in results.flat.items() if '_long_' in k))
    return 0


if __name__ == '__main__':
    sys.exit(main())
