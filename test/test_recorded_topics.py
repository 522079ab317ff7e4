# SPDX-License-Identifier: Apache-2.0
"""Subscriptions of the recorder follow what is offered; type hashes are those of ROS."""

from __future__ import annotations

import time

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.data.bag_metadata import type_definition
from qcfql_ros.nodes.qos import RECORD_QOS
from qcfql_ros.nodes.recorded_topics import RecordedTopics, as_rosbag2, request_for

RELIABLE, BEST = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
LATCHED, VOLATILE = DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE
TYPE = 'std_msgs/msg/String'


def offer(reliability=RELIABLE, durability=VOLATILE, depth=10) -> QoSProfile:
    return QoSProfile(depth=depth, reliability=reliability, durability=durability)


@pytest.mark.parametrize(
    ('offers', 'reliability', 'durability'),
    [
        ([offer()], RELIABLE, VOLATILE),
        ([offer(), offer(BEST)], BEST, VOLATILE),
        ([offer(BEST), offer(BEST)], BEST, VOLATILE),
        ([offer(durability=LATCHED)], RELIABLE, LATCHED),
        ([offer(durability=LATCHED), offer()], RELIABLE, VOLATILE),
    ],
)
def test_the_strongest_request_that_connects_to_every_offer(offers, reliability, durability):
    request = request_for(offers)
    assert (request.reliability, request.durability) == (reliability, durability)
    assert request.depth == 1000


class Scene:
    """A robot and a recorder in one process."""

    def __init__(self, context, profile):
        self.robot = rclpy.create_node('robot', context=context)
        self.node = rclpy.create_node('recorder', context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.heard, self.offers, self.said = [], {}, []
        self.topics = RecordedTopics(
            self.node,
            {'/text': (TYPE, profile)},
            lambda topic, source_ns, data: self.heard.append(bytes(data[8:]).decode()[:-1]),
            self.offers.__setitem__,
            self.said.append,
        )

    def publisher(self, profile):
        return self.robot.create_publisher(String, '/text', profile)

    def until(self, condition, what):
        until = time.monotonic() + 20.0
        while not condition():
            assert time.monotonic() < until, what
            self.executor.spin_once(timeout_sec=0.01)
            self.topics.adapt()

    def hears(self, publisher, text):
        """Publish until it is heard: then the subscription is matched."""
        sent = 0

        def heard():
            nonlocal sent
            publisher.publish(String(data=f'{text}{sent}'))
            sent += 1
            return any(one.startswith(text) for one in self.heard)

        self.until(heard, f'{text} was not heard')


@pytest.fixture
def scene():
    context = rclpy.Context()
    rclpy.init(context=context)
    scenes = []

    def make(profile):
        scenes.append(Scene(context, profile))
        return scenes[-1]

    yield make
    for it in scenes:  # or their publishers are still seen by the next test
        it.executor.shutdown()
        it.node.destroy_node()
        it.robot.destroy_node()
    rclpy.shutdown(context=context)


def test_a_weaker_publisher_that_comes_later_is_heard_and_the_first_goes_on(scene):
    scene = scene(RECORD_QOS)
    first = scene.publisher(offer())
    scene.hears(first, 'first')
    assert scene.topics.replaced == 0
    second = scene.publisher(offer(BEST))
    scene.hears(second, 'second')
    assert scene.topics.replaced == 1 and 'best_effort' in scene.said[0]
    scene.heard.clear()
    scene.hears(first, 'again')
    assert [row['reliability'] for row in scene.offers['/text']].count('best_effort') == 1
    assert len(scene.offers['/text']) == 2


def test_a_reliable_robot_is_heard_reliably_where_best_effort_was_expected(scene):
    scene = scene(offer(BEST, depth=1000))
    robot = scene.publisher(offer(depth=1000))
    scene.hears(robot, 'x')
    scene.until(lambda: scene.topics.replaced == 1, 'the subscription was not replaced')
    scene.heard.clear()
    for number in range(500):
        robot.publish(String(data=f'n{number}'))
        if number % 50 == 0:
            scene.topics.adapt()
            scene.executor.spin_once(timeout_sec=0)
    scene.until(lambda: 'n499' in scene.heard, 'the last of 500')
    numbered = [text for text in scene.heard if text[0] == 'n']
    assert sorted(numbered, key=lambda text: int(text[1:])) == [f'n{i}' for i in range(500)]


def test_what_was_published_before_is_heard_where_all_is_latched(scene):
    scene = scene(RECORD_QOS)
    robot = scene.publisher(offer(durability=LATCHED))
    robot.publish(String(data='start 0'))
    scene.until(lambda: scene.heard, 'the latched message')
    scene.until(lambda: not scene.topics._topics['/text'].leaving, 'the end of the overlap')
    assert scene.heard == ['start 0'], 'once'


def test_offers_are_described_and_types_hashed_as_ros_does(scene):
    scene = scene(RECORD_QOS)
    node = scene.robot
    types = {*load_contract('point_reach').recorded_topics().values(), 'sensor_msgs/msg/Imu'}
    for name in types:
        node.create_publisher(message_class(name), '/t/' + name.replace('/', '_'), offer())
    for name in types:
        topic = '/t/' + name.replace('/', '_')
        scene.until(lambda topic=topic: node.get_publishers_info_by_topic(topic), topic)
        (info,) = node.get_publishers_info_by_topic(topic)
        value = bytes(info.topic_type_hash.value).hex()
        assert type_definition(name)[1] == f'RIHS0{info.topic_type_hash.version}_{value}'
    described = as_rosbag2(info.qos_profile)
    assert described['reliability'] == 'reliable' and described['durability'] == 'volatile'
    assert described['deadline'] == {'sec': 9223372036, 'nsec': 854775807}
    assert described['liveliness'] == 'automatic'
    assert described['history'] in ('unknown', 'keep_last')
