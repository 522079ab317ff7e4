# SPDX-License-Identifier: Apache-2.0
"""What a learner does with a playback, without ROS: every message is handed over by hand."""

from __future__ import annotations

import struct
from dataclasses import replace
from types import SimpleNamespace

import pytest
from recorded_ticks import CONTRACT

from qcfql_ros.data.playback import Answer, Entry, Piece, Playback, as_text, from_text
from qcfql_ros.nodes import playback_listener
from qcfql_ros.nodes.playback_listener import MOST_WAITING, PlaybackListener

TOPICS = ('/outcome', '/policy/step', '/learner/session', '/elsewhere')
PLAYED = Playback('one', 'bags/one', CONTRACT.hash, 'e' * 32, TOPICS)


class Node:
    """Stands for the learner's node: keeps what it was asked for."""

    def __init__(self):
        self.callbacks, self.said, self.notes = {}, [], []
        self.publishers, self.now_ns = 1, 5
        self.players = []

    def get_fully_qualified_name(self):
        return '/learner'

    def create_publisher(self, kind, topic, qos):
        return SimpleNamespace(publish=lambda m: self.said.append(from_text(Answer, m.data)))

    def create_subscription(self, kind, topic, callback, qos):
        self.callbacks[topic] = callback
        return SimpleNamespace(topic_name=topic, get_publisher_count=lambda: self.publishers)

    def get_logger(self):
        return SimpleNamespace(info=self.notes.append)

    def get_clock(self):
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self.now_ns))

    def get_publishers_info_by_topic(self, topic):
        return self.players


class Recording:
    """Keeps what it is given."""

    def __init__(self):
        self.heard, self.sources = [], []
        self.waiting, self.stopped = 0, ''

    def begin(self, receive_ns):
        self.heard.append(('begin', receive_ns))

    def accept(self, topic, publish_ns, data, receive_ns=None):
        self.heard.append((topic, receive_ns, publish_ns, data))

    def replayed_from(self, source):
        self.sources.append(source)


class Scene:
    def __init__(self, sim_time=True, contract=CONTRACT):
        self.node, self.recording, self.warned = Node(), Recording(), []
        self.unsettled = ''
        self.listener = PlaybackListener(
            self.node, self.recording, contract, '', sim_time=sim_time, warn=self.warned.append
        )

    def tell(self, record):
        topic = '/playback/piece' if isinstance(record, Piece) else '/playback'
        self.node.callbacks[topic](SimpleNamespace(data=as_text(record)))

    def answer(self, waits='') -> Answer:
        self.listener.pump(SimpleNamespace(unsettled=lambda topics: self.unsettled), waits)
        return self.node.said[-1]

    def begin(self):
        self.tell(PLAYED)
        assert self.answer().piece == 0
        self.tell(replace(PLAYED, begun=True))


@pytest.fixture
def scene(monkeypatch):
    monkeypatch.setattr(playback_listener, 'ANSWER_S', 0.0)
    return Scene()


def test_it_is_ready_when_its_subscriptions_are(scene):
    scene.tell(PLAYED)
    scene.unsettled = '/outcome has 2 publishers, wanted one'
    answer = scene.answer()
    assert (answer.piece, answer.waits) == (-1, scene.unsettled)
    scene.unsettled = ''
    answer = scene.answer()
    assert (answer.piece, answer.waits, answer.refuses) == (0, '', '')
    assert set(answer.topics) == {'/outcome', '/policy/step'}
    assert scene.recording.sources == [
        {'bag': 'bags/one', 'contract_hash': CONTRACT.hash, 'fingerprint': 'e' * 32}
    ]


def test_marks_of_the_recording_become_marks_of_this_one_at_their_place(scene):
    scene.begin()
    scene.listener.hear('/policy/step', 99, b'step')
    scene.listener.hear('/outcome', 99, b'o2')
    scene.listener.hear('/outcome', 99, b'o3')
    rows = [(0, 100, 90), (3, 105, 95), (1, 110, 0), (2, 120, 0), (0, 130, 120)]
    scene.tell(Piece('one', 1, tuple(Entry(*row) for row in rows)))
    assert scene.answer().piece == 1
    assert scene.recording.heard == [
        ('begin', 99),
        ('/outcome', 100, 90, b'o2'),
        ('/policy/step', 110, 0, b'step'),
        ('begin', 120),
        ('/outcome', 130, 120, b'o3'),
    ]


def test_a_recording_that_begins_with_a_mark_gets_no_second_one(scene):
    scene.begin()
    scene.listener.hear('/outcome', 0, b'o')
    scene.tell(Piece('one', 1, (Entry(2, 100, 0), Entry(0, 101, 0)), last=True))
    scene.answer()
    assert scene.recording.heard == [('begin', 100), ('/outcome', 101, 0, b'o')]
    scene.listener.hear('/outcome', 7, b'after the end')
    assert scene.recording.heard[-1] == ('/outcome', None, 7, b'after the end')
    assert 'did not announce' in scene.warned[0]


