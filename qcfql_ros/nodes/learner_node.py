# SPDX-License-Identifier: Apache-2.0
"""Records the robot, makes steps of what was recorded, and keeps a trainer process at work.

::

    topics ─raw bytes─▶ recorder ─as recorded─▶ assembler ─steps─▶ trainer process (torch)
                           │                        │                   │
                        bag/                    steps.csv      policies/ ─▶ policy_weights
"""

from __future__ import annotations

import array
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import UInt8MultiArray, UInt64

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.topics import CHUNK_TOPIC, CREDITS_TOPIC, WEIGHTS_TOPIC, absolute
from qcfql_ros.data.assembler import Assembler
from qcfql_ros.data.bag_metadata import Topic
from qcfql_ros.data.dataset import check_contract, load_dataset
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.session_mark import SESSION_TYPE, session_mark, session_topic
from qcfql_ros.data.step_log import StepLog
from qcfql_ros.errors import BagError, ParameterError, QcfqlError
from qcfql_ros.nodes.policy_shelf import PolicyShelf
from qcfql_ros.nodes.process import Stop, run_node
from qcfql_ros.nodes.qos import CREDITS_QOS, RECORD_QOS, command_qos, sensor_qos
from qcfql_ros.nodes.ros_parameters import declare_parameters
from qcfql_ros.nodes.trainer_feed import UNLIMITED, Event, TrainerFeed
from qcfql_ros.nodes.weights import WEIGHTS_QOS, split
from qcfql_ros.parameters import LEARNER_NODE
from qcfql_ros.training.file_headers import check_contract_of, read_state_header
from qcfql_ros.training.link import TrainerLink

PUMP_S = 0.02
SETTLE_S = 0.3
RECORDING_TICKS = 256
QUEUE = 1000  # a stalled disk or a busy core must not cost messages
TRAINER_STOP_S = 20.0


