# SPDX-License-Identifier: Apache-2.0
"""A learner killed at random instants, against the journal of the robot it recorded.

Three kills; KILLS=50 in the environment for more.
"""

from __future__ import annotations

import json
import os
import random
import re
import time

from rclpy.serialization import deserialize_message
from scripted_robot import message_digest
from test_learner_node import CONTRACT, Processes, logged, reread, stop

from qcfql_ros.contract.message_types import message_class
from qcfql_ros.data.reader import bag_info, read_bag

KILLS = int(os.environ.get('KILLS', '3'))
RATE_HZ = 50
SECOND = 1_000_000_000
TYPES = CONTRACT.recorded_topics()
GAP = re.compile(r'\[(\d+\.\d+)\] \[learner\]: the recording has a gap of at most ([\d.]+) s')


def recorded(run) -> list[tuple[str, str]]:
    """Return (topic, digest) of every message of the robot, in the order of the bag."""
    return [
        (topic, message_digest(deserialize_message(data, message_class(TYPES[topic]))))
        for topic, _, data in read_bag(run / 'bag')
        if topic != '/learner/session'
    ]


def wait_for_messages(run, more: int) -> None:
    """Wait until the file being written has grown by about so many messages."""
    until = time.monotonic() + 30.0
    while time.monotonic() < until:
        active = list((run / 'bag').glob('*.active'))
        if active and active[0].stat().st_size > more:
            return
        time.sleep(0.01)
    raise AssertionError('nothing is recorded')


def test_what_kills_cost_is_said_in_seconds_and_nothing_else_is_lost(
    tmp_path, monkeypatch, wait_until
):
    run, journal, log = tmp_path / 'run', tmp_path / 'journal', tmp_path / 'run.log'
    draw = random.Random(7)
    kills = []
    with Processes() as processes:
        learner = processes.learner(run)
        monkeypatch.setenv('JOURNAL', str(journal))
        robot = processes.robot(10**6, 50, RATE_HZ)
        monkeypatch.delenv('JOURNAL')
        wait_until(lambda: journal.exists() and journal.stat().st_size > 1000, what='the robot')
        for number in range(KILLS):
            time.sleep(draw.uniform(0.2, 2.5))  # the instant of the kill, not a wait
            kills.append(time.time_ns())
            learner.kill()
            learner.wait()
            learner = processes.learner(run)
            wait_until(
                lambda n=number: len(GAP.findall(log.read_text())) > n,
                timeout_s=40,
                what='the gap to be said',
            )
        wait_for_messages(run, 20_000)
        robot.kill()
        robot.wait()
        assert stop(learner) == 0
    rows = [line.split() for line in journal.read_text().splitlines() if line.count(' ') == 2]
    kept = recorded(run)
    assert len(kept) == len(set(kept)), 'nothing twice'
    place = {(topic, digest): n for n, (topic, _, digest) in enumerate(rows)}
    assert set(kept) <= set(place), 'nothing that the robot did not send'
    by_topic: dict[str, int] = {}
    for key in kept:
        assert place[key] > by_topic.get(key[0], -1), 'in the order in which it was sent'
        by_topic[key[0]] = place[key]
    said = [(float(end), float(gap)) for end, gap in GAP.findall(log.read_text())]
    assert len(said) == KILLS
    windows, before = [], 0
    for kill, (end, _) in zip(kills, said, strict=True):
        windows.append((max(kill - SECOND, before + 1), round(end * SECOND)))
        before = windows[-1][1]
    found = set(kept)
    missing = [int(sent) for topic, sent, digest in rows if (topic, digest) not in found]
    last = max(int(rows[place[key]][1]) for key in kept)
    outside = [
        sent
        for sent in missing
        if sent <= last and not any(first <= sent <= end for first, end in windows)
    ]
    assert not outside, f'{len(outside)} messages lost at another time than around a kill'
    report = []
    for kill, (first, end), (_, gap) in zip(kills, windows, said, strict=True):
        lost = [sent for sent in missing if first <= sent <= end]
        assert lost, 'a robot that goes on is not heard for a while'
        lost_s = (max(lost) - min(lost)) / SECOND
        assert lost_s <= gap + 0.1, 'the gap is as long as was said'
        before_s = max(0.0, (kill - min(lost)) / SECOND)
        report.append({'said_s': gap, 'lost_s': lost_s, 'before_kill_s': before_s})
    assert bag_info(run / 'bag').counts['/learner/session'] == KILLS + 1
    live, again = {row[2] for row in logged(run)}, {row[2] for row in reread(run)}
    assert live <= again
    print(json.dumps({'messages': len(kept), 'lost': len(missing), 'kills': report}))
