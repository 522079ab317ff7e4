# SPDX-License-Identifier: Apache-2.0
"""The wall-clock part of the soak: the real policy node against a robot that does wrong."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from soak_lockstep import make_policy, resident_kib
from soak_robot import SoakRobot
from soak_wire import CheckerProcess

from qcfql_ros.cli.processes import ProcessError, Processes
from qcfql_ros.cli.session import node_command, ros_session
from qcfql_ros.contract import load_contract

CONTRACT = Path(__file__).with_name('soak_contract.yaml')
LATE_SHARE, LATE_S = 0.02, 0.2
START_S = 60.0
QUIET_S = 2.0
STOP_S = 30.0
SAMPLE_S = 60.0
SHOWN = ('ticks', 'holds', 'chunks', 'chunk_misses', 'episodes', 'refused', 'clipped')
SHOWN += ('late_ticks', 'missed_ticks', 'accepted_weights', 'rejected_weights')


def run_wall(seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """Run for `seconds` with faults, a moment more without, and end in order.

    Raises:
        RuntimeError: the policy node did not come up.
    """
    contract = load_contract(CONTRACT)
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / 'policy.safetensors'
    model.write_bytes(make_policy(contract, 0, seed, 100.0).to_bytes())
    with ros_session(folder) as processes:
        checker = CheckerProcess(CONTRACT)
        rclpy.init(args=[])
        robot = SoakRobot(contract, seed)
        spinning = threading.Thread(target=_spin, args=(robot,), daemon=True)
        spinning.start()
        try:
            settings = {'contract': str(CONTRACT), 'model': str(model), 'pacing': 'wall'}
            command = node_command('policy_node', {**settings, 'seed': seed, 'use_sim_time': True})
            script = str(Path(__file__).with_name('soak_policy.py'))
            late = (str(seed), str(LATE_SHARE), str(LATE_S))
            arguments = command[command.index('--ros-args') :]
            processes.start('policy', [sys.executable, script, *late, *arguments])
            try:
                heard = _drive(robot, processes, seconds)
            except ProcessError as error:  # what it did until then is judged all the same
                robot.failures.append(str(error))
                heard = {'seconds': 0.0, 'growth_kib': 0, 'growth_s': 0.0}
            status = processes.stop('policy', timeout_s=STOP_S)['policy']
            if status != 0:
                robot.failures.append(f'the policy node ended with status {status}')
        except BaseException:
            checker.kill()
            raise
        finally:
            rclpy.try_shutdown()
            spinning.join(timeout=5.0)
        report = checker.report()
    return _judged(report, robot, heard)


def _spin(robot: SoakRobot) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(robot)
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def _drive(robot: SoakRobot, processes: Processes, seconds: float) -> dict[str, Any]:
    """Tick on a grid of the monotonic clock; a late tick is skipped."""
    period_s = robot.contract.period_ns * 1e-9
    began_s = due_s = time.monotonic()
    ready_s = warm_s = quiet_s = None
    warm_kib = 0
    samples: list[int] = []
    while True:
        time.sleep(max(0.0, due_s - time.monotonic()))
        robot.tick()
        now_s = time.monotonic()
        due_s += period_s * max(1, int((now_s - due_s) / period_s))
        processes.check()
        if ready_s is None:
            if robot.ready() and robot.diagnostics.get('ticks', '0') != '0':
                ready_s = now_s
                robot.begin_faults()
            elif now_s - began_s > START_S:
                raise RuntimeError(f'the policy node does not drive after {START_S:g} s')
        elif quiet_s is None:
            if warm_s is None and now_s - ready_s > min(240.0, seconds / 4):
                warm_s, warm_kib = now_s, resident_kib(processes.pid('policy'))
            if now_s - ready_s > len(samples) * SAMPLE_S:
                samples.append(resident_kib(processes.pid('policy')))
            if now_s - ready_s > seconds and robot.end_faults():
                quiet_s = now_s
        elif now_s - quiet_s > QUIET_S:
            break
    kib = resident_kib(processes.pid('policy'))
    return {
        'seconds': now_s - ready_s,
        'memory_kib': kib,
        'growth_kib': kib - warm_kib,
        'growth_s': now_s - (warm_s or now_s),
        'memory_samples_kib': samples,
    }


def _judged(report: dict[str, Any], robot: SoakRobot, heard: dict[str, Any]) -> dict[str, Any]:
    """Put together what the judge, the robot and the policy node say; hold them together."""
    said = robot.diagnostics
    for failure in robot.failures:
        report['violations']['robot'] = report['violations'].get('robot', 0) + 1
        report['said'].append(failure)
    accepted, good = int(said.get('accepted_weights', 0)), robot.injected['weights: good']
    if accepted > good or (good > 2 and not accepted):
        report['violations']['weights'] = 1
        report['said'].append(f'{accepted} weights accepted, {good} good ones sent')
    if report['counts'].get('commands', 0) < heard['seconds'] * 20:
        report['violations']['silence'] = 1
        report['said'].append(f'{report["counts"].get("commands", 0)} commands only')
    shown = {name: int(float(said[name])) for name in SHOWN if name in said}
    return {**report, 'injected': dict(robot.injected), 'policy': shown, **heard}
