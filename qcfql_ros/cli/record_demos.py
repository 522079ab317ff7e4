# SPDX-License-Identifier: Apache-2.0
"""Drive the simulated robot with its scripted expert, through its topics, and record a bag.

The bag is an ordinary recording: `qcfql train --dataset_path DIR` learns from it. Ctrl-C at any
moment leaves a valid bag with what was recorded so far.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from qcfql_ros.cli.progress import progress_of
from qcfql_ros.cli.report import add_json_argument, write_report
from qcfql_ros.contract import Contract, load_contract
from qcfql_ros.contract.topics import STEP_TOPIC, absolute
from qcfql_ros.errors import BagError, ParameterError, RobotError

SILENCE_S = 15.0  # longer without a message, the robot is taken for dead
LOOK_EVERY_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument('--robot', default='ur5e_cube', help='which robot (default: %(default)s)')
    parser.add_argument('--contract', help='its contract, by name or file (default: as --robot)')
    parser.add_argument(
        '--steps', type=int, default=100_000, help='ticks to record (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='of robot and expert')
    parser.add_argument(
        '--out', type=Path, required=True, metavar='DIR', help='the bag; new or empty'
    )
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Record, check the bag against what the robot sent, and report."""
    if arguments.steps < 1:
        raise ParameterError(f'--steps is {arguments.steps}; wanted 1 or more')
    if not 0 <= arguments.seed < 2**31:
        raise ParameterError(f'--seed is {arguments.seed}; wanted 0 to {2**31 - 1}')
    contract = load_contract(arguments.contract or arguments.robot)
    out = arguments.out
    # The recorder's lock file stays behind when nothing was recorded.
    if out.exists() and (not out.is_dir() or any(p.name != '.lock' for p in out.iterdir())):
        raise BagError(f'--out {out} exists and is not empty; give a new folder')
    report = _record(arguments, contract)
    write_report(arguments.json, report)
    print(
        f'recorded {report["ticks"]} ticks in {report["episodes"]} episodes, '
        f'{report["solved_ticks"]} of them at the goal, at {report["ticks_per_s"]:.0f} ticks/s: '
        f'{out} ({report["bag_mb"]:.1f} MB)'
    )
    return 130 if report['interrupted'] else 0


def _record(arguments: argparse.Namespace, contract: Contract) -> dict:
    # Late, so that --help and a wrong argument need neither ROS nor a simulator.
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from qcfql_ros.cli.session import node_command, ros_session
    from qcfql_ros.data.recorder import BagRecorder
    from qcfql_ros.nodes.expert_node import ExpertNode
    from qcfql_ros.robots.expert import make_expert

    expert = make_expert(arguments.robot)
    sent: Counter[str] = Counter()
    with (
        _Interrupt() as interrupt,
        tempfile.TemporaryDirectory(prefix='qcfql_record_') as scratch,
        ros_session(Path(scratch)) as processes,
        progress_of('recording') as progress,
    ):
        pace = _Pace()
        recorder = BagRecorder(
            arguments.out,
            contract.recorded_topics(),
            contract_name=contract.name,
            contract_hash=contract.hash,
        )
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        executor = SingleThreadedExecutor()
        try:

            def on_message(topic: str, data: bytes) -> None:
                recorder.write(topic, time.time_ns(), 0, data)
                sent[topic] += 1

            node = ExpertNode(contract, expert, arguments.steps, arguments.seed, on_message)
            executor.add_node(node)
            processes.start(
                'robot',
                node_command(
                    'gym_robot_node',
                    {
                        'robot': arguments.robot,
                        'contract': arguments.contract or arguments.robot,
                        'mode': 'play',
                        'pacing': 'lockstep',
                        'seed': arguments.seed,
                    },
                ),
            )
            heard, heard_at = 0, time.monotonic()
            looked_at = heard_at
            while not node.done and not interrupt.asked:
                executor.spin_once(timeout_sec=0.1)
                now = time.monotonic()
                if now - looked_at < LOOK_EVERY_S:
                    continue
                looked_at = now
                processes.check('robot')
                recorder.maybe_flush(time.time_ns())
                pace.see(node.ticks, now)
                progress(node.ticks / arguments.steps)
                if recorder.messages > heard:
                    heard, heard_at = recorder.messages, now
                elif now - heard_at > SILENCE_S:
                    raise RobotError(
                        f'the robot has sent nothing for {SILENCE_S:g} s; its log ends with: '
                        + ' | '.join(processes.tail('robot', 3))
                    )
            ticks, outcome = node.ticks, node.outcome
            node.destroy_node()
        finally:
            executor.shutdown()
            rclpy.try_shutdown()
            recorder.close()
    report = _check(arguments.out, contract, sent, outcome, interrupt.asked)
    return {
        'ticks': ticks,
        **report,
        'seconds': round(pace.seconds, 3),
        'ticks_per_s': round(pace.rate, 1),
        'interrupted': interrupt.asked,
    }


def _check(out: Path, contract: Contract, sent: Counter, outcome, interrupted: bool) -> dict:
    """Read the whole bag back and hold it against what the robot said that it did.

    Raises:
        BagError: a message is missing from the bag.
    """
    from rosbags.typesys import Stores, get_typestore

    from qcfql_ros.contract.named_vector import decode_outcome
    from qcfql_ros.data.reader import read_bag

    typestore = get_typestore(Stores.ROS2_JAZZY)
    outcome_topic = absolute(contract.outcome.topic)
    found: Counter[str] = Counter()
    solved = 0
    for topic, _, data in read_bag(out) if sent else ():
        found[topic] += 1
        if topic == outcome_topic:
            decoded = decode_outcome(typestore.deserialize_cdr(data, 'sensor_msgs/msg/JointState'))
            solved += decoded.success
    ticks = outcome.tick if outcome else 0
    episodes = outcome.episode + 1 if outcome else 0
    wanted = dict(sent)
    if not interrupted:
        # A set of sensors for each tick and one more for each episode; after an episode's end
        # the robot has begun the next one, whose first sensors may have come in too.
        sensors = {absolute(stream.topic) for stream in contract.streams.values()}
        for topic in sensors:
            extra = wanted.get(topic, 0) - (ticks + episodes)
            wanted[topic] = ticks + episodes + (1 if extra == 1 and outcome.ended else 0)
        for topic in (outcome_topic, absolute(STEP_TOPIC)):
            wanted[topic] = ticks
        for command in contract.action.commands:
            wanted[absolute(command.topic)] = ticks
    for topic, count in wanted.items():
        if found[topic] != count:
            raise BagError(
                f'{out} holds {found[topic]} messages of {topic}, but {count} were sent'
            )
    size = sum(path.stat().st_size for path in out.glob('*.mcap'))
    return {
        'episodes': episodes,
        'solved_ticks': solved,
        'messages': sum(found.values()),
        'bag_mb': round(size / 1e6, 3),
    }


class _Interrupt:
    """Ctrl-C and SIGTERM end the recording between two messages, not in one."""

    asked = False

    def __enter__(self) -> _Interrupt:
        self._old = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


class _Pace:
    """How fast the robot goes, from its first tick that was seen on."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._start_ticks = 0
        self.seconds = 0.0
        self.rate = 0.0

    def see(self, ticks: int, now: float) -> None:
        """Take how many ticks there are."""
        if not ticks:
            return
        if self._start is None:
            self._start, self._start_ticks = now, ticks
        self.seconds = now - self._start
        self.rate = (ticks - self._start_ticks) / self.seconds if self.seconds else 0.0
