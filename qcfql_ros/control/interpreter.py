# SPDX-License-Identifier: Apache-2.0
"""What Python itself puts between a deadline and a tick: garbage collection and the global lock.

A collection runs in whichever thread allocates, and holds the lock meanwhile: a full one takes
tens of milliseconds with torch and ROS loaded. Here what is there at the start is left alone for
good (`gc.freeze`), nothing is collected by itself, and young objects are collected after a tick
that leaves time for it. A thread that wants the lock waits the switch interval before it may ask
the holder to let go; Python's own 5 ms are half a period at 100 Hz.
"""

from __future__ import annotations

import gc
import sys
import time

SWITCH_INTERVAL_S = 100e-6
TICK_SWITCH_INTERVAL_S = 5e-3
_ROOM = 3  # a collection is begun if it took at most a third of the time left, the last times
_FIRST_NS = (500_000, 2_000_000, 20_000_000)  # what a collection is taken to last before one has
_DUE = 8  # young collections to a middle one, and middle ones to a full one
_OVERDUE = 64  # so many times the threshold, whatever is in the way


class QuietInterpreter:
    """Entered by the control thread around its ticks; holds for the process until it is left.

    What is garbage when it is made is collected there, which may take half a second: it is made
    by whoever starts the control thread, and not in that thread.

    Attributes:
        collections: done, of each generation.
        longest_ns: of these, the longest.
        forced: done though there was not enough time, because they had been due for long.
    """

    def __init__(self, switch_interval_s: float = SWITCH_INTERVAL_S) -> None:
        self._switch_interval_s = switch_interval_s
        self.collections = [0, 0, 0]
        self.longest_ns = [0, 0, 0]
        self.forced = 0
        self._takes_ns = list(_FIRST_NS)
        gc.collect()
        self._since = [0, 0]  # young ones since the last middle one, middle since the last full

    def __enter__(self) -> QuietInterpreter:
        self._before = sys.getswitchinterval(), gc.isenabled()
        self._threshold = gc.get_threshold()[0] or 700
        sys.setswitchinterval(self._switch_interval_s)
        gc.disable()
        gc.freeze()
        return self

    def __exit__(self, *_: object) -> None:
        interval_s, enabled = self._before
        sys.setswitchinterval(interval_s)
        gc.unfreeze()
        if enabled:
            gc.enable()

    def tick_begins(self) -> None:
        """Let no other thread interrupt the tick."""
        sys.setswitchinterval(TICK_SWITCH_INTERVAL_S)

    def tick_ended(self, left_ns: int, paced: bool) -> None:
        """Collect what is due, if `left_ns` leaves room; before a poll there always is."""
        sys.setswitchinterval(self._switch_interval_s)
        allocated = gc.get_count()[0]
        if allocated < self._threshold:
            return
        generation = 0
        if self._since[0] >= _DUE:
            generation = 2 if self._since[1] >= _DUE else 1
        while paced and self._takes_ns[generation] * _ROOM > left_ns:
            # One interruption of a collection is not to forbid all later ones.
            self._takes_ns[generation] -= self._takes_ns[generation] // 64
            if generation == 0:
                if allocated < _OVERDUE * self._threshold:
                    return
                self.forced += 1
                break
            generation -= 1  # the younger objects at least
        self._collect(generation)

    def _collect(self, generation: int) -> None:
        began = time.monotonic_ns()
        gc.collect(generation)
        took_ns = time.monotonic_ns() - began
        self.collections[generation] += 1
        self.longest_ns[generation] = max(self.longest_ns[generation], took_ns)
        takes_ns = self._takes_ns[generation]
        self._takes_ns[generation] = max(took_ns, takes_ns - takes_ns // 8)
        if generation == 0:
            self._since[0] += 1
        elif generation == 1:
            self._since = [0, self._since[1] + 1]
        else:
            self._since = [0, 0]
