# SPDX-License-Identifier: Apache-2.0
"""Publishes a recording, with its receive stamps on /clock, as fast as listeners take it.

::

    player                              learner (use_sim_time)
    playback: what is played   ───────▶ checks it, connects
                               ◀─────── playback/answer: ready
    /clock and messages        ───────▶ keeps them
    playback/piece: their order ──────▶ records them in it
                               ◀─────── playback/answer: piece taken

`qcfql_ros.data.playback` has the contents. Other listeners need none of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from rclpy._rclpy_pybind11 import RCLError
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.topics import absolute
from qcfql_ros.data.bag_file import Channel, Message
from qcfql_ros.data.playback import (
    ANSWER_TOPIC,
    PIECE_TOPIC,
    PLAYBACK_TOPIC,
    Answer,
    Entry,
    Piece,
    Playback,
    as_text,
    from_text,
    latched_depth,
)
from qcfql_ros.errors import MessageError, RobotError
from qcfql_ros.nodes.qos import ANSWER_QOS, PIECE_QOS, PLAYBACK_QOS, played_qos

PIECE_MESSAGES = 200  # far below the queue of a recorder
PIECE_BYTES = 4 << 20
PIECE_S = 0.05
WINDOW = 3  # pieces that no learner has answered yet
CLOCK_S = 0.025  # between two messages, /clock goes on 40 times a second
SETTLE_S = 1.0  # after the first listener, for others to be discovered
SILENCE_S = 10.0
READY_S = 30.0
LATE_S = 0.1  # later than this, the rest is played later too, rather than in a burst
_ONE_NS = 1_000_000_000


@dataclass
class Played:
    """What became of a playback.

    Attributes:
        messages: published.
        seconds: that took.
        bag_s: from the first receive stamp to the last.
        late_s: how much of the time listeners were waited for.
        learners: messages taken, by learner.
    """

    messages: int = 0
    seconds: float = 0.0
    bag_s: float = 0.0
    late_s: float = 0.0
    learners: dict[str, int] = field(default_factory=dict)


class Player:
    """Plays into the topics of one node.

    Args:
        node: not yet in an executor.
        playback: what is played; its topics are those that messages will have.
        channels: of the recording, by the topic they are played to.
        namespace: of the robot.
        rate: seconds of the recording a second; 0 is as fast as listeners take it.
        say: told in one line what people should know.
    """

    def __init__(
        self,
        node: Node,
        playback: Playback,
        channels: Mapping[str, Channel],
        *,
        namespace: str = '',
        rate: float = 1.0,
        say: Callable[[str], None] = print,
    ) -> None:
        self._node, self._playback, self._rate, self._say = node, playback, rate, say
        self.played = Played()
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._index = {topic: number for number, topic in enumerate(playback.topics)}
        self._out: dict[str, Publisher] = {}
        for topic, channel in channels.items():
            kind, offer = message_class(channel.type_name), played_qos(latched_depth(channel))
            self._out[topic] = node.create_publisher(kind, topic, offer)
        self._clock = node.create_publisher(
            Clock, '/clock', QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        )
        names = (PLAYBACK_TOPIC, PIECE_TOPIC, ANSWER_TOPIC)
        about, pieces, answers = (absolute(name, namespace) for name in names)
        self._about = node.create_publisher(String, about, PLAYBACK_QOS)
        self._pieces = node.create_publisher(String, pieces, PIECE_QOS)
        node.create_subscription(String, answers, self._on_answer, ANSWER_QOS)
        self._answers: dict[str, tuple[Answer, float]] = {}
        self._learners: set[str] = set()
        self._entries: list[Entry] = []
        self._bytes = 0
        self._number = 0
        self._piece_s = 0.0
        self._about.publish(String(data=as_text(playback)))

    def close(self) -> None:
        """Stop listening; the node is the caller's to destroy."""
        self._executor.shutdown()

    def wait_for_listeners(self, patience_s: float | None) -> bool:
        """Wait until somebody listens, and every learner among them is ready.

        Args:
            patience_s: for the first listener; None waits for ever.

        Returns:
            whether somebody listens.

        Raises:
            RobotError: a learner takes no part, or cannot get ready, or /clock is another's.
        """
        begun_s, first_s = time.monotonic(), 0.0
        while True:
            self._executor.spin_once(timeout_sec=0.05)
            now_s = time.monotonic()
            self._check_refusals(self._answers)
            expected = self._about.get_subscription_count()
            if not first_s and (expected or self._heard()):
                first_s = now_s
            if not first_s:
                if patience_s is not None and now_s > begun_s + patience_s:
                    break
                continue
            waited_s = now_s - first_s
            if waited_s < SETTLE_S or (waited_s < SILENCE_S and len(self._answers) < expected):
                continue
            behind = [name for name in self._answers if not self._ready(name)]
            if not behind:
                if len(self._answers) < expected:
                    self._say(f'{self._about.topic_name} has listeners that do not answer')
                break
            if waited_s > READY_S:
                answer = self._answers[behind[0]][0]
                raise RobotError(
                    f'learner {answer.learner} is not ready after {READY_S:g} s: '
                    f'{answer.waits or "it does not see the topics of the player"}'
                )
        if self._node.count_publishers('/clock') > 1:
            raise RobotError('/clock has another publisher; end it: there can be one time only')
        self._learners = set(self._answers)
        return bool(first_s)

    def play(self, messages: Iterable[Message]) -> Played:
        """Publish all messages, then wait until every learner has taken them.

        Raises:
            RobotError: a learner takes no more.
        """
        self._about.publish(String(data=as_text(replace(self._playback, begun=True))))
        begun_s = time.monotonic()
        due_s, last_ns = begun_s, None
        try:
            for message in messages:
                if last_ns is not None:
                    step_ns = max(0, message.receive_ns - last_ns)
                    if self._rate:
                        due_s += step_ns / _ONE_NS / self._rate
                        self._wait(due_s, last_ns, message.receive_ns)
                        late_s = time.monotonic() - due_s
                        if late_s > LATE_S:
                            due_s += late_s
                            self.played.late_s += late_s
                    self.played.bag_s += step_ns / _ONE_NS
                last_ns = message.receive_ns
                self._send(message)
                self.played.seconds = time.monotonic() - begun_s
        finally:
            # What was published is taken by the learners, also when this was interrupted.
            self._end_piece(last=True)
            self.played.seconds = time.monotonic() - begun_s
            for name in self._learners:
                self.played.learners[name] = self._answers[name][0].messages
            self._flush()
        return self.played

    def _send(self, message: Message) -> None:
        topic = message.topic
        self._tell_time(message.receive_ns)
        self._publish(topic, message.data)
        if not self._entries:
            self._piece_s = time.monotonic()
        self._entries.append(Entry(self._index[topic], message.receive_ns, message.publish_ns))
        self._bytes += len(message.data)
        self.played.messages += 1
        full = len(self._entries) >= PIECE_MESSAGES or self._bytes >= PIECE_BYTES
        if full or time.monotonic() > self._piece_s + PIECE_S:
            self._end_piece()

    def _publish(self, topic: str, data: bytes) -> None:
        """Publish one message, once every listener has room for it."""
        until_s = time.monotonic() + SILENCE_S
        while True:
            try:
                return self._out[topic].publish(data)
            except RCLError as error:  # after 0.1 s: all that is queued waits for a listener
                if time.monotonic() > until_s:
                    raise RobotError(
                        f'{topic} has a listener that takes nothing for {SILENCE_S:g} s: {error}'
                    ) from error

    def _wait(self, due_s: float, last_ns: int, next_ns: int) -> None:
        """Let time pass until `due_s`, and /clock with it."""
        since_s = told_s = time.monotonic()
        if self._entries and due_s > self._piece_s + PIECE_S:
            self._end_piece()
        while (left_s := due_s - time.monotonic()) > 0.0:
            if left_s < 0.002:
                time.sleep(left_s)
                return
            self._executor.spin_once(timeout_sec=min(left_s - 0.001, CLOCK_S))
            now_s = time.monotonic()
            if now_s >= told_s + CLOCK_S:
                told_s = now_s
                between_ns = last_ns + round((now_s - since_s) * self._rate * _ONE_NS)
                self._tell_time(min(between_ns, next_ns))

    def _tell_time(self, stamp_ns: int) -> None:
        self._clock.publish(Clock(clock=Time(nanoseconds=stamp_ns).to_msg()))

    def _end_piece(self, last: bool = False) -> None:
        """Say what was published since the last time, and let no learner fall behind."""
        if not self._entries and not last:
            return
        self._number += 1
        piece = Piece(self._playback.id, self._number, tuple(self._entries), last)
        self._pieces.publish(String(data=as_text(piece)))
        self._entries, self._bytes = [], 0
        wanted = self._number if last else self._number - WINDOW
        self._executor.spin_once(timeout_sec=0.0)
        while behind := [n for n in self._learners if self._answers[n][0].piece < wanted]:
            self._check_refusals(self._learners)
            answer, heard_s = self._answers[behind[0]]
            if time.monotonic() > heard_s + SILENCE_S:
                raise RobotError(
                    f'learner {answer.learner} has not answered for {SILENCE_S:g} s; it took '
                    f'{answer.messages} messages of {self.played.messages}'
                )
            self._executor.spin_once(timeout_sec=0.05)

    def _flush(self) -> None:
        """Wait until others than learners have everything; acknowledging takes them seconds."""
        until_s = time.monotonic() + SILENCE_S
        for topic, out in self._out.items():
            if out.get_subscription_count() <= len(self._learners):
                continue
            left_s = max(0.0, until_s - time.monotonic())
            if not out.wait_for_all_acked(Duration(seconds=left_s)):
                self._say(f'{topic} has a listener that may not have heard the end')

    def _heard(self) -> bool:
        return any(out.get_subscription_count() for out in self._out.values())

    def _ready(self, name: str) -> bool:
        answer, _ = self._answers[name]
        topics = [topic for topic in answer.topics if topic in self._out]
        counts = [self._out[topic].get_subscription_count() for topic in topics]
        counts.append(self._pieces.get_subscription_count())
        return answer.piece >= 0 and min(counts) >= len(self._answers)

    def _check_refusals(self, names: Iterable[str]) -> None:
        for answer, _ in map(self._answers.__getitem__, names):
            if answer.refuses:
                raise RobotError(f'learner {answer.learner}: {answer.refuses}')

    def _on_answer(self, message: String) -> None:
        try:
            answer = from_text(Answer, message.data)
        except MessageError as error:
            self._say(str(error))
            return
        if answer.id == self._playback.id:
            late = bool(self._number) and answer.learner not in self._answers
            if late and answer.refuses:
                self._say(f'learner {answer.learner}: {answer.refuses}')
            self._answers[answer.learner] = (answer, time.monotonic())
