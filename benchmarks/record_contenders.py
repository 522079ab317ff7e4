# SPDX-License-Identifier: Apache-2.0
"""Those whom `record.py` compares, each in a process of its own; prints a JSON line at its end.

record_contenders.py calls   WRITER FOLDER RATE_HZ SECONDS
record_contenders.py dds     WRITER FOLDER
record_contenders.py publish RATE_HZ SECONDS
"""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

from bag_messages import CONTRACT, STORE, messages
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as RosbagsWriter

from qcfql_ros.data.bag_metadata import type_definition
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.spool import Item, Spool
from qcfql_ros.data.writer_thread import WriterThread
from qcfql_ros.nodes.recorded_topics import QUEUE

TOPICS = CONTRACT.recorded_topics()
SLICE_S = 0.005
SPOOL_BYTES, SPOOL_S = 256_000_000, 30.0  # as learner_node has them


class Ours:
    """The recorder of this package, behind its spool."""

    def __init__(self, folder: Path) -> None:
        recorder = BagRecorder(folder, TOPICS, contract_name='c', contract_hash='h' * 64)
        first = next(iter(TOPICS))
        self._recorder = recorder
        self._writer = WriterThread(
            recorder,
            Spool(SPOOL_BYTES, SPOOL_S),
            lambda: Item(first, time.time_ns(), 0, b''),
            write_s=0.2,
        )
        self.write = self._writer.offer

    @property
    def refused(self) -> int:
        return self._writer.refused + self._writer.lost

    def breathe(self) -> None:
        """Take out what was written, as who makes steps of it does; wait for a slow disk."""
        for _ in self._writer.written():
            pass
        while self._writer.spool.bytes > SPOOL_BYTES // 8:
            time.sleep(0.001)

    def close(self) -> None:
        self._writer.stop(60.0)
        self._recorder.close()


