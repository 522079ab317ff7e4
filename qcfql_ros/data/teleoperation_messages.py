# SPDX-License-Identifier: Apache-2.0
"""The messages of a bag that others recorded, as series of stamps and numbers by topic."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qcfql_ros.contract import topics
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.decode_commands import command_numbers
from qcfql_ros.contract.schema import Command, Contract
from qcfql_ros.data.bag_file import Message
from qcfql_ros.data.bulk_decode import StreamDecoder
from qcfql_ros.data.cdr import CdrReader, peek_stamp_ns
from qcfql_ros.errors import MessageError

AT_ONCE = 4096
NONE = -1
"""Place in a series that stands for no message."""


@dataclass(frozen=True, eq=False)
class Series:
    """The messages of one topic by stamp, each stamp once.

    Attributes:
        stamp_ns: (n,) int64, ascending: header stamps, or receive stamps where there is none.
        receive_ns: (n,) int64.
        values: (n, k) float64, or float32 where nothing needs more; of a message that is not good
            they mean nothing.
        good: (n,) bool, whether the message can be used.
    """

    stamp_ns: np.ndarray
    receive_ns: np.ndarray
    values: np.ndarray
    good: np.ndarray

    def latest(
        self, times_ns: np.ndarray, max_age_ns: int | np.ndarray | None = None
    ) -> np.ndarray:
        """Return the place of the latest message at or before each time, `NONE` for none.

        Args:
            times_ns: (m,) int64, in the clock of the stamps.
            max_age_ns: an older one does not count.
        """
        place = np.searchsorted(self.stamp_ns, times_ns, 'right') - 1
        if max_age_ns is not None and len(self.stamp_ns):
            place[times_ns - self.stamp_ns[place] > max_age_ns] = NONE
        return place

    def goes_to(self, ticks_ns: np.ndarray, window: tuple[int, int]) -> np.ndarray:
        """Return the place of the first message in the window of each tick, `NONE` for none.

        A message is part of one tick at most: the last one whose window has begun, if that has
        not ended.

        Args:
            ticks_ns: (m,) int64.
            window: when it begins, and when it has ended, in ns behind the tick.
        """
        places = np.full(len(ticks_ns), NONE)
        if not len(ticks_ns):
            return places
        order = np.argsort(ticks_ns, kind='stable')
        ordered = ticks_ns[order]
        begun = np.searchsorted(ordered + window[0], self.stamp_ns, 'right') - 1
        within = (begun >= 0) & (self.stamp_ns < ordered[begun] + window[1])
        which, first = np.unique(begun[within], return_index=True)
        places[order[which]] = np.flatnonzero(within)[first]
        return places

    def within_float32(self) -> Series:
        """Return the series in which a message that does not fit a float32 is not good."""
        good = self.good.copy()
        with np.errstate(over='ignore'):
            for column in self.values.T:  # not all at once: a bag may be large
                good &= np.isfinite(column.astype(np.float32))
        return replace(self, good=good)


class Growing:
    """A series that is being read.

    Args:
        size: numbers of a message.
        single: keep them as float32.
    """

    def __init__(self, size: int, single: bool = False) -> None:
        self.size = size
        self._stamps, self._receives = array('q'), array('q')
        self._values = array('f' if single else 'd')
        self._good = bytearray()
        self._nothing = [0.0] * size

    @property
    def message_bytes(self) -> int:
        """What one message takes."""
        return 2 * self._stamps.itemsize + self.size * self._values.itemsize + 1

    def add(self, stamp_ns: int, receive_ns: int, values: Sequence[float] | None) -> None:
        """Append a message; None for values that cannot be used."""
        self._stamps.append(stamp_ns)
        self._receives.append(receive_ns)
        self._values.extend(self._nothing if values is None else values)
        self._good.append(values is not None)

    def add_all(
        self, stamp_ns: np.ndarray, receive_ns: np.ndarray, values: np.ndarray, good: np.ndarray
    ) -> None:
        """Append messages: (n,) int64 both, (n, size) float64, (n,) bool."""
        self._stamps.frombytes(stamp_ns.astype(np.int64).tobytes())
        self._receives.frombytes(receive_ns.astype(np.int64).tobytes())
        with np.errstate(over='ignore'):
            numbers = values.astype(self._values.typecode)
        self._values.frombytes(numbers.tobytes())
        self._good += good.astype(np.uint8).tobytes()

    def series(self, tolerance_ns: int, counters: Counter[str]) -> Series:
        """Return what was read, ordered; of equal stamps the first one.

        Args:
            tolerance_ns: a stamp further than this from its receive stamp is not used: its clock
                is wrong.
            counters: what is left out is added to it.
        """
        n = len(self._stamps)
        if not n:
            nothing = np.zeros(0, np.int64)
            return Series(nothing, nothing, np.zeros((0, self.size)), np.zeros(0, bool))
        stamp = np.frombuffer(self._stamps, np.int64)
        receive = np.frombuffer(self._receives, np.int64)
        values = np.frombuffer(self._values, self._values.typecode).reshape(n, self.size)
        good = np.frombuffer(self._good, bool)
        right = np.abs(receive - stamp) <= tolerance_ns
        if right.all() and (stamp[1:] > stamp[:-1]).all():
            return Series(stamp, receive, values, good)  # no copy of a large bag
        counters['stamp_out_of_tolerance'] += int((~right).sum())
        _, first = np.unique(stamp[right], return_index=True)
        keep = np.flatnonzero(right)[first]
        counters['duplicate'] += int(right.sum()) - len(keep)
        return Series(stamp[keep], receive[keep], values[keep], good[keep])


class Gathered:
    """What a stretch of a bag holds of the topics that make steps.

    Args:
        contract: with a section `recordings`.

    Attributes:
        counters: messages, and those that cannot be used.
        counts: messages by topic.
        problem: by topic, why the first message of it that cannot be used cannot.
        now_ns: the latest receive stamp; None before the first message.
    """

    def __init__(self, contract: Contract) -> None:
        rules = contract.recordings
        assert rules is not None
        self.contract, self.rules = contract, rules
        self.counters: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.problem: dict[str, str] = {}
        self.streams = {
            name: Growing(
                sum(e.size for e in contract.state if e.stream == name), _is_single(contract)
            )
            for name in contract.streams
        }
        self.commands = {c.topic: Growing(len(c.fields)) for c in contract.action.commands}
        self.rewards = Growing(1)
        self.now_ns: int | None = None
        self._events: dict[tuple[int, str], int] = {}
        self._decoder, self._read = Decoder(contract), CdrReader()
        self._bulk = {
            name: StreamDecoder(contract, name, self._decoder, self._read)
            for name in contract.streams
        }
        self._waiting: dict[str, list[Message]] = {name: [] for name in contract.streams}
        self._takers: dict[str, Callable[[Message], None]] = {}
        for name in contract.streams:
            self._takers[contract.streams[name].topic] = self._stream(name)
        for command in contract.action.commands:
            self._takers[command.topic] = self._command(command)
        if rules.reward.topic:
            self._takers[rules.reward.topic] = self._reward
        if rules.events is not None:
            self._takers[rules.events.topic] = self._event
        self._takers = {topics.absolute(topic): taker for topic, taker in self._takers.items()}

    @property
    def events(self) -> list[tuple[int, str]]:
        """Receive stamp and text of each event in the order of receipt."""
        return sorted((receive_ns, text) for (_, text), receive_ns in self._events.items())

    def take(self, messages: Iterable[Message]) -> None:
        """Add messages in the order of receipt; `finish` behind the last ones."""
        for message in messages:
            taker = self._takers.get(message.topic)
            self.counters['messages'] += 1
            self.now_ns = max(self.now_ns or 0, message.receive_ns)
            if taker is None:
                continue
            self.counts[message.topic] += 1
            try:
                taker(message)
            except MessageError as error:
                self._bad(message, error)

    def _bad(self, message: Message, error: MessageError) -> None:
        self.counters['bad_message'] += 1
        self.problem.setdefault(message.topic, str(error))

    def finish(self) -> None:
        """Decode what is still to be decoded."""
        for name, waiting in self._waiting.items():
            self._decode(name, waiting)
            waiting.clear()

    def _stream(self, name: str) -> Callable[[Message], None]:
        waiting = self._waiting[name]

        def take(message: Message) -> None:
            waiting.append(message)
            if len(waiting) >= AT_ONCE:
                self._decode(name, waiting)
                waiting.clear()

        return take

    def _decode(self, name: str, messages: list[Message]) -> None:
        """Decode messages of one stream, in order."""
        kind = self.contract.streams[name].type
        columns = self._bulk[name]([message.data for message in messages])
        receive_ns = np.array([message.receive_ns for message in messages], np.int64)
        stamp_ns = np.where(columns.stamp_ns == 0, receive_ns, columns.stamp_ns)
        kept = np.ones(len(messages), bool)
        for row in np.flatnonzero(~columns.good).tolist():
            message = messages[row]
            try:
                self._decoder.decode_cdr(name, message.data, self._read)
            except MessageError as error:
                self._bad(message, error)
            if kind not in topics.UNSTAMPED:
                stamp = peek_stamp_ns(message.data)
                kept[row] = stamp is not None
                stamp_ns[row] = stamp or message.receive_ns
        self.streams[name].add_all(
            stamp_ns[kept], receive_ns[kept], columns.values[kept], columns.good[kept]
        )

    def _command(self, command: Command) -> Callable[[Message], None]:
        series = self.commands[command.topic]
        by_header = self.rules.by_header and command.topic == self.rules.clock

        def take(message: Message) -> None:
            receive_ns = message.receive_ns
            stamp = (peek_stamp_ns(message.data) or receive_ns) if by_header else receive_ns
            numbers = None
            try:
                numbers = command_numbers(command, self._read(message.data, command.type))
            except MessageError as error:
                self._bad(message, error)
            series.add(stamp, receive_ns, numbers)

        return take

    def _reward(self, message: Message) -> None:
        number = None
        try:
            number = [reward_number(self._read(message.data, self.rules.reward.type))]
        except MessageError as error:
            self._bad(message, error)
        self.rewards.add(message.receive_ns, message.receive_ns, number)

    def _event(self, message: Message) -> None:
        text = self._read(message.data, topics.STRING).data
        # A message of a latched topic comes again to a recorder that subscribes again.
        sent_ns = message.publish_ns or message.receive_ns
        self._events.setdefault((sent_ns, text), message.receive_ns)


def reward_number(message: Any) -> float:
    """Return what a message with one number says a tick is worth.

    Raises:
        MessageError: it is not finite.
    """
    number = float(message.data)
    if not math.isfinite(number):
        raise MessageError(f'reward is {number}, wanted finite')
    return number


def _is_single(contract: Contract) -> bool:
    """Say whether a sensor's numbers go into float32 observations and nowhere else."""
    fields = [field for command in contract.action.commands for field in command.fields]
    measured = any(field.relative == 'measured' for field in fields)
    return not measured and not contract.wants_previous
