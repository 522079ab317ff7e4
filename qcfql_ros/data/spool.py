# SPDX-License-Identifier: Apache-2.0
"""A bounded queue in memory between who hears messages and who writes them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple


class Item(NamedTuple):
    """A message as received; times in ns."""

    topic: str
    receive_ns: int
    publish_ns: int
    data: bytes


class Spool:
    """Holds what is not written yet; a message counts until `done` says that it is.

    Args:
        max_bytes: of message data.
        max_s: how long the oldest message may have waited.
        clock: seconds, monotonic.

    Attributes:
        bytes: held now.
        peak_bytes: held at most so far.
        closed: nothing more is taken in.
    """

    def __init__(
        self, max_bytes: int, max_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes, self._max_s, self._clock = max_bytes, max_s, clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[Item] = deque()
        self._held: deque[tuple[float, int]] = deque()  # since when, how many bytes
        self.bytes = self.peak_bytes = 0
        self.closed = False

    @property
    def seconds(self) -> float:
        """How long the oldest message has waited."""
        try:
            return self._clock() - self._held[0][0]
        except IndexError:
            return 0.0

    @property
    def held(self) -> int:
        """How many messages are held."""
        return len(self._held)

    def put(self, item: Item) -> bool:
        """Take a message in; False when it does not fit, or when the spool is closed."""
        now_s, size = self._clock(), len(item.data)
        with self._lock:
            held = self._held
            old = bool(held) and now_s - held[0][0] > self._max_s
            if self.closed or old or self.bytes + size > self._max_bytes:
                return False
            self._waiting.append(item)
            held.append((now_s, size))
            self.bytes += size
            if self.bytes > self.peak_bytes:
                self.peak_bytes = self.bytes
            if len(self._waiting) == 1:
                self._changed.notify()
        return True

    def take(self, max_bytes: int, timeout_s: float) -> list[Item]:
        """Return the oldest messages, about `max_bytes` of them; wait while there is none."""
        taken: list[Item] = []
        with self._changed:
            if not self._waiting and not self.closed:
                self._changed.wait(timeout_s)
            while self._waiting and max_bytes > 0:
                taken.append(self._waiting.popleft())
                max_bytes -= len(taken[-1].data)
        return taken

    def done(self, count: int) -> None:
        """Forget the oldest `count` messages, as far as there are so many: they are written."""
        with self._changed:
            for _ in range(min(count, len(self._held))):
                self.bytes -= self._held.popleft()[1]

    def close(self) -> None:
        """Take nothing more in; what is held is still to be written."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def clear(self) -> int:
        """Forget all that is held; return how many messages that were."""
        with self._changed:
            count = len(self._held)
            self._waiting.clear()
            self._held.clear()
            self.bytes = 0
        return count

    def open(self) -> None:
        """Take messages in again."""
        with self._changed:
            self.closed = False

    @property
    def drained(self) -> bool:
        """Whether it is closed and everything was taken."""
        return self.closed and not self._waiting
