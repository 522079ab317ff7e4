# SPDX-License-Identifier: Apache-2.0
"""Raw subscriptions that follow what is offered, as those of rosbag2 do, and go on doing so."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from qcfql_ros.contract.message_types import message_class

QUEUE = 1000  # a busy core must not cost messages
OVERLAP_S = 1.0
_FOREVER_NS = 9223372036854775807  # a duration that was never set, as rmw gives it
_REMEMBERED = 2 * QUEUE

# on_message(topic, source stamp in ns, CDR bytes)
OnMessage = Callable[[str, int, bytes], None]
# on_offers(topic, profiles as rosbag2 writes them)
OnOffers = Callable[[str, list[dict[str, Any]]], None]


def request_for(offers: list[QoSProfile]) -> QoSProfile:
    """Return the strongest profile that connects to every offer: rosbag2's rule, a deep queue."""
    reliable = all(o.reliability == ReliabilityPolicy.RELIABLE for o in offers)
    latched = all(o.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offers)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=QUEUE,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def as_rosbag2(profile: QoSProfile) -> dict[str, Any]:
    """Return an offered profile as ``metadata.yaml`` has it."""
    return {
        'history': profile.history.name.lower(),
        'depth': profile.depth,
        'reliability': profile.reliability.name.lower(),
        'durability': profile.durability.name.lower(),
        'deadline': _duration(profile.deadline),
        'lifespan': _duration(profile.lifespan),
        'liveliness': profile.liveliness.name.lower(),
        'liveliness_lease_duration': _duration(profile.liveliness_lease_duration),
        'avoid_ros_namespace_conventions': profile.avoid_ros_namespace_conventions,
    }


def _duration(value: Any) -> dict[str, int]:
    seconds, rest = divmod(min(value.nanoseconds, _FOREVER_NS), 1_000_000_000)
    return {'sec': seconds, 'nsec': rest}


@dataclass
class _Listening:
    """One topic: how we listen, and what was heard lately."""

    type_name: str
    subscription: Subscription
    profile: QoSProfile
    leaving: list[tuple[float, Subscription]] = field(default_factory=list)
    offers: list[dict[str, Any]] = field(default_factory=list)
    heard: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    doubled_until_s: float = 0.0
    anything: bool = False


class RecordedTopics:
    """Listens to topics and adapts each subscription to the publishers there are.

    While one is replaced the old goes on for `OVERLAP_S`, so that nothing is missed; what both
    hear, or is sent again because it is latched, is handed on once.

    Args:
        node: whose subscriptions these are.
        topics: absolute name to (type, the profile to begin with).
        on_message: told everything heard.
        on_offers: told when the publishers of a topic changed.
        say: told in one line that a subscription was replaced.

    Attributes:
        replaced: subscriptions replaced so far.
    """

    def __init__(
        self,
        node: Node,
        topics: Mapping[str, tuple[str, QoSProfile]],
        on_message: OnMessage,
        on_offers: OnOffers,
        say: Callable[[str], None],
    ) -> None:
        self._node, self._hand_on, self._on_offers, self._say = node, on_message, on_offers, say
        self.replaced = 0
        self._topics: dict[str, _Listening] = {}
        for topic, (type_name, profile) in topics.items():
            subscription = self._subscribe(topic, type_name, profile)
            self._topics[topic] = _Listening(type_name, subscription, profile)

    def matched(self) -> dict[str, int]:
        """Return by topic how many publishers our subscription is connected to."""
        return {t: state.subscription.get_publisher_count() for t, state in self._topics.items()}

    def unsettled(self, topics: Iterable[str]) -> str:
        """Return why a topic is not yet heard from one publisher, as it offers it; '' if all are.

        Looks at the publishers anew.
        """
        self.adapt()
        for topic in topics:
            state = self._topics[topic]
            count = state.subscription.get_publisher_count()
            if count != 1 or len(state.offers) != 1:
                return f'{topic} has {max(count, len(state.offers))} publishers, wanted one'
            if state.leaving:
                return f'{topic} is being subscribed to as it is offered'
        return ''

    def silent(self) -> set[str]:
        """Return the topics of which nothing was heard yet, or since `forget`."""
        return {topic for topic, state in self._topics.items() if not state.anything}

    def forget(self, topics: Iterable[str]) -> None:
        """Forget that something was heard of these."""
        for topic in topics:
            self._topics[topic].anything = False

    def adapt(self) -> None:
        """Replace what does not fit the publishers there are; call it some times a second."""
        now_s = time.monotonic()
        for topic, state in self._topics.items():
            for entry in [entry for entry in state.leaving if entry[0] <= now_s]:
                state.leaving.remove(entry)
                self._node.destroy_subscription(entry[1])
            offers = [
                info.qos_profile
                for info in self._node.get_publishers_info_by_topic(topic)
                if info.topic_type == state.type_name
            ]
            if not offers:
                continue  # what was offered last is the best guess
            described = [as_rosbag2(offer) for offer in offers]
            if described != state.offers:
                state.offers = described
                self._on_offers(topic, described)
            wanted = request_for(offers)
            if _differs(wanted, state.profile):
                self._replace(topic, state, wanted, now_s)

    def _replace(self, topic: str, state: _Listening, wanted: QoSProfile, now_s: float) -> None:
        self._say(
            f'{topic} is offered otherwise than expected: listening '
            f'{wanted.reliability.name.lower()}, {wanted.durability.name.lower()} from now on'
        )
        self.replaced += 1
        state.leaving.append((now_s + OVERLAP_S, state.subscription))
        state.doubled_until_s = now_s + 2 * OVERLAP_S
        state.profile = wanted
        state.subscription = self._subscribe(topic, state.type_name, wanted)

    def _subscribe(self, topic: str, type_name: str, profile: QoSProfile) -> Subscription:
        # rclpy counts the parameters of a callback; two mean that it wants the message info.
        def on_message(data: bytes, info: dict[str, int]) -> None:
            self._hear(topic, info.get('source_timestamp', 0), data)

        kind = message_class(type_name)
        return self._node.create_subscription(kind, topic, on_message, profile, raw=True)

    def _hear(self, topic: str, source_ns: int, data: bytes) -> None:
        state = self._topics.get(topic)
        if state is not None:
            state.anything = True
        if state is not None and source_ns:
            key = (source_ns, len(data))
            if state.doubled_until_s and key in state.heard:
                if time.monotonic() < state.doubled_until_s:
                    return
                state.doubled_until_s = 0.0
            state.heard.append(key)
        self._hand_on(topic, source_ns, data)


def _differs(wanted: QoSProfile, used: QoSProfile) -> bool:
    return wanted.reliability != used.reliability or wanted.durability != used.durability
