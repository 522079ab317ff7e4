# SPDX-License-Identifier: Apache-2.0
"""Keeps a trainer process supplied and alive: history first, then what comes in. No ROS."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.errors import QcfqlError

Event = Step | SegmentEnd

SLACK_TICKS = 64
UNLIMITED = 2**62
_PENDING_BYTES = 4 << 20
_BATCH = 64
_LONGEST_BACKOFF_S = 60.0


class Link(Protocol):
    """The trainer process as `training.link.TrainerLink` shows it."""

    alive: bool
    pending_bytes: int

    def send_events(self, events: Sequence[Event]) -> None:
        """Hand over steps and segment ends."""

    def poll(self) -> list[dict[str, Any]]:
        """Return messages from the trainer."""

    def close(self, timeout_s: float) -> None:
        """Ask for a checkpoint and the end, then wait."""


class TrainerFeed:
    """Feeds one trainer, and the next when it dies.

    A trainer begins with nothing but its checkpoint; the steps are in the bag. So a new one is
    given the history, read from the bag, and after it the live steps, in their order.

    Args:
        start: starts a trainer process.
        history: ``history(live)`` yields the events of the sessions before this one and then
            the first `live` events of this session.
        warn: told in one line what went wrong.
        clock: seconds, monotonic.

    Attributes:
        steps: given to this trainer so far.
        live: events of this session so far.
        restarts: trainers that died.
        status: last status message of this trainer.
        policy: last policy message.
    """

    def __init__(
        self,
        start: Callable[[], Link],
        history: Callable[[int], Iterator[Event]],
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start, self._make_history, self._warn, self._clock = start, history, warn, clock
        self.live = 0
        self.restarts = 0
        self.policy: dict[str, Any] = {}
        self._ever_ready = False
        self._backoff_s = 1.0
        self._begin()

    def _begin(self) -> None:
        self.steps = 0
        self.status: dict[str, Any] = {}
        self._error = ''
        self._restart_at: float | None = None
        self._queue: deque[Event] = deque()
        self._history: Iterator[Event] | None = self._make_history(self.live)
        self._link = self._start()

    @property
    def loading(self) -> bool:
        """Whether the trainer still starts, or is still being given the past."""
        return self._history is not None or self._restart_at is not None or not self.status

    def add(self, events: Sequence[Event]) -> None:
        """Queue what the assembler made."""
        self.live += len(events)
        if self._restart_at is None:
            self._queue.extend(events)

    def pump(self, budget_s: float = 0.008) -> list[dict[str, Any]]:
        """Send, receive and restart; takes about `budget_s`. Returns the trainer's messages.

        Raises:
            QcfqlError: the trainer refused to start at all.
        """
        if self._restart_at is not None:
            if self._clock() >= self._restart_at:
                self._begin()
            return []
        messages = self._link.poll()
        for message in messages:
            if message['kind'] == 'status':
                self.status = message
                self._ever_ready = True
                self._backoff_s = 1.0
            elif message['kind'] == 'policy':
                self.policy = message
            elif message['kind'] == 'error':
                self._error = str(message['text'])
        if not self._link.alive:
            self._died()
            return messages
        until = self._clock() + budget_s
        while self._link.pending_bytes < _PENDING_BYTES and self._clock() < until:
            batch = self._next_batch()
            if not batch:
                break
            self.steps += sum(isinstance(event, Step) for event in batch)
            self._link.send_events(batch)
        return messages

    def credits(self, last_tick: int, utd_ratio: float, warmup_steps: int) -> int:
        """Return the last tick that the robot may execute, so that updates keep up with steps."""
        if self.status.get('stopped'):
            return UNLIMITED  # learning is over; practice and its recording are not
        if self.loading:
            return last_tick
        allowed = warmup_steps + int(self.status.get('updates', 0) / utd_ratio) + SLACK_TICKS
        return last_tick + max(0, allowed - self.steps - self._queued_steps())

    def close(self, timeout_s: float) -> None:
        """Give over what is queued, ask for a checkpoint and the end; kill after `timeout_s`."""
        if self._restart_at is None:
            if self._history is None and self._queue:
                self._link.send_events(list(self._queue))
                self._queue.clear()
            self._link.close(timeout_s)

    def _queued_steps(self) -> int:
        return sum(isinstance(event, Step) for event in self._queue)

    def _next_batch(self) -> list[Event]:
        if self._history is not None:
            batch = []
            for event in self._history:
                batch.append(event)
                if len(batch) == _BATCH:
                    return batch
            self._history = None
            if batch:
                return batch
        batch = list(self._queue)
        self._queue.clear()
        return batch

    def _died(self) -> None:
        self._link.close(0.0)
        if self._error and not self._ever_ready:
            raise QcfqlError(self._error)
        self.restarts += 1
        self._warn(
            f'the trainer ended ({self._error or "killed or crashed, see its log"}); a new one '
            f'goes on from the last checkpoint in {self._backoff_s:g} s'
        )
        self._restart_at = self._clock() + self._backoff_s
        self._backoff_s = min(2.0 * self._backoff_s, _LONGEST_BACKOFF_S)