def test_a_full_disk_queue_or_a_slow_trainer_holds_the_player_back(scene):
    scene.begin()
    scene.listener.hear('/outcome', 0, b'o')
    scene.tell(Piece('one', 1, (Entry(0, 100, 0),)))
    assert scene.answer('waiting for the trainer').piece == 0
    scene.recording.waiting = MOST_WAITING + 1
    answer = scene.answer()
    assert answer.piece == 0 and 'wait for the disk' in answer.waits
    scene.recording.waiting = MOST_WAITING
    assert scene.answer().piece == 1


def test_it_says_what_it_has_not_heard_and_what_is_lost_when_the_player_goes(scene):
    scene.begin()
    scene.listener.hear('/outcome', 0, b'o')
    scene.tell(Piece('one', 1, (Entry(0, 100, 0), Entry(1, 101, 0))))
    assert scene.answer().waits == 'not heard yet: 1 of /policy/step'
    scene.node.publishers = 0
    scene.listener.pump(SimpleNamespace(unsettled=lambda topics: ''))
    assert scene.warned == [
        'bags/one broke off: 0 messages recorded, 1 not, whose order was not told any more'
    ]
    assert scene.recording.heard == []


@pytest.mark.parametrize(
    ('sim_time', 'changed', 'says'),
    [
        (False, {}, 'start it with -p use_sim_time:=true'),
        (True, {'begun': True}, 'start the learner first'),
        (True, {'contract_hash': '0' * 64}, 'was recorded under contract 000000000000'),
    ],
)
def test_it_takes_no_part(monkeypatch, sim_time, changed, says):
    monkeypatch.setattr(playback_listener, 'ANSWER_S', 0.0)
    scene = Scene(sim_time)
    scene.tell(replace(PLAYED, **changed))
    assert says in scene.answer().refuses and says in scene.warned[0]
    assert scene.recording.sources == []


def test_a_piece_that_went_missing_and_a_stopped_recording_end_it(scene):
    scene.begin()
    scene.tell(Piece('one', 2, ()))
    assert scene.answer().refuses == 'piece 2 came, 1 was expected'
    scene.node.publishers = 0
    scene.answer()
    scene.node.publishers = 1
    scene.recording.stopped = 'the disk is full'
    scene.tell(PLAYED)
    assert scene.answer().refuses == 'the disk is full'


def test_what_cannot_be_read_is_said_and_left(scene):
    scene.node.callbacks['/playback'](SimpleNamespace(data='{'))
    assert 'not a Playback' in scene.warned[0]
    scene.begin()
    scene.node.callbacks['/playback/piece'](SimpleNamespace(data='{}'))
    assert 'not a Piece' in scene.warned[1]


def test_without_steps_it_says_so_and_ros2_bag_play_is_told_by_its_name(scene):
    scene.tell(replace(PLAYED, topics=('/outcome',)))
    assert 'has no /policy/step' in scene.warned[0] and 'qcfql train' in scene.warned[0]
    for name in ('policy', 'rosbag2_player', 'rosbag2_player'):
        scene.node.players = [SimpleNamespace(node_name=name)]
        scene.listener.look_for_bag_player()
    assert len(scene.warned) == 2 and '`ros2 bag play`' in scene.warned[1]


@pytest.mark.parametrize(
    ('kind', 'stamp', 'warned'),
    [
        ('geometry_msgs/msg/PoseStamped', (5, 6), False),
        ('geometry_msgs/msg/PoseStamped', (0, 0), True),
        ('geometry_msgs/msg/Pose', (5, 6), True),  # no stamp, if it looks like one
    ],
)
def test_a_stream_whose_receive_stamps_decide_is_warned_of(kind, stamp, warned):
    streams = dict(CONTRACT.streams)
    streams['goal'] = replace(streams['goal'], type=kind)
    contract = replace(CONTRACT, streams=streams)
    played = replace(PLAYED, contract_hash=contract.hash, topics=('/goal_pose', '/policy/step'))
    scene = Scene(contract=contract)
    scene.tell(played)
    scene.answer()
    scene.tell(replace(played, begun=True))
    for _ in range(2):
        scene.listener.hear('/goal_pose', 0, bytes([0, 1, 0, 0]) + struct.pack('<II', *stamp))
    scene.tell(Piece('one', 1, (Entry(0, 100, 0), Entry(0, 101, 0))))
    assert scene.answer().piece == 1
    assert len(scene.warned) == warned
    assert not warned or '/goal_pose has no stamps' in scene.warned[0]


def test_without_a_clock_it_says_that_the_systems_time_is_used(scene):
    scene.node.now_ns = 0
    for _ in range(2):
        scene.listener.hear('/outcome', 0, b'')
    assert len(scene.warned) == 1 and 'nothing on /clock' in scene.warned[0]
