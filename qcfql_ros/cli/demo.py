# SPDX-License-Identifier: Apache-2.0
"""A simulated arm learns before your eyes: robot, policy and learner on this machine.

Starts from a policy trained offline and lets it practise. What happened is kept in
runs/<time>/: the bag, checkpoints, policies, logs, episodes.csv, pictures and summary.json.
Exit status 0 means that the loop really ran: episodes finished, transitions were recorded and
learned from, and a new policy drove the robot.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from qcfql_ros.cli.demo_report import conclude
from qcfql_ros.cli.demo_view import Snapshot, View, make_view
from qcfql_ros.cli.practice import Practice
from qcfql_ros.cli.processes import ProcessError, Processes
from qcfql_ros.cli.report import add_json_argument
from qcfql_ros.cli.session import node_command, ros_session
from qcfql_ros.cli.shipped_models import ModelFiles, find_model
from qcfql_ros.contract.load import load_contract
from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.dataset import check_contract
from qcfql_ros.errors import ParameterError, RobotError
from qcfql_ros.training.file_headers import (
    check_contract_of,
    read_policy_header,
    read_state_header,
)
from qcfql_ros.training.pace import Pace

MODEL = 'ur5e_cube_offline'
ROBOTS = ('ur5e_cube', 'point_reach')
START_TIMEOUT_S = 90.0
REFRESH_S = 0.25
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('--minutes', type=float, default=5.0, help='of practice (default 5)')
    parser.add_argument('--wall', action='store_true', help='at the real rate, not in lockstep')
    parser.add_argument('--robot', choices=ROBOTS, default=ROBOTS[0])
    parser.add_argument(
        '--model',
        default=MODEL,
        help=f'shipped model, folder or policy file ({MODEL})',
    )
    parser.add_argument(
        '--demos', metavar='BAG', help="recording to mix in (the model's own); '' for none"
    )
    parser.add_argument(
        '--demo-fraction', type=float, default=0.5, help='share of it in each batch'
    )
    parser.add_argument(
        '--behavior-weighting',
        choices=('model', 'uniform', 'success', 'value'),
        default='success',
        help='which practice the behaviour policy imitates',
    )
    parser.add_argument('--run-dir', type=Path, help='where to keep the run (runs/<time>)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    parser.add_argument('--utd-ratio', type=float, default=1.0, help='updates per step')
    parser.add_argument('--warmup-steps', type=int, default=500, help='before the first update')
    parser.add_argument(
        '--publish-every-s', type=float, default=10.0, help='between two policy versions'
    )
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return 0 if the loop ran, else 1."""
    if not arguments.minutes > 0:
        raise ParameterError(f'--minutes is {arguments.minutes:g}; wanted more than 0')
    contract = load_contract(arguments.robot)
    model = find_model(arguments.model)
    _refuse_what_does_not_fit(arguments, contract, model)
    with _stop_on_signal() as stop:
        run_dir = _make_run_dir(arguments.run_dir)
        try:
            practice, failure = _practise(arguments, contract, model, run_dir, stop)
        except ProcessError:  # a node refused to start: nothing has been recorded
            shutil.rmtree(run_dir, ignore_errors=True)
            raise
        if stop.requested and not practice.ticks:
            shutil.rmtree(run_dir, ignore_errors=True)
            print('qcfql demo: interrupted before the robot moved', file=sys.stderr)
            return INTERRUPTED
        return conclude(arguments, contract, run_dir, practice, failure)


def _refuse_what_does_not_fit(
    arguments: argparse.Namespace, contract: Contract, model: ModelFiles
) -> None:
    """Raise a QcfqlError before anything is made."""
    check_contract_of(model.policy, read_policy_header(model.policy), contract)
    state = model.require_state()
    check_contract_of(state, read_state_header(state), contract)
    Pace(arguments.utd_ratio, arguments.warmup_steps, arguments.publish_every_s)
    if not -1.0 <= arguments.demo_fraction <= 1.0:
        raise ParameterError(f'--demo-fraction is {arguments.demo_fraction}; wanted -1 to 1')
    for bag in filter(None, (arguments.demos or '').split(os.pathsep)):
        check_contract(Path(bag), contract)


