# SPDX-License-Identifier: Apache-2.0
"""The demo's whole loop on the light robot: real processes, real DDS, a real trainer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qcfql_ros.cli.shared_memory import orphans
from qcfql_ros.contract import load_contract

COMMAND = [sys.executable, '-m', 'qcfql_ros.cli', 'demo', '--robot', 'point_reach']


@pytest.fixture(scope='module')
def untrained(tmp_path_factory):
    """Return a folder with a policy that knows nothing and the state to go on from."""
    from qcfql_ros.algorithm.config import AlgorithmConfig
    from qcfql_ros.training.checkpoint import TrainingState

    folder = tmp_path_factory.mktemp('model')
    contract = load_contract('point_reach')
    config = AlgorithmConfig(
        contract.state_dim,
        contract.action.dim,
        hidden_dims=(32, 32),
        num_critics=2,
        batch_size=32,
    )
    state = TrainingState.start(config, contract.name, contract.hash)
    state.save(folder / 'state.safetensors')
    (folder / 'policy.safetensors').write_bytes(state.policy().to_bytes())
    return folder


def processes_of(marker):
    """Return the process ids whose command line names `marker`."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def demo(untrained, run_dir, *more):
    return [*COMMAND, '--model', str(untrained), '--run-dir', str(run_dir), *more]


def test_the_demo_runs_learns_and_leaves_nothing_behind(untrained, tmp_path):
    run_dir = tmp_path / 'run'
    before = set(orphans())
    arguments = ['--minutes', '0.6', '--warmup-steps', '50', '--publish-every-s', '2']
    done = subprocess.run(
        demo(untrained, run_dir, *arguments, '--json', str(tmp_path / 'report.json')),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    logs = '\n'.join(path.read_text()[-2000:] for path in (run_dir / 'logs').glob('*.log'))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['ran'] is True
    assert report['episodes'] >= 1
    assert report['transitions'] > 50
    assert report['buffered_steps'] > 50
    assert report['policy_versions_executed'] >= 2
    for name in ('learning_curve.png', 'tick_timing.png', 'episodes.csv', 'summary.json', 'bag'):
        assert (run_dir / name).exists(), name
    assert processes_of(str(run_dir)) == []
    assert not [name for name in set(orphans()) - before if name.startswith('fast')]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_in_order(untrained, tmp_path, wait_until, number):
    run_dir = tmp_path / 'run'
    process = subprocess.Popen(
        demo(untrained, run_dir, '--minutes', '5'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    bag = run_dir / 'bag'
    wait_until(lambda: bag.is_dir() and any(bag.glob('*.mcap*')), 60.0, 'the recording')
    time.sleep(1.0 if number == signal.SIGINT else 3.0)  # at any moment
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 1, 130), output
    assert 'Traceback' not in output
    assert processes_of(str(run_dir)) == []


def test_the_nodes_end_when_the_demo_is_killed(untrained, tmp_path, wait_until):
    run_dir = tmp_path / 'run'
    process = subprocess.Popen(
        demo(untrained, run_dir, '--minutes', '5'),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: (run_dir / 'bag').is_dir(), 60.0, 'the recording')
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: processes_of(str(run_dir)) == [], 40.0, 'the nodes to end')


def test_a_model_of_another_contract_is_refused_in_one_line(untrained, tmp_path):
    run_dir = tmp_path / 'run'
    command = [sys.executable, '-m', 'qcfql_ros.cli', 'demo', '--model', str(untrained)]
    done = subprocess.run(
        [*command, '--run-dir', str(run_dir)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert 'point_reach' in done.stderr
    assert done.stderr.count('\n') == 1
    assert 'Traceback' not in done.stderr