class LearnerNode(Node):
    """Wires topics to recorder, assembler and trainer."""

    def __init__(self, stop: Stop) -> None:
        super().__init__('learner')
        self._stop = stop
        self._set = settings = declare_parameters(self, LEARNER_NODE)
        if not settings.run_dir:
            raise ParameterError("run_dir: got '', wanted the folder of this run")
        self._run_dir = Path(settings.run_dir).expanduser()
        self._contract = contract = load_contract(settings.contract)
        self._refuse_bad_inputs()

        namespace = self.get_namespace().strip('/')
        self._bag = self._run_dir / 'bag'
        profiles = self._profiles(namespace)
        self._recorder = BagRecorder(
            self._bag,
            [*_bag_topics(contract, namespace, profiles), _session_topic(namespace)],
            contract_name=contract.name,
            contract_hash=contract.hash,
            namespace=namespace,
        )
        self._old_files = self._recorder.closed_files
        self._log = StepLog(self._run_dir / 'steps.csv')
        if self._recorder.recovery is not None:
            self.get_logger().warning(str(self._recorder.recovery))
        self._assembler = Assembler(contract, namespace)
        self._feed: TrainerFeed | None = None
        self._recording_failed = ''
        self._chunk = absolute(CHUNK_TOPIC, namespace)

        self._shelf = PolicyShelf(
            self._run_dir / 'policies',
            _policies_beside(settings.model),
            lambda text: self.get_logger().warning(text),
        )
        if settings.learn:
            self._feed = TrainerFeed(
                self._start_trainer, self._history, lambda text: self.get_logger().error(text)
            )
        self._credits_sent = -1
        self._robot_tick = 0
        self._credits = self.create_publisher(UInt64, CREDITS_TOPIC, CREDITS_QOS)
        self._weights = self.create_publisher(UInt8MultiArray, WEIGHTS_TOPIC, WEIGHTS_QOS)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

        mark = session_mark(contract.name, contract.hash, time.time_ns())
        self._on_message(session_topic(namespace), mark, {})
        types = contract.recorded_topics(namespace)
        self._publisher_counts: list[int] = []
        self._counted_s = 0.0
        self._subscribed = {
            topic: self.create_subscription(
                message_class(types[topic]),
                topic,
                _with_info(partial(self._on_message, topic)),
                profile,
                raw=True,
            )
            for topic, profile in profiles.items()
        }
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(PUMP_S, self._pump, clock=steady)
        self.create_timer(1.0, self._diagnose, clock=steady)
        self._pump()
        self.get_logger().info(
            f'recording {contract.name} {contract.hash[:12]} to {self._bag}'
            + (', learning' if settings.learn else '')
        )

    def close(self) -> None:
        """End the session: the last steps to the trainer, the bag closed, a checkpoint."""
        if not self._recording_failed:
            self._take(self._assembler.finish())
        try:
            self._recorder.close()
        except BagError as error:
            self.get_logger().error(str(error))
        self._log.close()
        if self._feed is not None:
            self._feed.close(TRAINER_STOP_S)

    def _refuse_bad_inputs(self) -> None:
        """Raise a QcfqlError before anything is written."""
        settings = self._set
        if not settings.learn:
            return
        self._contract.require_no_images_for_training()
        if settings.model:
            check_contract_of(settings.model, read_state_header(settings.model), self._contract)
        for bag in _bags(settings.demos):
            check_contract(Path(bag), self._contract)

    def _profiles(self, namespace: str) -> dict[str, QoSProfile]:
        """Return the profile to subscribe with, by absolute topic name."""
        contract, pacing = self._contract, self._set.pacing
        profiles = dict.fromkeys(contract.recorded_topics(namespace), RECORD_QOS)
        for stream in (*contract.streams.values(), *contract.images.values()):
            profiles[absolute(stream.topic, namespace)] = _deep(sensor_qos(pacing))
        for command in contract.action.commands:
            profiles[absolute(command.topic, namespace)] = _deep(command_qos(pacing))
        return profiles

    def _on_message(self, topic: str, data: bytes, info: dict) -> None:
        if self._recording_failed:
            return
        try:
            receive_ns = self._recorder.write(
                topic, time.time_ns(), info.get('source_timestamp', 0), data
            )
        except BagError as error:
            self._stop_recording(error)
            return
        events = self._assembler.push(topic, receive_ns, data)
        if events:
            self._take(events)
        if topic == self._chunk and self._assembler.last_chunk is not None:
            self._shelf.drove(self._assembler.last_chunk.digest)

    def _take(self, events: Sequence[Event]) -> None:
        self._log.add(events)
        if self._feed is not None:
            self._feed.add(events)

    def _stop_recording(self, error: BagError) -> None:
        """What is not in the bag is not in the buffer: nothing more is learned from either."""
        self._recording_failed = str(error)
        self.get_logger().error(str(error))
        self._take(self._assembler.finish('recording_stopped'))

    def _pump(self) -> None:
        """Fifty times a second: disk, trainer, credits."""
        now_ns = time.time_ns()
        if not self._recording_failed:
            try:
                if self._recorder.maybe_flush(now_ns):
                    self._log.flush()
            except BagError as error:
                self._stop_recording(error)
        # Recording alone has nothing to wait for, but a simulator must not outrun the recorder.
        tick = self._assembler.last_tick or self._robot_tick
        credits = tick + RECORDING_TICKS
        if self._feed is not None:
            try:
                messages = self._feed.pump()
            except QcfqlError as error:
                self._stop.request(error)
                return
            for message in messages:
                if message['kind'] == 'policy':
                    self._publish_policy(message)
            credits = self._feed.credits(tick, self._set.utd_ratio, self._set.warmup_steps)
        if not self._matched():
            credits = tick
        if credits != self._credits_sent:
            self._credits_sent = credits
            self._credits.publish(UInt64(data=credits))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        """Learn at which tick a robot is that ran before us; it may wait for our credits."""
        robot = f'{self.get_namespace().rstrip("/")}/robot'
        for status in message.status:
            if status.name == 'robot: pacing' and status.hardware_id == robot:
                values = {pair.key: pair.value for pair in status.values}
                self._robot_tick = int(values.get('tick', 0))

    def _matched(self) -> bool:
        """Whether everything that a tick consists of would be recorded.

        Our seeing a publisher is not yet its seeing us; that takes about as long again.
        """
        counts = [s.get_publisher_count() for t, s in self._subscribed.items() if t != self._chunk]
        if counts != self._publisher_counts:
            self._publisher_counts = counts
            self._counted_s = time.monotonic()
        return all(counts) and time.monotonic() > self._counted_s + SETTLE_S

    def _publish_policy(self, message: dict) -> None:
        try:
            blob = Path(message['path']).read_bytes()
        except OSError as error:
            self.get_logger().error(f'policy {message["version"]} not published: {error}')
            return
        for part in split(blob, message['version']):
            self._weights.publish(UInt8MultiArray(data=array.array('B', part)))
        self._shelf.made(message['digest'])

    def _start_trainer(self) -> TrainerLink:
        settings = self._set
        arguments = {
            '--contract': self._contract.file,
            '--run-dir': str(self._run_dir),
            '--utd-ratio': settings.utd_ratio,
            '--warmup-steps': settings.warmup_steps,
            '--publish-every-s': settings.publish_every_s,
            '--demo-fraction': settings.demo_fraction,
            '--behavior-weighting': settings.behavior_weighting,
            '--seed': settings.seed,
        }
        if self._feed is not None:  # a trainer before this one: its versions are spent
            arguments['--policy-version'] = self._feed.policy.get('version', 0)
        if settings.model:
            arguments['--state'] = settings.model
        words = [str(text) for pair in arguments.items() for text in pair]
        if settings.demos:
            words += ['--demos', *_bags(settings.demos)]
        return TrainerLink.start(words)

    def _history(self, live: int) -> Iterator[Event]:
        """Yield the steps of earlier sessions, then the first `live` events of this one."""
        parts: list[Iterator[Event]] = []
        if self._old_files:
            old = slice(0, self._old_files)
            parts.append(load_dataset(self._bag, self._contract, splits=old))
        if live:
            if not self._recording_failed:
                self._recorder.flush()
            new = slice(self._old_files, None)
            parts.append(islice(load_dataset(self._bag, self._contract, splits=new), live))
        return chain.from_iterable(parts)

    def _diagnose(self) -> None:
        counters = self._assembler.counters
        values = {
            'steps': counters['steps'],
            'segments': counters['segments'],
            'episodes': counters['episodes'],
            'messages': counters['messages'],
            'dropped_steps': sum(n for k, n in counters.items() if k.startswith('dropped_')),
            'bag': str(self._bag),
            'credits': self._credits_sent if self._credits_sent < UNLIMITED else 'unlimited',
        }
        values |= {k: n for k, n in sorted(counters.items()) if k not in values and n}
        level, text = DiagnosticStatus.OK, 'recording'
        feed = self._feed
        if feed is not None:
            status = feed.status
            text = 'loading' if feed.loading else 'learning'
            for key in ('buffer', 'updates', 'updates_per_s'):
                values[key] = _short(status.get(key, 0))
            values['policy_version'] = feed.policy.get('version', status.get('policy_version', 0))
            values['trainer_restarts'] = feed.restarts
            values |= {name: _short(loss) for name, loss in status.get('losses', {}).items()}
            if status.get('warning'):
                level, text = DiagnosticStatus.WARN, status['warning']
            if status.get('stopped'):
                level, text = DiagnosticStatus.ERROR, f'learning stopped: {status["stopped"]}'
            if status.get('disk_error'):
                level, text = DiagnosticStatus.ERROR, status['disk_error']
        if self._log.failed:
            level, text = DiagnosticStatus.WARN, self._log.failed
        if self._recording_failed:
            level, text = DiagnosticStatus.ERROR, self._recording_failed
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [
            DiagnosticStatus(
                level=level,
                name='learner: training',
                message=text,
                hardware_id=self.get_fully_qualified_name(),
                values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
            )
        ]
        self._diagnostics.publish(message)


def _bag_topics(contract, namespace: str, profiles: dict[str, QoSProfile]) -> list[Topic]:
    return [
        Topic(name, type_name, profiles[name].reliability.name.lower())
        for name, type_name in contract.recorded_topics(namespace).items()
    ]


def _session_topic(namespace: str) -> Topic:
    return Topic(session_topic(namespace), SESSION_TYPE)


def _deep(profile: QoSProfile) -> QoSProfile:
    """Return the same profile with a queue for a recorder."""
    return QoSProfile(depth=QUEUE, reliability=profile.reliability, durability=profile.durability)


def _with_info(callback):
    """rclpy counts the parameters of a callback; two mean that it wants the message info."""

    def on_message(data, info):
        callback(data, info)

    return on_message


def _bags(demos: str) -> list[str]:
    return [path for path in demos.split(os.pathsep) if path]


def _policies_beside(model: str) -> list[Path]:
    """Return the files that the policy node may have been started from."""
    return sorted(Path(model).parent.glob('*.safetensors')) if model else []


def _short(value) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def main(args: list[str] | None = None) -> int:
    """Run the learner until it is asked to stop."""
    return run_node(LearnerNode, args)


if __name__ == '__main__':
    sys.exit(main())
