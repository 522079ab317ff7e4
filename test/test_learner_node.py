# SPDX-License-Identifier: Apache-2.0
"""learner_node as a real process against a robot that follows a script."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from rosbags.highlevel import AnyReader

from qcfql_ros.contract import load_contract
from qcfql_ros.data.dataset import load_dataset
from qcfql_ros.data.reader import bag_info, read_bag
from qcfql_ros.data.steps import Step, step_digest

ROBOT = Path(__file__).with_name('scripted_robot.py')
CONTRACT = load_contract('point_reach')


class Processes(ExitStack):
    """Child processes that end with the test."""

    def start(self, *command: str, **pipes) -> subprocess.Popen:
        child = subprocess.Popen([sys.executable, *command], text=True, **pipes)
        self.callback(self.end, child)
        return child

    @staticmethod
    def end(child) -> None:
        if child.poll() is None:
            child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()

    def learner(self, run_dir: Path, **settings) -> subprocess.Popen:
        values = {
            'contract': 'point_reach',
            'run_dir': run_dir,
            'pacing': 'lockstep',
            'learn': 'false',
        } | settings
        options = [item for k, v in values.items() for item in ('-p', f'{k}:={v}')]
        log = self.enter_context((run_dir.parent / f'{run_dir.name}.log').open('a'))
        return self.start(
            '-m', 'qcfql_ros.nodes.learner_node', '--ros-args', *options, stderr=log, stdout=log
        )

    def robot(self, *arguments: int) -> subprocess.Popen:
        return self.start(
            str(ROBOT), *map(str, arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )


@pytest.fixture
def processes():
    with Processes() as stack:
        yield stack


def drive(processes, *arguments: int) -> dict:
    """Run the robot's script to its end and return what it sent."""
    return json.loads(processes.robot(*arguments).stdout.readline())


def stop(child) -> int:
    child.send_signal(signal.SIGTERM)
    return child.wait(30)


def logged(run_dir: Path) -> list[list[str]]:
    return [line.split(',') for line in (run_dir / 'steps.csv').read_text().splitlines()[1:]]


def reread(run_dir: Path) -> list[list[str]]:
    rows, segment = [], 0
    for event in load_dataset(run_dir / 'bag', CONTRACT):
        if isinstance(event, Step):
            rows.append([str(event.stamp_ns), str(segment), step_digest(event)])
        else:
            segment += 1
    return rows


def recorded(run_dir: Path, topic: str) -> int:
    return sum(1 for _ in read_bag(run_dir / 'bag', [topic], include_open=True))


def test_what_was_sent_is_in_the_bag_and_the_bag_gives_the_steps_logged_live(
    tmp_path, processes, wait_until
):
    run = tmp_path / 'run'
    learner = processes.learner(run)
    sent = drive(processes, 600, 50)['sent']
    wait_until(lambda: len(logged(run)) >= 600, what='600 steps in the log')
    assert stop(learner) == 0
    counts = dict(bag_info(run / 'bag').counts)
    assert counts.pop('/learner/session') == 1
    assert counts == {f'/{topic}': count for topic, count in sent.items()}
    with AnyReader([run / 'bag']) as reader:
        found = Counter(link.topic for link, _, _ in reader.messages())
    assert {topic: found[topic] for topic in counts} == counts
    assert logged(run) == reread(run)
    assert len(logged(run)) == 600
    assert len({row[1] for row in logged(run)}) == 12, 'a segment an episode'
    planned = [
        e
        for e in load_dataset(run / 'bag', CONTRACT)
        if isinstance(e, Step) and e.planned is not None
    ]
    assert len(planned) == sent['policy/chunk']


