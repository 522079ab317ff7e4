# SPDX-License-Identifier: Apache-2.0
"""Publish a recording into its topics, with its receive stamps on /clock.

A learner_node started with use_sim_time:=true records it message by message as it was recorded,
at any rate, and makes the same steps of it: it and the player agree on what was played, in pieces.
To learn from a recording none of this is needed: `qcfql train --dataset_path BAG` reads the file.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from qcfql_ros.cli.progress import LINE_EVERY_S
from qcfql_ros.cli.report import add_json_argument, write_report
from qcfql_ros.contract.topics import absolute
from qcfql_ros.data.bag_file import Channel, Message
from qcfql_ros.data.bag_metadata import CONTRACT_HASH, NAMESPACE
from qcfql_ros.data.playback import Playback, fingerprint
from qcfql_ros.data.reader import BagReader, bag_custom_data
from qcfql_ros.errors import BagError, ContractError, ParameterError, nearest

CLOCK = '/clock'
PATIENCE_S = 3.0
INTERRUPTED = 130
SHOW_EVERY_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument('bag', type=Path, help='a rosbag2 folder, or one of its files')
    parser.add_argument(
        '--rate',
        type=float,
        default=1.0,
        metavar='R',
        help='times as fast as it was recorded; 0 is as fast as listeners take it '
        '(default: %(default)s)',
    )
    parser.add_argument('--topics', nargs='+', metavar='TOPIC', help='only these (default: all)')
    parser.add_argument(
        '--start', type=float, default=0.0, metavar='S', help='leave out the first S seconds'
    )
    parser.add_argument(
        '--duration', type=float, metavar='D', help='play D seconds (default: to the end)'
    )
    parser.add_argument(
        '--namespace', metavar='NS', help="of the robot, in place of the recording's own"
    )
    parser.add_argument(
        '--wait-for-subscribers',
        action='store_true',
        help=f'however long it takes (default: at most {PATIENCE_S:g} s)',
    )
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Play, and report."""
    check(arguments)
    reader = BagReader(arguments.bag)
    recorded = bag_custom_data(arguments.bag)
    was = recorded.get(NAMESPACE, '').strip('/')
    namespace = was if arguments.namespace is None else arguments.namespace.strip('/')
    chosen = choose(reader, arguments.topics)
    moved = {topic: move(topic, was, namespace) for topic in chosen}
    # Late, so that --help and a wrong argument need no ROS.
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from qcfql_ros.nodes.player import Player

    playback = Playback(
        uuid.uuid4().hex,
        str(arguments.bag.absolute()),
        recorded.get(CONTRACT_HASH, ''),
        fingerprint(reader.paths),
        tuple(moved.values()),
    )
    reader = BagReader(arguments.bag, list(chosen))
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    interrupted = False
    try:
        node = rclpy.create_node('player', namespace=namespace)
        channels = {moved[topic]: channel for topic, channel in chosen.items()}
        player = Player(
            node, playback, channels, namespace=namespace, rate=arguments.rate, say=warn
        )
        try:
            patience_s = None if arguments.wait_for_subscribers else PATIENCE_S
            if not player.wait_for_listeners(patience_s):
                warn('nobody listens; playing all the same')
            messages = window(reader, arguments.start, arguments.duration)
            player.play(
                message._replace(topic=moved[message.topic]) for message in shown(messages)
            )
        except KeyboardInterrupt:
            interrupted = True
        finally:
            player.close()
            node.destroy_node()
    finally:
        rclpy.try_shutdown()
    played = player.played
    if reader.damage:
        warn(f'{arguments.bag}: {reader.damage}')
    write_report(
        arguments.json,
        {
            'bag': str(arguments.bag),
            'messages': played.messages,
            'topics': len(chosen),
            'seconds': round(played.seconds, 3),
            'bag_s': round(played.bag_s, 3),
            'late_s': round(played.late_s, 3),
            'learners': len(played.learners),
            'taken': min(played.learners.values(), default=0),
            'interrupted': interrupted,
        },
    )
    print(
        f'played {played.messages} messages of {len(chosen)} topics, {played.bag_s:.1f} s of '
        f'recording in {played.seconds:.1f} s'
        + (f', {played.late_s:.1f} s of it waiting for listeners' if played.late_s else '')
    )
    for name, count in sorted(played.learners.items()):
        print(f'learner {name} took {count}')
    return INTERRUPTED if interrupted else 0


