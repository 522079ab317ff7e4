# SPDX-License-Identifier: Apache-2.0
"""Who listens to the robot and who commands it, and whether that is still the same process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rclpy.node import Node
from rclpy.publisher import Publisher

# A policy that was restarted has new subscriptions; if it kept its old ones after all, this much
# patience is enough for discovery.
PATIENCE_CHECKS = 20
# Who commands is asked each so many checks although their number is the same: one may have gone
# and another come between two checks.
WHO_CHECKS = 10


class RobotGraph:
    """The far ends of the robot's topics.

    Args:
        node: the robot.
        outputs: publishers, each with the number of subscribers wanted before the first tick.
        command_topics: topics that must have a publisher before the first tick.
    """

    def __init__(
        self,
        node: Node,
        outputs: Sequence[tuple[Publisher, int]],
        command_topics: Iterable[str],
    ) -> None:
        self._node = node
        self._outputs = tuple(publisher for publisher, _ in outputs)
        self._expected = {publisher.topic_name: count for publisher, count in outputs}
        self._commands = tuple(command_topics)
        self._commanders: set[bytes] = set()
        self._counts: list[int] = []
        self._listening: dict[str, set[bytes]] = {}
        self._stale_listeners: dict[str, set[bytes]] = {}
        self._checks = 0
        self._same_counts = 0

    def missing(self) -> list[str]:
        """Return what is not matched yet, as a text for each; empty when all is there."""
        self._checks += 1
        texts = [
            f'publisher of {topic}'
            for topic in self._commands
            if not self._node.count_publishers(topic)
        ]
        for output in self._outputs:
            count = output.get_subscription_count()
            topic = output.topic_name
            if count < self._expected[topic]:
                texts.append(f'subscriber of {topic} ({count} of {self._expected[topic]})')
            elif (
                self._checks <= PATIENCE_CHECKS
                and topic in self._stale_listeners
                and self._listeners(topic) <= self._stale_listeners[topic]
            ):
                texts.append(f'the new subscriber of {topic}')
        return texts

    def remember(self) -> None:
        """Take whoever commands now for the one that this session is with."""
        self._commanders = self._all_publishers()
        self._counts = self._count()
        self._listening = {o.topic_name: self._listeners(o.topic_name) for o in self._outputs}

    def changed(self) -> str:
        """Return why the session is over: the commander has gone, or is a new one; else ``''``.

        A process killed outright is seen by others for some more seconds; one that comes in its
        place is seen at once.
        """
        counts = self._count()
        self._same_counts = self._same_counts + 1 if counts == self._counts else 0
        if self._same_counts % WHO_CHECKS:  # asking who they are takes 10 times as long
            return ''
        self._counts = counts
        if not all(counts):
            self._forget(stale=False)
            return 'the command publisher has gone'
        if self._all_publishers() - self._commanders:
            self._forget(stale=True)
            return 'a new command publisher is there'
        return ''

    def _count(self) -> list[int]:
        return [self._node.count_publishers(topic) for topic in self._commands]

    def _forget(self, stale: bool) -> None:
        self._stale_listeners = self._listening if stale else {}
        self._checks = 0

    def _all_publishers(self) -> set[bytes]:
        return set().union(*(self._publishers(topic) for topic in self._commands))

    def _publishers(self, topic: str) -> set[bytes]:
        name = self._node.resolve_topic_name(topic)
        return {bytes(e.endpoint_gid) for e in self._node.get_publishers_info_by_topic(name)}

    def _listeners(self, topic: str) -> set[bytes]:
        infos = self._node.get_subscriptions_info_by_topic(topic)
        return {bytes(e.endpoint_gid) for e in infos}