def test_a_killed_learner_goes_on_where_it_was(tmp_path, processes, wait_until):
    run = tmp_path / 'run'
    first = processes.learner(run)
    drive(processes, 200, 50)
    wait_until(lambda: recorded(run, '/outcome') == 200, what='200 outcomes on disk')
    first.kill()
    first.wait()
    second = processes.learner(run)
    drive(processes, 100, 50)
    wait_until(lambda: recorded(run, '/outcome') >= 300, what='300 outcomes on disk')
    assert stop(second) == 0
    assert 'recovered bag_0.mcap' in (tmp_path / 'run.log').read_text()
    assert recorded(run, '/learner/session') == 2
    rows, again = logged(run), reread(run)
    assert rows[-100:] == [
        [a, str(int(b) - int(again[-1][1]) + int(rows[-1][1])), c] for a, b, c in again[-100:]
    ]
    assert {row[2] for row in rows} <= {row[2] for row in again}


def test_a_second_learner_on_the_same_buffer_is_refused_in_one_line(
    tmp_path, processes, wait_until
):
    run = tmp_path / 'run'
    first = processes.learner(run)
    wait_until(lambda: (run / 'steps.csv').exists(), what='the first learner')
    second = processes.start(
        *('-m', 'qcfql_ros.nodes.learner_node', '--ros-args'),
        *('-p', 'contract:=point_reach', '-p', f'run_dir:={run}', '-p', 'learn:=false'),
        stderr=subprocess.PIPE,
    )
    assert second.wait(20) == 2
    (line,) = second.stderr.read().splitlines()
    assert str(run / 'bag') in line and str(first.pid) in line
    assert stop(first) == 0


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        ({'run_dir': "''"}, 'run_dir'),
        ({'contract': 'point_rech'}, 'point_reach'),
        ({'model': '/nowhere/policy.safetensors'}, '/nowhere/policy.safetensors'),
        ({'demos': '/nowhere/bag'}, '/nowhere/bag'),
        ({'utd_ratio': -1.0}, 'utd_ratio'),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_nothing_is_written(tmp_path, settings, says):
    values = {'contract': 'point_reach', 'run_dir': tmp_path / 'run', 'learn': 'true'} | settings
    options = [item for k, v in values.items() for item in ('-p', f'{k}:={v}')]
    done = subprocess.run(
        [sys.executable, '-m', 'qcfql_ros.nodes.learner_node', '--ros-args', *options],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert says in line
    assert not (tmp_path / 'run').exists()


def trainer_of(learner) -> int:
    """Process id of the learner's trainer, 0 when there is none."""
    found = subprocess.run(['pgrep', '-P', str(learner.pid)], capture_output=True, text=True)
    return int(found.stdout.split()[0]) if found.stdout.strip() else 0


def test_practice_is_paced_by_updates_and_a_killed_trainer_is_replaced(
    tmp_path, processes, wait_until
):
    run = tmp_path / 'run'
    learner = processes.learner(
        run, learn='true', warmup_steps=50, utd_ratio=0.1, publish_every_s=0.5
    )
    robot = processes.robot(200, 50)
    written = set()  # a policy that never drove the robot is removed when newer ones are there

    def look() -> bool:
        for path in (run / 'policies').glob('*.safetensors'):
            with contextlib.suppress(FileNotFoundError):
                written.add(hashlib.sha256(path.read_bytes()).hexdigest())
        return True

    wait_until(lambda: trainer_of(learner), timeout_s=60, what='the trainer')
    wait_until(
        lambda: look() and (run / 'steps.csv').exists() and len(logged(run)) > 115,
        timeout_s=60,
        what='practice beyond warm-up and slack, which needs updates',
    )
    killed = trainer_of(learner)
    os.kill(killed, signal.SIGKILL)
    wait_until(
        lambda: look() and trainer_of(learner) not in (0, killed),
        timeout_s=20,
        what='a new trainer',
    )
    wait_until(
        lambda: look() and len(logged(run)) == 200, timeout_s=60, what='200 steps in the log'
    )
    report = json.loads(robot.stdout.readline())
    assert report['sent']['outcome'] == 200
    assert stop(learner) == 0
    assert 'the trainer ended' in (tmp_path / 'run.log').read_text()
    assert logged(run) == reread(run)
    assert (run / 'checkpoints' / 'last.safetensors').is_file()
    assert set(report['policies']) & written, 'the robot heard a policy that the trainer wrote'
