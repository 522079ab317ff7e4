# SPDX-License-Identifier: Apache-2.0
"""Records the robot, makes steps of what was recorded, and keeps a trainer process at work.

::

    topics ─raw bytes─▶ recorder ─as recorded─▶ assembler ─steps─▶ trainer process (torch)
                           │                        │                   │
                        bag/                    steps.csv      policies/ ─▶ policy_weights
"""

from __future__ import annotations

import array
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import UInt8MultiArray, UInt64

from qcfql_ros.contract.topics import CHUNK_TOPIC, CREDITS_TOPIC, WEIGHTS_TOPIC, absolute
from qcfql_ros.errors import BagError, QcfqlError
from qcfql_ros.nodes.credits import CreditGate
from qcfql_ros.nodes.diagnostics import Diagnostics
from qcfql_ros.nodes.learner_diagnostics import learner_status
from qcfql_ros.nodes.learner_setup import (
    expected_profiles,
    open_recording,
    policies_beside,
    read_inputs,
    start_trainer,
)
from qcfql_ros.nodes.playback_listener import PlaybackListener
from qcfql_ros.nodes.policy_shelf import PolicyShelf
from qcfql_ros.nodes.process import Stop, run_node
from qcfql_ros.nodes.qos import CREDITS_QOS
from qcfql_ros.nodes.recorded_topics import RecordedTopics
from qcfql_ros.nodes.recording_gap import RecordingGap
from qcfql_ros.nodes.ros_parameters import declare_parameters
from qcfql_ros.nodes.trainer_feed import UNLIMITED, Event, TrainerFeed
from qcfql_ros.nodes.weights import WEIGHTS_QOS, split
from qcfql_ros.parameters import LEARNER_NODE
from qcfql_ros.training.link import TrainerLink

PUMP_S = 0.02
ADAPT_S = 0.2
RECORDING_TICKS = 256
TRAINER_STOP_S = 20.0