class Rosbags:
    """The writer of the rosbags library, called where a message is heard."""

    refused = 0

    def __init__(self, folder: Path) -> None:
        self._bag = RosbagsWriter(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._bag.open()
        links = {t: self._bag.add_connection(t, k, typestore=STORE) for t, k in TOPICS.items()}
        write = self._bag.write
        self.write = lambda topic, receive_ns, _, data: write(links[topic], receive_ns, data)

    def breathe(self) -> None:
        """Nothing: it writes in the call."""

    def close(self) -> None:
        self._bag.close()


class Mcap:
    """The writer of the mcap library with its defaults (zstd), called where a message is heard."""

    refused = 0

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._file = (folder / 'bag_0.mcap').open('wb')
        self._bag = McapWriter(self._file)
        self._bag.start('ros2')
        schemas = {
            kind: self._bag.register_schema(kind, 'ros2msg', type_definition(kind)[0].encode())
            for kind in sorted(set(TOPICS.values()))
        }
        numbers = {
            topic: self._bag.register_channel(topic, 'cdr', schemas[kind])
            for topic, kind in TOPICS.items()
        }
        add = self._bag.add_message
        self.write = lambda topic, receive_ns, publish_ns, data: add(
            numbers[topic], receive_ns, data, publish_ns
        )

    def breathe(self) -> None:
        """Nothing: it writes in the call."""

    def close(self) -> None:
        self._bag.finish()
        self._file.close()


WRITERS: dict[str, Any] = {'ours': Ours, 'rosbags': Rosbags, 'mcap': Mcap}


def stored(folder: Path) -> int:
    """Return the bytes of the bag's files."""
    return sum(path.stat().st_size for path in folder.glob('*.mcap'))


def cpu_s() -> float:
    """Return user and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def calls(name: str, folder: str, rate_hz: str, seconds: str) -> dict[str, Any]:
    """Write at a rate, 0 for as fast as it goes."""
    log = [(topic, data) for topic, _, data in messages(2000)]
    rate, end_s = float(rate_hz), float(seconds)
    bag = WRITERS[name](Path(folder))
    write, source = bag.write, cycle(log)
    sent = worst = size = 0
    used_s = cpu_s()
    begun = time.perf_counter()
    while (now := time.perf_counter() - begun) < end_s:
        due = int(rate * now) if rate else sent + 1000
        worst = max(worst, due - sent)
        stamp = time.time_ns()
        while sent < due:
            topic, data = next(source)
            stamp += 1
            write(topic, stamp, stamp, data)
            size += len(data)
            sent += 1
        bag.breathe()
        if rate:
            time.sleep(SLICE_S)
    fed = time.perf_counter()
    bag.close()
    took = time.perf_counter() - begun
    return {
        'messages': sent,
        'mb': size / 1e6,
        'stored_mb': stored(Path(folder)) / 1e6,
        'took_s': took,
        'drain_s': took - (fed - begun),
        'behind': worst,
        'refused': bag.refused,
        'cpu_us': (cpu_s() - used_s) / max(1, sent) * 1e6,
    }


def dds(name: str, folder: str) -> dict[str, Any]:
    """Record what is published until the publisher says how much that was."""
    import rclpy
    from std_msgs.msg import UInt64

    from qcfql_ros.nodes.qos import CREDITS_QOS, RECORD_QOS
    from qcfql_ros.nodes.recorded_topics import RecordedTopics

    rclpy.init()
    node = rclpy.create_node('recorder')
    bag = WRITERS[name](Path(folder))
    heard, total = 0, -1

    def hear(topic: str, source_ns: int, data: bytes) -> None:
        nonlocal heard
        bag.write(topic, time.time_ns(), source_ns, data)
        heard += 1

    def end(message: UInt64) -> None:
        nonlocal total
        total = message.data

    topics = {topic: (kind, RECORD_QOS) for topic, kind in TOPICS.items()}
    listening = RecordedTopics(node, topics, hear, lambda *_: None, lambda _: None)
    node.create_subscription(UInt64, 'sent', end, CREDITS_QOS)
    node.create_timer(0.05, bag.breathe)
    ended_s = None
    print('ready', flush=True)
    while ended_s is None or (heard < total and time.monotonic() < ended_s + 5.0):
        rclpy.spin_once(node, timeout_sec=0.05)
        if ended_s is None and total >= 0:
            ended_s = time.monotonic()
    bag.close()
    assert not listening.replaced
    return {'heard': heard, 'refused': bag.refused, 'stored_mb': stored(Path(folder)) / 1e6}


def publish(rate_hz: str, seconds: str) -> dict[str, Any]:
    """Publish at a rate once a recorder is there, then say how much it was."""
    import rclpy
    from std_msgs.msg import UInt64

    from qcfql_ros.contract.message_types import message_class
    from qcfql_ros.nodes.qos import CREDITS_QOS, RECORD_QOS

    log = [(topic, data) for topic, _, data in messages(500)]
    rclpy.init()
    node = rclpy.create_node('publisher')
    outs = {t: node.create_publisher(message_class(k), t, RECORD_QOS) for t, k in TOPICS.items()}
    said = node.create_publisher(UInt64, 'sent', CREDITS_QOS)
    while not all(out.get_subscription_count() for out in outs.values()):
        time.sleep(0.05)
    time.sleep(1.0)  # what is sent before the other side has seen us too is not its fault
    rate, end_s, source = float(rate_hz), float(seconds), cycle(log)
    sent = size = 0
    begun = time.perf_counter()
    while (now := time.perf_counter() - begun) < end_s:
        while sent < int(rate * now):
            topic, data = next(source)
            outs[topic].publish(data)
            size += len(data)
            sent += 1
        time.sleep(SLICE_S)
    took = time.perf_counter() - begun
    said.publish(UInt64(data=sent))
    print(json.dumps({'sent': sent, 'mb': size / 1e6, 'took_s': took}), flush=True)
    sys.stdin.read()
    return {}


if __name__ == '__main__':
    role, *words = sys.argv[1:]
    result = {'calls': calls, 'dds': dds, 'publish': publish}[role](*words)
    if result:
        print(json.dumps(result), flush=True)

__all__ = ['QUEUE', 'TOPICS', 'WRITERS']
