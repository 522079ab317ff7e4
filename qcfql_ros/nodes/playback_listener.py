# SPDX-License-Identifier: Apache-2.0
"""The learner's side of a playback: what `qcfql play` plays is recorded as it was recorded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from rclpy.node import Node
from std_msgs.msg import String

from qcfql_ros.contract.schema import Contract
from qcfql_ros.contract.topics import STEP_TOPIC, absolute
from qcfql_ros.data.cdr import peek_stamp_ns
from qcfql_ros.data.playback import (
    ANSWER_TOPIC,
    PIECE_TOPIC,
    PLAYBACK_TOPIC,
    Answer,
    Piece,
    Playback,
    PlayedOrder,
    as_text,
    from_text,
)
from qcfql_ros.data.session_mark import session_topic
from qcfql_ros.errors import MessageError
from qcfql_ros.nodes.qos import ANSWER_QOS, PIECE_QOS, PLAYBACK_QOS
from qcfql_ros.nodes.recorded_topics import RecordedTopics
from qcfql_ros.nodes.recording import Recording

ANSWER_S = 0.2
MOST_WAITING = 10_000
READ_IT = 'to learn from a recording, read its file: qcfql train --dataset_path BAG'
ROSBAG2_PLAYER = 'rosbag2_player'


class PlaybackListener:
    """Stands between what is heard and the recording.

    Args:
        node: of the learner.
        recording: is given everything.
        contract: what the messages mean.
        namespace: of the robot.
        sim_time: whether the node takes its time from /clock.
        warn: told in one line what is wrong.
        on_bag: told the path of a recording that is played, if it is on this machine.
    """

    def __init__(
        self,
        node: Node,
        recording: Recording,
        contract: Contract,
        namespace: str,
        *,
        sim_time: bool,
        warn: Callable[[str], None],
        on_bag: Callable[[Path], None] = lambda path: None,
    ) -> None:
        self._node, self._recording, self._contract = node, recording, contract
        self._sim_time, self._warn, self._on_bag = sim_time, warn, on_bag
        self._recorded = contract.recorded_topics(namespace)
        self._mark = session_topic(namespace)
        self._step = absolute(STEP_TOPIC, namespace)
        self._streams = {absolute(s.topic, namespace): s for s in contract.streams.values()}
        self._name = f'{node.get_fully_qualified_name()} ({os.getpid()})'
        self._order: PlayedOrder | None = None
        self._begun = self._marked = False
        self._answer: Answer | None = None
        self._answered_s = 0.0
        self._warned: set[str] = set()
        names = (PLAYBACK_TOPIC, PIECE_TOPIC, ANSWER_TOPIC)
        about, pieces, answers = (absolute(name, namespace) for name in names)
        self._answers = node.create_publisher(String, answers, ANSWER_QOS)
        self._about = node.create_subscription(String, about, self._on_playback, PLAYBACK_QOS)
        node.create_subscription(String, pieces, self._on_piece, PIECE_QOS)

    def hear(self, topic: str, publish_ns: int, data: bytes) -> None:
        """Take what a subscription heard."""
        order = self._order
        if order is not None and not order.over and topic in order.topics:
            order.hear(topic, data)
            return
        self._say_unannounced()
        self._recording.accept(topic, publish_ns, data)

    def pump(self, topics: RecordedTopics, waits: str = '') -> None:
        """Record what is complete, and answer the player; call it some times a second.

        Args:
            topics: the subscriptions.
            waits: why nothing more is to be taken for now; empty to go on.
        """
        if self._answer is None:
            return
        if not self._about.get_publisher_count():
            self.close()
            return
        order, before = self._order, self._answer
        refuses, piece = before.refuses, before.piece
        if order is not None and not refuses:
            if not self._begun:
                waits = topics.unsettled(order.topics)
                piece = -1 if waits else 0
            else:
                while not (waits := waits or self._behind()) and self._give(order):
                    pass
                piece = order.taken
                short = ', '.join(f'{count} of {name}' for name, count in order.missing().items())
                waits = waits or (f'not heard yet: {short}' if short else '')
            refuses = order.broken or self._recording.stopped
        self._answer = Answer(
            before.id,
            self._name,
            piece,
            order.topics if order is not None else (),
            order.messages if order is not None else 0,
            waits,
            refuses,
        )
        now_s = time.monotonic()
        if now_s >= self._answered_s + ANSWER_S or piece != before.piece:
            self._answered_s = now_s
            self._answers.publish(String(data=as_text(self._answer)))

    def look_for_bag_player(self) -> None:
        """Warn, once, of a recording that is played by ros2 bag; call it now and then."""
        found = self._node.get_publishers_info_by_topic(self._step)
        if any(info.node_name.startswith(ROSBAG2_PLAYER) for info in found):
            self._warn_once(
                f'`ros2 bag play` plays {self._step}: steps will be missing; {READ_IT}'
            )

    def close(self) -> None:
        """Let go of the player, and say what is lost if it had not come to its end."""
        order = self._order
        if order is not None and not order.over and self._begun:
            self._warn(
                f'{order.playback.bag} broke off: {order.messages} messages recorded, '
                f'{order.held} not, whose order was not told any more'
            )
        self._order = self._answer = None
        self._begun = False

    def _give(self, order: PlayedOrder) -> bool:
        """Record the next piece, if it is complete."""
        messages = order.take()
        for topic, receive_ns, publish_ns, data in messages or ():
            if topic == self._mark:
                self._recording.begin(receive_ns)
                self._marked = True
                continue
            if not self._marked:
                self._recording.begin(receive_ns - 1)
                self._marked = True
            stream = self._streams.get(topic)
            if stream is not None and not (stream.stamped and peek_stamp_ns(data)):
                self._warn_once(
                    f'{topic} has no stamps, so when it was received decides: steps may differ '
                    f'from those of the recording; {READ_IT}'
                )
            self._recording.accept(topic, publish_ns, data, receive_ns)
        if order.over and messages is not None:
            self._node.get_logger().info(
                f'{order.playback.bag} is over: {order.messages} messages recorded'
            )
        return messages is not None

    def _behind(self) -> str:
        waiting = self._recording.waiting
        return f'{waiting} messages wait for the disk' if waiting > MOST_WAITING else ''

    def _on_playback(self, message: String) -> None:
        try:
            playback = from_text(Playback, message.data)
        except MessageError as error:
            self._warn(f'{self._about.topic_name}: {error}')
            return
        if self._answer is not None and playback.id == self._answer.id:
            self._begun = playback.begun
            return
        self.close()
        refuses = self._refuses(playback)
        self._answer = Answer(playback.id, self._name, refuses=refuses)
        self._answered_s = 0.0
        if refuses:
            self._warn(f'{playback.bag} is played, and not recorded in its order: {refuses}')
            return
        self._order = PlayedOrder(playback, self._recorded, {self._mark})
        self._begun = self._marked = False
        about = {
            'bag': playback.bag,
            'contract_hash': playback.contract_hash,
            'fingerprint': playback.fingerprint,
        }
        self._recording.replayed_from(about)
        if Path(playback.bag).exists():
            self._on_bag(Path(playback.bag))
        self._node.get_logger().info(
            f'{playback.bag} is played: recording {len(self._order.topics)} of its '
            f'{len(playback.topics)} topics'
        )
        if self._step not in playback.topics:
            self._warn(f'{playback.bag} has no {self._step}, so no step comes of it; {READ_IT}')

    def _refuses(self, playback: Playback) -> str:
        """Return why this node cannot take part; empty if it can."""
        if not self._sim_time:
            return (
                'runs without use_sim_time, so it would stamp everything with the system clock; '
                'start it with -p use_sim_time:=true'
            )
        if playback.begun:
            return 'came when it was being played already; start the learner first'
        if playback.contract_hash and playback.contract_hash != self._contract.hash:
            return (
                f'{playback.bag} was recorded under contract {playback.contract_hash[:12]}, this '
                f'one is {self._contract.name} ({self._contract.hash[:12]}); give the contract it '
                'was recorded under'
            )
        return self._recording.stopped

    def _on_piece(self, message: String) -> None:
        if self._order is None:
            return
        try:
            self._order.add(from_text(Piece, message.data))
        except MessageError as error:
            self._warn(str(error))

    def _say_unannounced(self) -> None:
        """Warn, once, that /clock alone says when a message was received."""
        if not self._sim_time:
            return
        if self._node.get_clock().now().nanoseconds:
            self._warn_once(
                'use_sim_time, and messages that `qcfql play` did not announce: they are stamped '
                'with /clock as it is heard. If a recording is played, steps will be missing or '
                f'differ; {READ_IT}'
            )
        else:
            self._warn_once(
                'use_sim_time, and nothing on /clock: messages are stamped with the system clock'
            )

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text)