class LearnerNode(Node):
    """Wires topics to recorder, assembler and trainer."""

    def __init__(self, stop: Stop) -> None:
        super().__init__('learner')
        self._stop = stop
        self._set = settings = declare_parameters(self, LEARNER_NODE)
        self._run_dir, self._contract = read_inputs(settings)
        namespace = self.get_namespace().strip('/')
        self._chunk = absolute(CHUNK_TOPIC, namespace)

        written = self.create_guard_condition(self._pump)
        self._sim_time = bool(self.get_parameter('use_sim_time').value)
        self._recording, recorder = open_recording(
            settings,
            self._run_dir,
            self._contract,
            namespace,
            written.trigger,
            self._sim_ns if self._sim_time else None,
        )
        self._gap = RecordingGap(recorder.last_ns, recorder.recovery, time.time_ns())
        if recorder.recovery is not None:
            self.get_logger().warning(str(recorder.recovery))
        self._said = ''
        self._shelf = PolicyShelf(
            self._run_dir / 'policies',
            policies_beside(settings.model),
            lambda text: self.get_logger().warning(text),
        )
        self._feed: TrainerFeed | None = None
        if settings.learn:
            self._feed = TrainerFeed(
                self._start_trainer, self._history, lambda text: self.get_logger().error(text)
            )
        self._credits_sent = -1
        self._robot_tick = 0
        self._credits = self.create_publisher(UInt64, CREDITS_TOPIC, CREDITS_QOS)
        self._weights = self.create_publisher(UInt8MultiArray, WEIGHTS_TOPIC, WEIGHTS_QOS)
        self._diagnostics = Diagnostics(self, 'learner: training')
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

        types = self._contract.recorded_topics(namespace)
        profiles = expected_profiles(self._contract, namespace, settings.pacing)
        self._gate = CreditGate()
        self._outcome = absolute(self._contract.outcome.topic, namespace)
        self._playback = PlaybackListener(
            self,
            self._recording,
            self._contract,
            namespace,
            sim_time=self._sim_time,
            warn=lambda text: self.get_logger().warning(text),
            on_bag=lambda path: self._shelf.look_in(path.parent / 'policies'),
        )
        self._topics = RecordedTopics(
            self,
            {topic: (types[topic], profile) for topic, profile in profiles.items()},
            self._playback.hear,
            self._recording.offered,
            lambda text: self.get_logger().info(text),
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(PUMP_S, self._pump, clock=steady)
        self.create_timer(ADAPT_S, self._topics.adapt, clock=steady)
        self.create_timer(1.0, self._diagnose, clock=steady)
        self._pump()
        self.get_logger().info(
            f'recording {self._contract.name} {self._contract.hash[:12]} to {recorder.folder}'
            + (', learning' if settings.learn else '')
        )

    def close(self) -> None:
        """End the session: the last steps to the trainer, the bag closed, a checkpoint."""
        self._playback.close()
        try:
            events = self._recording.finish()
            if self._feed is not None:
                self._feed.add(events)
            self._recording.close()
        except BagError as error:
            self.get_logger().error(str(error))
        if self._feed is not None:
            self._feed.close(TRAINER_STOP_S)

    def _pump(self) -> None:
        """Fifty times a second, and when something was written: trainer and credits."""
        events, digests = self._recording.events()
        for digest in digests:
            if digest not in self._shelf.executed:
                self._recording.do(lambda digest=digest: self._shelf.drove(digest))
        if self._recording.stopped != self._said:
            self._said = self._recording.stopped
            if self._said:
                self.get_logger().error(self._said)
        # Recording alone has nothing to wait for, but a simulator must not outrun the recorder.
        tick = self._recording.assembler.last_tick or self._robot_tick
        credits = tick + RECORDING_TICKS
        held = False
        if self._feed is not None:
            self._feed.add(events)
            try:
                messages = self._feed.pump()
            except QcfqlError as error:
                self._stop.request(error)
                return
            for message in messages:
                if message['kind'] == 'policy':
                    self._publish_policy(message)
            credits = self._feed.credits(tick, self._set.utd_ratio, self._set.warmup_steps)
        # A simulator holds to the pace of learning, and so does the playback of one.
        held = credits <= tick and self._set.pacing == 'lockstep'
        heard = self._heard()
        credits = self._gate.allow(tick if self._said else credits, tick, heard=heard)
        if credits != self._credits_sent:
            self._credits_sent = credits
            self._credits.publish(UInt64(data=credits))
        self._playback.pump(self._topics, 'waiting for the trainer' if held else '')

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        """Learn at which tick a robot is that ran before us; it may wait for our credits."""
        robot = f'{self.get_namespace().rstrip("/")}/robot'
        for status in message.status:
            if status.name == 'robot: pacing' and status.hardware_id == robot:
                values = {pair.key: pair.value for pair in status.values}
                self._robot_tick = int(values.get('tick', 0))

    def _heard(self) -> bool:
        """Whether everything that a tick consists of is recorded."""
        publishers = self._topics.matched()
        planned = publishers.pop(self._chunk)  # what has no chunks is heard without
        others = self._gate.changed(publishers)
        self._topics.forget(others)
        if self._outcome in others:  # another robot may be at another tick
            self._recording.assembler.last_tick = self._robot_tick = 0
        silent = self._topics.silent()
        heard = self._gate.matched and silent <= {self._chunk}
        over = heard and not (planned and silent)
        if over and not self._sim_time and self._gap.heard(time.time_ns()):
            self.get_logger().warning(str(self._gap))
        return heard

    def _publish_policy(self, message: dict) -> None:
        try:
            blob = Path(message['path']).read_bytes()
        except OSError as error:
            self.get_logger().error(f'policy {message["version"]} not published: {error}')
            return
        for part in split(blob, message['version']):
            self._weights.publish(UInt8MultiArray(data=array.array('B', part)))
        self._recording.do(lambda: self._shelf.made(message['digest']))

    def _start_trainer(self) -> TrainerLink:
        # A trainer before this one: its versions are spent.
        version = self._feed.policy.get('version', 0) if self._feed is not None else None
        return start_trainer(self._set, self._run_dir, self._contract, version)

    def _history(self, live: int) -> Iterator[Event]:
        """Yield what the bag gave until now; its last `live` events are this session's."""
        return self._recording.history()

    def _sim_ns(self) -> int:
        """Return the time of /clock in ns; of the system while there is none."""
        return self.get_clock().now().nanoseconds or time.time_ns()

    def _diagnose(self) -> None:
        self._playback.look_for_bag_player()
        for note in self._recording.notes():
            self.get_logger().info(note)
        if self._feed is not None and not self._feed.loading:
            self._recording.loaded()
        sent = self._credits_sent
        more = {
            'credits': sent if sent < UNLIMITED else 'unlimited',
            'resubscribed': self._topics.replaced,
            **self._gap.values(),
        }
        self._diagnostics.publish(*learner_status(self._recording, self._feed, more))


def main(args: list[str] | None = None) -> int:
    """Run the learner until it is asked to stop."""
    return run_node(LearnerNode, args)


if __name__ == '__main__':
    sys.exit(main())
