# SPDX-License-Identifier: Apache-2.0
"""A small robot that a person drives, and its messages by hand, as a recorder would keep them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import yaml
from recorded_ticks import EMPTY, JOINTS, STORE, header

from qcfql_ros.contract import Contract, load_contract
from qcfql_ros.data.bag_file import Message
from qcfql_ros.data.labels import Labels
from qcfql_ros.data.reader import Part
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.data.teleoperation import teleoperation_blocks

T = STORE.types
START = 1_700_000_000_000_000_000
PERIOD = 50_000_000
MS = 1_000_000
TWIST, ARRAY = 'geometry_msgs/msg/TwistStamped', 'std_msgs/msg/Float64MultiArray'
CONTRACT = {
    'contract': 1,
    'name': 'driven',
    'control': {'rate_hz': 20.0},
    'streams': {'joints': {'topic': 'joint_states', 'type': JOINTS, 'max_age_s': 0.1}},
    'features': {
        'observation.state': [{'stream': 'joints', 'field': 'position', 'names': ['a', 'b']}]
    },
    'action': {
        'names': ['vx', 'hand'],
        'commands': [
            {
                'topic': 'twist',
                'type': TWIST,
                'fields': [{'field': 'linear.x', 'action': 'vx', 'scale': 0.5, 'offset': 0.25}],
            },
            {
                'topic': 'hand',
                'type': ARRAY,
                'fields': [{'field': 'velocity', 'name': 'b', 'action': 'hand'}],
            },
        ],
    },
    'outcome': {'topic': 'outcome', 'success_timing': 'post'},
    'safety': {'watchdog': {'timeout_s': 0.5}},
    'recordings': {
        'clock': 'twist',
        'events': {'topic': 'episode', 'start': 'start', 'success': 'success', 'abort': 'abort'},
    },
}


def contract_of(folder: Path, change=None) -> Contract:
    """Load the contract after ``change(data)`` has edited its mapping."""
    data = yaml.safe_load(yaml.safe_dump(CONTRACT))
    if change is not None:
        change(data)
    path = folder / 'contract.yaml'
    path.write_text(yaml.safe_dump(data))
    return load_contract(path)


class Script:
    """A recording; times in ns from `START`, received `delay` later where nothing else is said."""

    def __init__(self, delay: int = 2 * MS) -> None:
        self.delay = delay
        self.messages: list[Message] = []

    def add(self, topic: str, type_name: str, message, at: int, delay: int | None = None) -> None:
        receive_ns = START + at + (self.delay if delay is None else delay)
        data = bytes(STORE.serialize_cdr(message, type_name))
        self.messages.append(Message(topic, receive_ns, 0, data))

    def joints(
        self, at: int, a: float, b: float = 0.0, names=('b', 'a'), delay=None, stamp=None
    ) -> None:
        values = {'a': a, 'b': b}
        numbers = np.array([values[name] for name in names])
        stamp_ns = START + at if stamp is None else stamp
        message = T[JOINTS](header(stamp_ns), list(names), numbers, EMPTY, EMPTY)
        self.add('/joint_states', JOINTS, message, at, delay)

    def twist(self, at: int, x: float, stamp: int | None = None, delay=None) -> None:
        stamp_ns = START + at if stamp is None else stamp
        vector = T['geometry_msgs/msg/Vector3']
        twist = T['geometry_msgs/msg/Twist'](vector(x, 0.0, 0.0), vector(0.0, 0.0, 0.0))
        self.add('/twist', TWIST, T[TWIST](header(stamp_ns), twist), at, delay)

    def hand(self, at: int, number: float) -> None:
        layout = T['std_msgs/msg/MultiArrayLayout']([], 0)
        self.add('/hand', ARRAY, T[ARRAY](layout, np.array([number])), at)

    def reward(self, at: int, number: float) -> None:
        self.add('/reward', 'std_msgs/msg/Float64', T['std_msgs/msg/Float64'](number), at)

    def event(self, at: int, text: str) -> None:
        self.add('/episode', 'std_msgs/msg/String', T['std_msgs/msg/String'](text), at)

    def tick(self, at: int, number: float) -> None:
        """All of one tick: the sensor 5 ms before it says `number`."""
        self.joints(at - 5 * MS, number, -number)
        self.twist(at, 0.25 + number / 2)
        self.hand(at + MS, number / 4)

    def run(self, first: int, count: int, begin: float = 0.0) -> int:
        """Tick `count` times from `first` on, and return when the next one would be."""
        for tick in range(count):
            self.tick(first + tick * PERIOD, begin + tick / 64)
        return first + count * PERIOD

    def events_of(
        self, contract: Contract, labels: Labels | None = None, before: Sequence[Message] = ()
    ) -> tuple[list[Step | SegmentEnd], Counter[str]]:
        """Return the steps and segment ends, and what was counted.

        Args:
            contract: with a section `recordings`.
            labels: of the bag.
            before: messages that lie before these in the bag.
        """
        counters: Counter[str] = Counter()
        ordered = sorted(self.messages, key=lambda message: message.receive_ns)
        parts = [Part(list(before), 0)]
        parts += [Part(ordered[i : i + 37], 0) for i in range(0, len(ordered), 37)]
        reader = SimpleNamespace(path=Path('script'), parts=lambda: iter(parts))
        blocks = teleoperation_blocks(reader, contract, labels, counters)  # type: ignore[arg-type]
        return [event for block in blocks for event in block.events()], counters


def shape(events) -> list:
    """Return the lengths of the segments and how each ended."""
    found, length = [], 0
    for event in events:
        if isinstance(event, Step):
            length += 1
        else:
            found.append((length, event.reason))
            length = 0
    assert not length
    return found
