# SPDX-License-Identifier: Apache-2.0
"""The clock that ticks are counted on: monotonic, never the wall's, which can be set."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What pacing needs of time; a test gives its own."""

    def now_ns(self) -> int:
        """Return the monotonic time."""

    def sleep(self, duration_ns: int) -> None:
        """Sleep about that long; at once if it is not positive."""

    def wait(self, gate: threading.Lock, duration_ns: int) -> bool:
        """Sleep about that long, or until `gate` is released; True if it was."""


class MonotonicClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """Return ``time.monotonic_ns()``."""
        return time.monotonic_ns()

    def sleep(self, duration_ns: int) -> None:
        """Sleep."""
        if duration_ns > 0:
            time.sleep(duration_ns * 1e-9)

    def wait(self, gate: threading.Lock, duration_ns: int) -> bool:
        """Wait as precisely as `sleep` does: the time-out is an absolute one in the kernel."""
        return gate.acquire(timeout=max(0.0, duration_ns * 1e-9))


class FakeClock:
    """Time that passes only when somebody sleeps, or when a test says so.

    Args:
        now_ns: the time at the start.
        oversleep_ns: every sleep lasts this much longer than asked.
        reading_ns: what reading the time takes, so that a spin ends.
    """

    def __init__(self, now_ns: int = 0, oversleep_ns: int = 0, reading_ns: int = 1) -> None:
        self.time_ns = now_ns
        self.oversleep_ns = oversleep_ns
        self.reading_ns = reading_ns

    def now_ns(self) -> int:
        """Return the fake time."""
        self.time_ns += self.reading_ns
        return self.time_ns

    def sleep(self, duration_ns: int) -> None:
        """Let time pass."""
        if duration_ns > 0:
            self.time_ns += duration_ns + self.oversleep_ns

    def wait(self, gate: threading.Lock, duration_ns: int) -> bool:
        """Let time pass, unless `gate` is open already."""
        if gate.acquire(blocking=False):
            return True
        self.sleep(duration_ns)
        return False