class _Stop:
    """Set by the first SIGINT or SIGTERM; more of them change nothing."""

    requested = False

    def handle(self, number: int, frame: object) -> None:
        self.requested = True


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[_Stop]:
    stop = _Stop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop.handle) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _make_run_dir(wanted: Path | None) -> Path:
    """Make a new folder for the run.

    Raises:
        ParameterError: the folder exists and holds something.
    """
    if wanted is not None:
        if wanted.exists() and (not wanted.is_dir() or any(wanted.iterdir())):
            raise ParameterError(f'--run-dir {wanted} is not empty; name a new folder')
        wanted.mkdir(parents=True, exist_ok=True)
        return wanted
    stem = datetime.datetime.now().strftime('%Y-%m-%d_%H-%M-%S')
    for suffix in ('', *(f'_{number}' for number in range(2, 100))):
        with contextlib.suppress(FileExistsError):
            run_dir = Path('runs') / (stem + suffix)
            run_dir.mkdir(parents=True)
            return run_dir
    raise ParameterError(f'runs/{stem} and 98 more exist; give --run-dir')


def start_nodes(
    processes: Processes,
    arguments: argparse.Namespace,
    model: ModelFiles,
    run_dir: Path,
) -> None:
    """Start learner, policy and robot; they find each other."""
    shared = {
        'contract': arguments.robot,
        'pacing': 'wall' if arguments.wall else 'lockstep',
        'seed': arguments.seed,
    }
    run_folder = str(run_dir.absolute())
    learner = {
        'run_dir': run_folder,
        'learn': True,
        'model': str(model.require_state().absolute()),
        'demos': str(model.demonstrations or '') if arguments.demos is None else arguments.demos,
        'demo_fraction': arguments.demo_fraction,
        'behavior_weighting': arguments.behavior_weighting,
        'utd_ratio': arguments.utd_ratio,
        'warmup_steps': arguments.warmup_steps,
        'publish_every_s': arguments.publish_every_s,
    }
    policy = {
        'model': str(model.policy.absolute()),
        'device': arguments.device,
        'autostart': True,
    }
    robot = {
        'robot': arguments.robot,
        'wait_for_credits': not arguments.wall,
        'expected_subscribers': 2,  # the policy and the recorder
        'expected_listeners': 1,  # this process
    }
    processes.start('learner', node_command('learner_node', shared | learner))
    processes.start('policy', node_command('policy_node', shared | policy))
    processes.start('robot', node_command('gym_robot_node', shared | robot))


def _practise(
    arguments: argparse.Namespace,
    contract: Contract,
    model: ModelFiles,
    run_dir: Path,
    stop: _Stop,
) -> tuple[Practice, str]:
    """Run the graph until the time is up; return what was counted and what failed, if anything.

    Raises:
        ProcessError: a node refused to start.
        RobotError: nothing moved in time.
    """
    from qcfql_ros.cli.demo_monitor import DemoMonitor

    failure = ''
    with ros_session(run_dir) as processes:
        start_nodes(processes, arguments, model, run_dir)
        with DemoMonitor(contract.outcome.topic) as monitor, make_view() as view:
            monitor.hear_outcomes()
            try:
                _watch(processes, monitor, view, 60.0 * arguments.minutes, stop)
            except ProcessError as error:
                if not monitor.practice.ticks and error.status == 2:
                    raise
                failure = str(error)
        print('stopping', flush=True)
        for name, patience_s in (('robot', 5.0), ('policy', 5.0), ('learner', 30.0)):
            died_before = not processes.alive(name)
            status = processes.stop(name, timeout_s=patience_s)[name]
            # A child that was still starting dies of our SIGINT itself.
            if status not in (0, -signal.SIGINT) and not died_before and not failure:
                failure = f'{name} did not end in order (status {status}); see {run_dir}/logs'
    return monitor.practice, failure


def _watch(processes, monitor, view: View, total_s: float, stop: _Stop) -> None:
    started_s = time.monotonic()
    while not stop.requested:
        monitor.spin(REFRESH_S)
        now_s = time.monotonic()
        first_s = monitor.practice.first_s
        elapsed_s = 0.0 if first_s is None else now_s - first_s
        phase = 'practising' if first_s is not None else 'starting robot, policy and learner'
        snapshot = Snapshot(
            phase=phase,
            elapsed_s=min(elapsed_s, total_s),
            total_s=total_s,
            practice=monitor.practice,
            ticks_per_s=monitor.practice.ticks_per_s(now_s),
            diagnostics=monitor.diagnostics,
        )
        view.show(snapshot)
        processes.check()
        if elapsed_s >= total_s:
            return
        if first_s is None and now_s - started_s > START_TIMEOUT_S:
            waiting = snapshot.value('robot', 'waiting_for')
            raise RobotError(
                f'the robot executed nothing in {START_TIMEOUT_S:.0f} s (it waits for {waiting});'
                f' see {processes.log_folder}'
            )
