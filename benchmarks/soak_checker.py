# SPDX-License-Identifier: Apache-2.0
"""An independent judge of commands on the wire: knows the contract's text, none of our code.

For each number of a command message, with T the time between two commands, p the number, and a
tolerance of 1e-6 (absolute, and relative to the limit):

==============  ================================================================================
finite          no NaN, no infinity
limits          low <= p <= high
velocity        of a position: |p - p'| <= velocity * max(T, stamp - stamp')
acceleration    of a position: |(p - p') - (p' - p'')| <= acceleration * T * T; of anything else
                |p - p'| <= acceleration * T. Only between commands that are T apart, and not
                where it stands still (p = p', or 0 for what is no position): a stop may be sudden
stamp           never goes back, but once after the clock was set back, or a restart
burst           any 10 successive commands take at least 5 T by the sender's clock: ticks may
                be late on a busy machine, but must not be made up
halt            between the answer to a halt and the request to resume: one safe command, then
                nothing, and nothing is sent later than 2 T + 50 ms after the answer
safe command    there is one, if commands were sent within the 5 T before the halt was asked for
==============  ================================================================================

As a process it subscribes to the commands, to ``policy/step`` and to ``soak/event``, and prints
what it counted as JSON when its standard input ends::

    python benchmarks/soak_checker.py CONTRACT.yaml [--lockstep]
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TOLERANCE = 1e-6
KEPT = 20  # violations told in words
HALT = 3  # meta.source of the safe command
LATE_HALT_NS = 50_000_000
GRID_NS = 1_000  # commands of one episode are T apart; a new one begins at rest, on another grid
EVENT_TOPIC = 'soak/event'


@dataclass(frozen=True)
class Bound:
    """What one number of a command must keep to; infinite is no limit."""

    low: float
    high: float
    velocity: float
    acceleration: float
    is_position: bool


def read_bounds(contract: Path) -> tuple[int, dict[str, dict[str, Bound]]]:
    """Return the time between two commands in ns, and by topic and field what its numbers keep."""
    data = yaml.safe_load(contract.read_text())
    control, action = data['control'], data['action']
    rate_hz = control.get('command_rate_hz', control['rate_hz'])
    limits = (data.get('safety') or {}).get('limits') or {}
    rows = [action.get(key, default) for key, default in (('low', -1.0), ('high', 1.0))]
    topics: dict[str, dict[str, Bound]] = {}
    for command in action['commands']:
        fields = topics.setdefault(command['topic'], {})
        for field in command['fields']:
            place = action['names'].index(field['action'])
            ends = [row[place] if isinstance(row, list) else row for row in rows]
            ends = [end * field.get('scale', 1.0) + field.get('offset', 0.0) for end in ends]
            limit = limits.get(field['action'], {})
            fields[f'{field["field"]} {field.get("name", "")}'.strip()] = Bound(
                max(min(ends), limit.get('low', -math.inf)),
                min(max(ends), limit.get('high', math.inf)),
                limit.get('velocity', math.inf),
                limit.get('acceleration', math.inf),
                field['field'] == 'position',
            )
    return round(1e9 / rate_hz), topics


@dataclass
class Track:
    """One number from command to command."""

    value: float
    stamp_ns: int
    change: float | None = None  # the last one, if it was T after the one before


class Checker:
    """Takes commands, steps and events in the order in which they come.

    Args:
        period_ns: between two commands.
        bounds: by topic and field.
        paced: commands keep to the clock; False in lockstep, where nothing is said of bursts.

    Attributes:
        counts: of commands, steps, events, gaps and sudden stops.
        violations: by kind.
        said: the first ones in words.
    """

    def __init__(
        self, period_ns: int, bounds: dict[str, dict[str, Bound]], paced: bool = True
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self.said: list[str] = []
        self._period_ns = period_ns
        self._bounds = bounds
        self._paced = paced
        self._tracks: dict[str, Track] = {}
        self._stamps: dict[str, int] = {}
        self._may_go_back: set[str] = set()
        self._sent: dict[str, deque[int]] = {topic: deque(maxlen=10) for topic in bounds}
        self._recent: dict[str, deque[tuple[int, int]]] = {t: deque(maxlen=1000) for t in bounds}
        self._halt_steps: deque[int] = deque(maxlen=20)
        self._halting_ns = self._halted_ns = self._resuming_ns = 0
        self.longest_gap_s = 0.0

    def fail(self, kind: str, text: str) -> None:
        """Note a violation."""
        self.violations[kind] += 1
        if len(self.said) < KEPT:
            self.said.append(f'{kind}: {text}')

    def command(self, topic: str, numbers: dict[str, float], stamp_ns: int, sent_ns: int) -> None:
        """Take a command message.

        Args:
            topic: relative.
            numbers: by field, ``position elbow`` or ``linear.x``.
            stamp_ns: header stamp.
            sent_ns: when it was sent, on the monotonic clock.
        """
        self.counts['commands'] += 1
        for field, bound in self._bounds[topic].items():
            if field not in numbers:
                self.fail('missing', f'{topic}: no {field} at {stamp_ns}')
            else:
                self._number(f'{topic} {field}', bound, numbers[field], stamp_ns)
        before = self._stamps.get(topic)
        if before is not None and stamp_ns <= before:
            if topic in self._may_go_back:
                self._may_go_back.discard(topic)
                self.counts['stamps set back'] += 1
            else:
                self.fail('stamp', f'{topic}: {stamp_ns} after {before}')
        self._stamps[topic] = stamp_ns
        sent = self._sent[topic]
        if sent and not sent[-1] <= self._halted_ns <= sent_ns:
            self.longest_gap_s = max(self.longest_gap_s, (sent_ns - sent[-1]) * 1e-9)
        sent.append(sent_ns)
        if self._paced and len(sent) == 10 and sent[-1] - sent[0] < 5 * self._period_ns:
            self.fail('burst', f'{topic}: 10 commands in {(sent[-1] - sent[0]) / 1e6:.1f} ms')
            sent.clear()
            sent.append(sent_ns)
        self._recent[topic].append((sent_ns, stamp_ns))

    def _number(self, name: str, bound: Bound, value: float, stamp_ns: int) -> None:
        track = self._tracks.get(name)
        if not math.isfinite(value):
            self.fail('finite', f'{name} is {value}')
            return
        slack = TOLERANCE * max(1.0, abs(value))
        if not bound.low - slack <= value <= bound.high + slack:
            self.fail('limits', f'{name} is {value}, wanted {bound.low} to {bound.high}')
        change = None
        if track is not None:
            step_ns = stamp_ns - track.stamp_ns
            change = value - track.value
            if step_ns <= 0:
                self._tracks[name] = Track(value, stamp_ns)
                return  # judged as a stamp
            beside = abs(step_ns - self._period_ns) <= GRID_NS
            self._change(name, bound, value, change, track.change if beside else None, step_ns)
            if not beside:
                self.counts['gaps'] += 1
                change = None
        self._tracks[name] = Track(value, stamp_ns, change)

    def _change(
        self,
        name: str,
        bound: Bound,
        value: float,
        change: float,
        before: float | None,
        step_ns: int,
    ) -> None:
        period_s = self._period_ns * 1e-9
        took_s = max(self._period_ns, step_ns) * 1e-9
        if bound.is_position:
            if abs(change) > bound.velocity * took_s * (1.0 + TOLERANCE) + TOLERANCE:
                self.fail('velocity', f'{name} changes by {change:.6g} in {took_s:.3g} s')
            second, most = before, bound.acceleration * period_s**2
            still = change == 0.0
            second = None if before is None else change - before
        else:
            second, most = None if before is None else change, bound.acceleration * period_s
            still = value == 0.0
        if second is None or abs(second) <= most * (1.0 + TOLERANCE) + TOLERANCE:
            return
        if still:
            self.counts['sudden stops'] += 1
        else:
            self.fail('acceleration', f'{name} {value:.6g}: by {second:.6g}, at most {most:.6g}')

    def step(self, stamp_ns: int, source: int) -> None:
        """Take a step record."""
        self.counts['steps'] += 1
        if source == HALT:
            self.counts['safe commands'] += 1
            self._halt_steps.append(stamp_ns)

    def event(self, kind: str, at_ns: int) -> None:
        """Take what the robot says it does: halting, halted, resuming, clock back, restart."""
        self.counts[f'event {kind}'] += 1
        if kind in ('clock back', 'restart'):
            self._may_go_back = set(self._bounds)
        elif kind == 'halting':
            self._halting_ns = at_ns
        elif kind == 'halted':
            self._halted_ns = at_ns
        elif kind == 'resuming':
            self._resuming_ns = at_ns
        elif kind == 'resumed' and self._halted_ns:
            self._judge_halt(self._resuming_ns)
            self._halted_ns = 0

    def _judge_halt(self, resuming_ns: int) -> None:
        halted_ns, period_ns = self._halted_ns, self._period_ns
        latest = halted_ns + 2 * period_ns + LATE_HALT_NS
        for topic, recent in self._recent.items():
            inside = [(sent, stamp) for sent, stamp in recent if halted_ns < sent < resuming_ns]
            late = [sent for sent, _ in inside if sent > latest]
            if late:
                after_s = (late[0] - halted_ns) * 1e-9
                self.fail('halt', f'{topic}: {len(late)} commands, {after_s:.3f} s after it')
            around = [s for sent, s in recent if self._halting_ns - 5 * period_ns < sent]
            safe = [stamp for stamp in self._halt_steps if stamp in around]
            if safe and any(s > safe[-1] for sent, s in recent if halted_ns < sent < resuming_ns):
                self.fail('halt', f'{topic}: a command after the safe command of {safe[-1]}')
            if around and not safe:
                self.fail('safe command', f'{topic}: none, the last one at {around[-1]}')

    def report(self) -> dict[str, Any]:
        """Return all that was counted."""
        return {
            'counts': dict(self.counts),
            'violations': dict(self.violations),
            'said': self.said,
            'longest_gap_s': self.longest_gap_s,
        }


def numbers_of(message: Any) -> dict[str, float]:
    """Return the numbers of a command message by field."""
    if hasattr(message, 'twist'):
        twist = message.twist
        return {
            f'{part}.{axis}': getattr(getattr(twist, part), axis)
            for part in ('linear', 'angular')
            for axis in 'xyz'
        }
    found = {}
    for kind in ('position', 'velocity', 'effort'):
        found |= {
            f'{kind} {name}': number
            for name, number in zip(message.name, getattr(message, kind), strict=False)
        }
    return found


def message_class(name: str) -> Any:
    """Return the class of ``package/msg/Name``."""
    package, _, kind = name.split('/')
    return getattr(importlib.import_module(f'{package}.msg'), kind)


def main(arguments: list[str]) -> int:
    """Listen until standard input ends."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile

    contract = Path(arguments[0])
    checker = Checker(*read_bounds(contract), paced='--lockstep' not in arguments)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    rclpy.init(args=[])
    node = rclpy.create_node('soak_checker')
    qos = QoSProfile(depth=1000)
    zero_ns = time.time_ns() - time.monotonic_ns()

    def on_command(topic: str) -> Any:
        def call(message: Any, info: Any) -> None:
            stamp = message.header.stamp
            stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
            sent_ns = info['source_timestamp'] - zero_ns
            checker.command(topic, numbers_of(message), stamp_ns, sent_ns)

        return call

    def on_step(message: Any) -> None:
        stamp = message.header.stamp
        values = dict(zip(message.name, message.position, strict=True))
        checker.step(stamp.sec * 1_000_000_000 + stamp.nanosec, int(values['meta.source']))

    def on_event(message: Any) -> None:
        event = json.loads(message.data)
        checker.event(event['kind'], event['at_ns'])

    heard = []
    for command in yaml.safe_load(contract.read_text())['action']['commands']:
        topic = command['topic']
        kind = message_class(command['type'])
        heard.append(node.create_subscription(kind, topic, on_command(topic), qos))
    for kind, topic, callback in (
        ('sensor_msgs/msg/JointState', 'policy/step', on_step),
        ('std_msgs/msg/String', EVENT_TOPIC, on_event),
    ):
        node.create_subscription(message_class(kind), topic, callback, qos)
    print('ready', flush=True)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not ended.is_set():
        executor.spin_once(timeout_sec=0.1)
        if heard and all(subscription.get_publisher_count() for subscription in heard):
            heard.clear()
            print('matched', flush=True)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    print(json.dumps(checker.report()), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
