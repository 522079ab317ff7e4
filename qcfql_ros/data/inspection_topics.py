# SPDX-License-Identifier: Apache-2.0
"""How regularly the topics of a recording came, and whether their messages can be used.

Times are receive stamps; of a robot in lockstep, whose messages come as fast as they may, header
stamps. A gap is longer than a sensor's ``max_age_s``; of other topics, than ``lateness_s``.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcfql_ros.data.bag_file import Channel, Message
from qcfql_ros.data.bag_metadata import type_definition
from qcfql_ros.data.cdr import peek_stamp_ns
from qcfql_ros.data.inspection_wanted import WantedTopic
from qcfql_ros.errors import BagError, MessageError

_NUMBER = re.compile(r'[-+]?\b\d+(\.\d+)?(e[-+]?\d+)?\b')
_KINDS_OF_BAD = 20
_OTHER = 'other reasons'
# What a stamped message begins with; the two bytes behind `cdr` are options.
_HEAD = np.dtype([('cdr', '<u2'), ('options', '<u2'), ('sec', '<i4'), ('nanosec', '<u4')])
_LITTLE_ENDIAN = 0x0100
_PAUSE = 5  # times the usual time between two messages


@dataclass(frozen=True)
class BadMessages:
    """Messages that cannot be used for one reason; `reason` is that of the first of them."""

    reason: str
    count: int
    first_ns: int


@dataclass(frozen=True, eq=False)
class TopicReport:
    """What was found of one topic.

    Attributes:
        topic: absolute name.
        type: as the bag has it; empty where the bag does not have the topic.
        wanted: what the contract asks of it; None without a contract.
        messages: how many there are.
        rate_hz: messages a second outside of gaps and pauses; None with fewer than two messages.
        p50_s, p99_s: of the times between two messages, gaps included.
        longest_s: time without a message.
        gaps: how many were longer than ``wanted.gap_s``.
        stale: share of the ticks at which the newest message was older than that; None where
            there is nothing to be judged.
        offset_s: median of receive stamp less header stamp; None without header stamps.
        largest_offset_s: of it, furthest from 0.
        beyond_tolerance: messages whose offset is larger than ``stamp_tolerance_s``.
        repeated: messages with the header stamp of the one before.
        backward: messages with an earlier one.
        bad: what cannot be used, by reason.
        receive_ns: (messages,) int64, receive stamps.
        stamp_ns: (messages,) int64, header stamps; receive stamps where there is none.
    """

    topic: str
    type: str
    wanted: WantedTopic | None
    messages: int
    rate_hz: float | None = None
    p50_s: float | None = None
    p99_s: float | None = None
    longest_s: float | None = None
    gaps: int = 0
    stale: float | None = None
    offset_s: float | None = None
    largest_offset_s: float | None = None
    beyond_tolerance: int = 0
    repeated: int = 0
    backward: int = 0
    bad: tuple[BadMessages, ...] = ()
    receive_ns: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    stamp_ns: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)

    @property
    def bad_messages(self) -> int:
        """All that cannot be used."""
        return sum(bad.count for bad in self.bad)

    @property
    def needs_hz(self) -> float | None:
        """Messages a second that the contract asks for."""
        return None if self.wanted is None else self.wanted.rate_hz


class TopicLog:
    """Gathers what `TopicReport` says, some messages at a time.

    Args:
        channel: the topic, as the bag has it.
        wanted: what the contract asks of it.
        check: raises MessageError for what cannot be used.
    """

    def __init__(
        self,
        channel: Channel,
        wanted: WantedTopic | None = None,
        check: Callable[[bytes], object] | None = None,
    ) -> None:
        self.channel = channel
        self.wanted = wanted
        self._check = check
        self._headed = has_header(channel)
        self._receive = array('q')
        self._stamp = array('q')
        self._bad: dict[str, BadMessages] = {}

    def add(self, messages: Sequence[Message]) -> None:
        """Take the next messages."""
        self._receive.extend([message.receive_ns for message in messages])
        if self._headed:
            self._stamp.extend(header_stamps(messages).tolist())
        if self._check is None:
            return
        for message in messages:
            try:
                self._check(message.data)
            except MessageError as error:
                self._note(str(error), message.receive_ns)

    def _note(self, reason: str, receive_ns: int) -> None:
        kind = _NUMBER.sub('#', reason)
        if kind not in self._bad and len(self._bad) >= _KINDS_OF_BAD:
            kind = reason = _OTHER
        known = self._bad.get(kind, BadMessages(reason, 0, receive_ns))
        self._bad[kind] = BadMessages(known.reason, known.count + 1, known.first_ns)

    @property
    def receive_ns(self) -> np.ndarray:
        """Receive stamps, (messages,) int64."""
        return np.array(self._receive, np.int64)

    def report(
        self,
        lockstep: bool,
        ticks_ns: np.ndarray,
        span_ns: tuple[int, int],
        tolerance_s: float,
    ) -> TopicReport:
        """Return what was found.

        Args:
            lockstep: times are header stamps.
            ticks_ns: (ticks,) int64, when the ticks were received.
            span_ns: first and last receive stamp of the recording.
            tolerance_s: the contract's ``stamp_tolerance_s``.
        """
        receive, wanted = self.receive_ns, self.wanted
        stamps = np.array(self._stamp, np.int64) if self._headed else receive
        found = TopicReport(
            self.channel.topic,
            self.channel.type_name,
            wanted,
            len(receive),
            bad=tuple(self._bad.values()),
            receive_ns=receive,
            stamp_ns=stamps,
        )
        steps = np.diff(stamps) if self._headed else np.zeros(0, np.int64)
        numbers: dict[str, object] = {
            'repeated': int((steps == 0).sum()),
            'backward': int((steps < 0).sum()),
        }
        by_stamp = lockstep and self._headed
        sensor = wanted is not None and wanted.role == 'sensor'
        spans = steps[steps > 0] if by_stamp else np.diff(receive)
        if len(spans):
            limit_ns = np.inf if wanted is None else wanted.gap_s * 1e9
            usual = spans[spans <= min(limit_ns, self._pause_ns(spans))]
            usual = usual if len(usual) else spans
            p50, p99 = np.quantile(spans, (0.5, 0.99)) / 1e9
            numbers |= {
                'rate_hz': float(len(usual) / max(usual.sum() / 1e9, 1e-9)),
                'p50_s': float(p50),
                'p99_s': float(p99),
            }
            if sensor and not by_stamp:  # that it came late, or went away, counts too
                ends = (receive[0] - span_ns[0], span_ns[1] - receive[-1])
                spans = np.append(spans, np.array(ends, np.int64))
            numbers |= {
                'longest_s': float(spans.max() / 1e9),
                'gaps': int((spans > limit_ns).sum()) if wanted is not None else 0,
            }
        if sensor and not lockstep and len(ticks_ns):
            assert wanted is not None
            numbers['stale'] = stale_share(ticks_ns, receive, round(wanted.gap_s * 1e9))
        if self._headed and not lockstep and len(receive):
            offsets = (receive - stamps) / 1e9
            numbers |= {
                'offset_s': float(np.median(offsets)),
                'largest_offset_s': float(offsets[np.abs(offsets).argmax()]),
                'beyond_tolerance': int((np.abs(offsets) > tolerance_s).sum()) if sensor else 0,
            }
        return TopicReport(**{**vars(found), **numbers})  # type: ignore[arg-type]

    def _pause_ns(self, spans: np.ndarray) -> float:
        """Return how long nothing is sent between two episodes, at least."""
        needs_hz = None if self.wanted is None else self.wanted.rate_hz
        return _PAUSE * max(float(np.median(spans)), 1e9 / needs_hz if needs_hz else 0.0)


def header_stamps(messages: Sequence[Message]) -> np.ndarray:
    """Return (messages,) int64: header stamps in ns, receive stamps where there is none."""
    received = np.array([message.receive_ns for message in messages], np.int64)
    heads = [message.data[: _HEAD.itemsize] for message in messages]
    if any(len(head) < _HEAD.itemsize for head in heads):
        stamps = [peek_stamp_ns(message.data) or 0 for message in messages]
        found = np.array(stamps, np.int64)
        return np.where(found == 0, received, found)
    head = np.frombuffer(b''.join(heads), _HEAD)
    found = head['sec'] * np.int64(1_000_000_000) + head['nanosec']
    readable = (head['cdr'] == _LITTLE_ENDIAN) & (head['nanosec'] < 1_000_000_000)
    return np.where(readable & (found != 0), found, received)


def stale_share(ticks_ns: np.ndarray, receive_ns: np.ndarray, max_age_ns: int) -> float:
    """Return the share of ticks, (ticks,), before which no message came for `max_age_ns`."""
    received = np.sort(receive_ns)
    place = np.searchsorted(received, ticks_ns, side='right') - 1
    if not len(received):
        return 1.0
    age = ticks_ns - received[np.maximum(place, 0)]
    return float(((place < 0) | (age > max_age_ns)).mean())


def has_header(channel: Channel) -> bool:
    """Say whether the messages of a topic begin with a std_msgs/Header."""
    text = channel.definition.decode(errors='replace') if channel.encoding == 'ros2msg' else ''
    if not text:
        try:
            text = type_definition(channel.type_name)[0]
        except BagError:
            return False
    lines = (line.partition('#')[0].strip() for line in text.splitlines())
    first = next(filter(None, lines), '')
    return first.split(' ')[0] in ('std_msgs/Header', 'std_msgs/msg/Header', 'Header')
