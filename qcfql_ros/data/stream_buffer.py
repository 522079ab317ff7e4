# SPDX-License-Identifier: Apache-2.0
"""The recent messages of one stream, and which of them a tick looks at."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from enum import Enum

import numpy as np

CAPACITY = 4096


class Pick(Enum):
    """Why there is no message for a tick."""

    WAIT = 'wait'  # it may still come
    MISSING = 'missing'  # it will not
    BAD = 'bad'  # it came, and could not be used


class StreamBuffer:
    """Messages of one stream ordered by stamp; a stamp below the last one is the caller's to see.

    Attributes:
        last_ns: newest stamp added; None when empty from the start.
    """

    def __init__(self, tolerance_ns: int) -> None:
        self.last_ns: int | None = None
        self._tolerance_ns = tolerance_ns
        self._stamps: list[int] = []
        self._entries: dict[int, tuple[int, np.ndarray | None]] = {}

    def add(self, stamp_ns: int, receive_ns: int, values: np.ndarray | None) -> bool:
        """Keep a message, with None for values that could not be used; False for a second one."""
        if stamp_ns in self._entries:
            return False
        if len(self._stamps) >= CAPACITY:
            self.forget(self._stamps[CAPACITY // 2])
        self._stamps.append(stamp_ns)
        self._entries[stamp_ns] = (receive_ns, values)
        self.last_ns = stamp_ns
        return True

    def exact(self, stamp_ns: int) -> tuple[int, np.ndarray] | Pick:
        """Return (stamp, values) of the message stamped `stamp_ns`: the rule in lockstep."""
        entry = self._entries.get(stamp_ns)
        if entry is None:
            later = self.last_ns is not None and self.last_ns > stamp_ns
            return Pick.MISSING if later else Pick.WAIT
        return Pick.BAD if entry[1] is None else (stamp_ns, entry[1])

    def latest(
        self, limit_ns: int, max_age_ns: int, decided: bool
    ) -> tuple[int, np.ndarray] | Pick:
        """Return (stamp, values) of the latest message up to `limit_ns`: the wall clock's rule.

        Args:
            limit_ns: the tick's deadline less its lead.
            max_age_ns: an older one does not count.
            decided: take what is there; otherwise wait for a message after `limit_ns`.
        """
        if not decided and (self.last_ns is None or self.last_ns <= limit_ns):
            return Pick.WAIT
        place = bisect_right(self._stamps, limit_ns)
        while place:
            place -= 1
            stamp_ns = self._stamps[place]
            receive_ns, values = self._entries[stamp_ns]
            if stamp_ns < limit_ns - max_age_ns:
                break
            if abs(receive_ns - stamp_ns) > self._tolerance_ns:
                continue  # its clock is wrong: the message before it is the latest
            return Pick.BAD if values is None else (stamp_ns, values)
        return Pick.MISSING

    def forget(self, before_ns: int) -> None:
        """Drop what is stamped before `before_ns`."""
        place = bisect_left(self._stamps, before_ns)
        for stamp_ns in self._stamps[:place]:
            del self._entries[stamp_ns]
        del self._stamps[:place]

    def entries(self) -> list[tuple[int, int, np.ndarray | None]]:
        """Return what is kept: stamp, receive stamp and values, by stamp."""
        return [(stamp_ns, *self._entries[stamp_ns]) for stamp_ns in self._stamps]

    def restore(
        self, last_ns: int | None, entries: Iterable[tuple[int, int, np.ndarray | None]]
    ) -> None:
        """Become a buffer whose newest stamp added is `last_ns`, and that keeps `entries`."""
        self.clear()
        self.last_ns = last_ns
        for stamp_ns, receive_ns, values in entries:
            self._stamps.append(stamp_ns)
            self._entries[stamp_ns] = (receive_ns, values)

    def clear(self) -> None:
        """Start anew: the robot's clock did."""
        self.last_ns = None
        self._stamps.clear()
        self._entries.clear()
