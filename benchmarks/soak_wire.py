# SPDX-License-Identifier: Apache-2.0
"""Lockstep ticks over DDS: policy_node, gym_robot_node and the judge, each a process."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from soak_lockstep import make_policy, resident_kib

from qcfql_ros.cli.processes import Processes
from qcfql_ros.cli.session import node_command, ros_session
from qcfql_ros.contract import load_contract
from qcfql_ros.contract.named_vector import decode_outcome
from qcfql_ros.nodes.qos import RECORD_QOS

SILENCE_S = 30.0


class CheckerProcess:
    """The judge in a process of its own; it listens when this returns."""

    def __init__(self, contract: Path, *options: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name('soak_checker.py'))]
        self._process = subprocess.Popen(
            [*command, str(contract), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._expect('ready')

    def wait_matched(self) -> None:
        """Wait until every command topic has a publisher, which it hears."""
        self._expect('matched')

    def _expect(self, word: str) -> None:
        said = ''
        if select.select([self._process.stdout], [], [], SILENCE_S)[0]:
            said = self._process.stdout.readline().strip()
        if said != word:
            self.kill()
            raise RuntimeError(f'the checker said {said!r}, wanted {word!r} within {SILENCE_S} s')

    def report(self) -> dict[str, Any]:
        """End it; return what it counted."""
        out, _ = self._process.communicate(timeout=SILENCE_S)
        return json.loads(out.splitlines()[-1])

    def kill(self) -> None:
        """End it whatever it does."""
        self._process.kill()
        self._process.wait()


def run_wire(ticks: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run until the robot has executed `ticks` ticks.

    Raises:
        ProcessError: a node ended by itself.
        RuntimeError: no tick came for 30 s.
    """
    contract = load_contract('point_reach')
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / 'policy.safetensors'
    model.write_bytes(make_policy(contract, 0, seed, 100.0).to_bytes())
    with ros_session(folder) as processes:
        checker = CheckerProcess(Path(contract.file), '--lockstep')
        try:
            heard = _drive(processes, checker, ticks, seed, model)
        except BaseException:
            checker.kill()
            raise
        processes.stop('policy')
        report = checker.report()
    if report['counts'].get('commands', 0) < ticks:
        report['violations']['missing'] = ticks - report['counts'].get('commands', 0)
    return {**report, **heard}


def _drive(
    processes: Processes, checker: CheckerProcess, ticks: int, seed: int, model: Path
) -> dict[str, Any]:
    found: dict[str, Any] = {'ticks': 0, 'episodes': 0}
    rclpy.init(args=[])
    node = rclpy.create_node('soak_listener')
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def on_outcome(message: JointState) -> None:
        outcome = decode_outcome(message)
        found['ticks'], found['episodes'] = outcome.tick, outcome.episode + 1

    node.create_subscription(JointState, 'outcome', on_outcome, RECORD_QOS)
    common = {'contract': 'point_reach', 'pacing': 'lockstep', 'seed': seed}
    processes.start('policy', node_command('policy_node', {**common, 'model': str(model)}))
    checker.wait_matched()
    robot = {**common, 'robot': 'point_reach', 'expected_listeners': 1}
    processes.start('robot', node_command('gym_robot_node', robot))
    try:
        began_s = before_s = time.monotonic()
        warm_kib, warm_s, before = 0, began_s, 0
        while found['ticks'] < ticks:
            executor.spin_once(timeout_sec=0.1)
            if not warm_kib and found['ticks'] >= ticks // 10:
                warm_kib, warm_s = resident_kib(processes.pid('policy')), time.monotonic()
            if found['ticks'] != before:
                before, before_s = found['ticks'], time.monotonic()
            elif time.monotonic() - before_s > SILENCE_S:
                raise RuntimeError(f'no tick for {SILENCE_S:g} s after {before}')
            processes.check()
        ended_s, kib = time.monotonic(), resident_kib(processes.pid('policy'))
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return {
        **found,
        'seconds': ended_s - began_s,
        'memory_kib': kib,
        'growth_kib': kib - warm_kib,
        'growth_s': ended_s - warm_s,
    }
