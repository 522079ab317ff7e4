# SPDX-License-Identifier: Apache-2.0
"""Measure how often a policy succeeds, through the whole ROS loop.

Starts the simulated robot and the policy node, counts episodes and states the success rate with
its 95 % Wilson interval. In lockstep the same seed gives the same episodes, message by message:
`ticks_sha256`, over the stamp, the outcome and the executed action of every tick, says so. With
--wall the robot runs at its real rate.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qcfql_ros.cli.practice import Episode
from qcfql_ros.cli.processes import Processes
from qcfql_ros.cli.report import add_json_argument, write_report
from qcfql_ros.cli.session import node_command, ros_session
from qcfql_ros.cli.shipped_models import find_model
from qcfql_ros.contract import load_contract
from qcfql_ros.contract.named_vector import Outcome, outcome_fields
from qcfql_ros.contract.topics import STEP_TOPIC
from qcfql_ros.data.cdr import peek_stamp_ns
from qcfql_ros.errors import ParameterError, RobotError
from qcfql_ros.training.wilson import wilson_interval

SILENCE_LIMIT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('--model', required=True, help='policy file, or name of a shipped model')
    parser.add_argument('--contract', required=True, help='name or path of the contract')
    parser.add_argument('--robot', help="simulated robot; the contract's name by default")
    parser.add_argument('--episodes', type=int, default=100)
    parser.add_argument('--seed', type=int, default=10_000, help='of episodes and noise')
    parser.add_argument('--wall', action='store_true', help='at the real rate, not in lockstep')
    parser.add_argument('--device', default='cpu', help='auto, cpu or cuda')
    parser.add_argument('--logs', type=Path, help='keep the logs of the nodes in this folder')
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; see the module's text."""
    if arguments.episodes < 1:
        raise ParameterError(f'--episodes is {arguments.episodes}; wanted at least 1')
    contract = load_contract(arguments.contract)
    model = find_model(arguments.model)
    from qcfql_ros.algorithm.policy import ChunkPolicy

    policy = ChunkPolicy.load(model.policy)
    started = time.monotonic()
    with _folder(arguments.logs) as folder, ros_session(folder) as processes:
        shared = {
            'contract': arguments.contract,
            'pacing': 'wall' if arguments.wall else 'lockstep',
            'seed': arguments.seed,
        }
        policy_settings = {'model': str(model.policy.absolute()), 'device': arguments.device}
        robot_settings = {
            'robot': arguments.robot or contract.name,
            'episodes': arguments.episodes,
            'expected_listeners': 1,  # this process: no episode may go uncounted
        }
        processes.start('policy', node_command('policy_node', shared | policy_settings))
        processes.start('robot', node_command('gym_robot_node', shared | robot_settings))
        episodes, digest = _watch(processes, contract.outcome.topic, arguments.episodes)
        processes.stop('robot', 'policy')
    seconds = time.monotonic() - started
    successes = sum(episode.success for episode in episodes)
    low, high = wilson_interval(successes, len(episodes))
    ticks = sum(episode.ticks for episode in episodes)
    report = {
        'model_digest': policy.digest,
        'contract_hash': contract.hash,
        'success_timing': contract.success_timing,
        'pacing': shared['pacing'],
        'seed': arguments.seed,
        'episodes': len(episodes),
        'successes': successes,
        'success': successes / len(episodes),
        'success_low': low,
        'success_high': high,
        'ticks': ticks,
        'mean_episode_ticks': ticks / len(episodes),
        'ticks_per_s': ticks / seconds,
        'seconds': seconds,
        'ticks_sha256': digest,
    }
    write_report(arguments.json, report)
    print(
        f'{successes} of {len(episodes)} episodes succeed: {100 * report["success"]:.1f} % '
        f'(95 % Wilson interval {100 * low:.1f} to {100 * high:.1f}), {report["pacing"]}, seed '
        f'{arguments.seed}\nmean length {report["mean_episode_ticks"]:.1f} ticks, '
        f'{report["ticks_per_s"]:.0f} ticks/s with start-up, policy {policy.digest[:12]}\n'
        f'ticks sha256 {digest}'
    )
    return 0


@contextlib.contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        yield wanted
        return
    with tempfile.TemporaryDirectory(prefix='qcfql_evaluate_') as made:
        yield Path(made)


def _watch(processes: Processes, outcome_topic: str, wanted: int) -> tuple[list[Episode], str]:
    """Wait for `wanted` episodes; return them and the digest of every outcome and action."""
    from sensor_msgs.msg import JointState

    from qcfql_ros.cli.demo_monitor import DemoMonitor

    outcomes: list[Outcome] = []
    steps: dict[int, bytes] = {}

    def hear_step(data: bytes) -> None:
        steps[peek_stamp_ns(data) or 0] = data

    with DemoMonitor(outcome_topic, outcomes.append) as monitor:
        matched = monitor.hear_raw(STEP_TOPIC, JointState, hear_step)
        deadline_s = time.monotonic() + SILENCE_LIMIT_S
        while not matched():
            monitor.spin(0.1)
            processes.check()
            if time.monotonic() > deadline_s:
                raise RobotError(f'the policy node was silent for {SILENCE_LIMIT_S:.0f} s')
        monitor.hear_outcomes()  # the robot waits for this, so no step can be missed either
        said = 0
        heard_s, ticks = time.monotonic(), 0
        while len(monitor.practice.episodes) < wanted:
            monitor.spin(0.25)
            processes.check()
            done = len(monitor.practice.episodes)
            if done >= said + max(1, wanted // 10):
                said = done
                print(f'{done}/{wanted} episodes, {_share(monitor.practice)}', flush=True)
            if monitor.practice.ticks != ticks:
                heard_s, ticks = time.monotonic(), monitor.practice.ticks
            elif time.monotonic() - heard_s > SILENCE_LIMIT_S:
                raise RobotError(
                    f'the robot was silent for {SILENCE_LIMIT_S:.0f} s after {ticks} ticks; the '
                    f'logs in {processes.log_folder} say why (keep them with --logs)'
                )
        episodes = monitor.practice.episodes[:wanted]
    return episodes, _digest(outcomes[: sum(episode.ticks for episode in episodes)], steps)


def _digest(outcomes: Sequence[Outcome], steps: Mapping[int, bytes]) -> str:
    """Return the SHA-256 over stamp, outcome and step message of each tick, in order."""
    digest = hashlib.sha256()
    for outcome in outcomes:
        values = outcome_fields(outcome)[1]
        digest.update(struct.pack(f'<q{len(values)}d', outcome.stamp_ns, *values))
        if outcome.stamp_ns not in steps:
            raise RobotError(
                f'tick {outcome.tick} of episode {outcome.episode} was executed, but its step was '
                'not heard; run the evaluation again on a quieter machine'
            )
        digest.update(steps[outcome.stamp_ns])
    return digest.hexdigest()


def _share(practice: Any) -> str:
    return f'{practice.successes()[0]} successes'