def check(arguments: argparse.Namespace) -> None:
    """Refuse what can be refused before the bag is opened.

    Raises:
        ParameterError: an argument is out of range.
    """
    if not 0.0 <= arguments.rate <= 1e6:
        raise ParameterError(f'--rate is {arguments.rate:g}; wanted 0 to 1e6')
    if not 0.0 <= arguments.start < 1e9:
        raise ParameterError(f'--start is {arguments.start:g}; wanted seconds, 0 or more')
    if arguments.duration is not None and not 0.0 < arguments.duration < 1e9:
        raise ParameterError(f'--duration is {arguments.duration:g}; wanted seconds, above 0')


def choose(reader: BagReader, wanted: list[str] | None) -> dict[str, Channel]:
    """Return what is to be played, by topic as recorded.

    A topic whose message type is not installed is left out, and said, unless it was asked for.

    Raises:
        BagError: a topic that was asked for is not in the bag; or none is left.
        ContractError: its message type is not installed.
    """
    from qcfql_ros.contract.message_types import message_class

    found = reader.channels()
    for topic in wanted or ():
        if absolute(topic.lstrip('/')) not in found:
            hint = nearest(topic, found) or f'; it has {", ".join(sorted(found))}'
            raise BagError(f'{reader.path} has no topic {topic!r}{hint}')
    names = [absolute(topic.lstrip('/')) for topic in wanted] if wanted else sorted(found)
    chosen = {}
    for topic in names:
        channel = found[topic]
        if topic == CLOCK:
            warn(f'{CLOCK} of the recording is not played: it has the receive stamps instead')
            continue
        try:
            message_class(channel.type_name)
        except ContractError as error:
            if wanted:
                raise
            warn(f'{topic} is not played: {error}')
            continue
        chosen[topic] = channel
    if not chosen:
        raise BagError(f'{reader.path} has no topic that can be played')
    return chosen


def move(topic: str, was: str, namespace: str) -> str:
    """Return a topic's name in another namespace; one outside the old one goes below the new."""
    if was == namespace:
        return topic
    inner = topic.removeprefix(f'/{was}/') if was else topic
    return absolute(inner.lstrip('/'), namespace)


def window(reader: BagReader, start_s: float, duration_s: float | None) -> Iterator[Message]:
    """Yield the messages from `start_s` on, for `duration_s`, counted from the first one."""
    messages = iter(reader)
    first = next(messages, None)
    if first is None:
        return
    start_ns = first.receive_ns + round(start_s * 1e9)
    end_ns = 2**63 if duration_s is None else start_ns + round(duration_s * 1e9)
    for message in itertools.chain([first], messages):
        if message.receive_ns >= end_ns:
            return
        if message.receive_ns >= start_ns:
            yield message


def warn(text: str) -> None:
    """Say what people should know, without ending."""
    print(f'qcfql play: {text}', file=sys.stderr, flush=True)


def shown(messages: Iterable[Message]) -> Iterator[Message]:
    """Yield `messages`, and say now and then how far it is: on a terminal in one line."""
    terminal = sys.stdout.isatty()
    every_s = SHOW_EVERY_S if terminal else LINE_EVERY_S
    first_ns, shown_s = None, time.monotonic()
    for count, message in enumerate(messages):
        first_ns = message.receive_ns if first_ns is None else first_ns
        now_s = time.monotonic()
        if now_s >= shown_s + every_s:
            shown_s = now_s
            at_s = (message.receive_ns - first_ns) / 1e9
            text = f'{count} messages, {at_s:.1f} s of recording'
            print(text, end='   \r' if terminal else '\n', flush=True)
        yield message
