# SPDX-License-Identifier: Apache-2.0
"""Pacing by the robot's messages: one tick for each complete set of sensor messages.

::

    robot   sensors s0        outcome s0, sensors s1        outcome s1 (ended), sensors s2, s3
    policy            tick s0                       tick s1                              tick s3

A set is complete when every stream has a message with that stamp. It is acted on once the outcome
of the tick before is there too; the set after an ended outcome is the final observation, which
nobody acts on, and the one after that begins the next episode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.named_vector import Outcome
from qcfql_ros.contract.schema import Contract
from qcfql_ros.control.chunk_buffer import ChunkBuffer
from qcfql_ros.control.commander import Commander
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.halt import HaltLatch
from qcfql_ros.control.measured import MeasuredReader
from qcfql_ros.control.planner import Planner
from qcfql_ros.data.steps import Source
from qcfql_ros.errors import MessageError


class LockstepDriver:
    """All in the caller's thread, inference too: one plan every k ticks.

    Args:
        contract: streams and period.
        planner: makes the chunks.
        commander: sends the rows.
        latch: the halt latch.
        counters: to count in.
        connected: whether a command would reach the robot; asked until it is true once.
        execution_horizon: how many rows of a chunk are played; 0 plays all.
    """

    def __init__(
        self,
        contract: Contract,
        planner: Planner,
        commander: Commander,
        latch: HaltLatch,
        counters: Counters,
        connected: Callable[[], bool] = lambda: True,
        execution_horizon: int = 0,
    ) -> None:
        self._connected = connected
        self._contract = contract
        self._decoder = Decoder(contract)
        self._planner = planner
        self._commander = commander
        self._latch = latch
        self._counters = counters
        self._buffer = ChunkBuffer(execution_horizon)
        self._places = MeasuredReader(contract)
        self._soft = True  # the next episode is the first one after an activation or a resume
        self._episode = -1
        self._halt_sent = False
        self._started = False
        self._forget()

    def _forget(self) -> None:
        """Drop all that is known of the robot: it is new, or it was lost."""
        self._sets: dict[int, dict[str, np.ndarray | None]] = {}
        self._newest: dict[str, int] = {}
        self._awaiting: int | None = None
        self._final_next = False
        self._new_episode = True
        self._ticks_at_check = -1

    def on_sensor(self, stream: str, stamp_ns: int, values: np.ndarray | None) -> None:
        """Take one decoded message; None for one that could not be used."""
        if stamp_ns <= self._newest.get(stream, -1):
            self._forget()  # stamps went back: the robot was started again
        self._newest[stream] = stamp_ns
        self._sets.setdefault(stamp_ns, {})[stream] = values
        if len(self._sets[stamp_ns]) == len(self._contract.streams):
            self.advance()

    def on_outcome(self, outcome: Outcome) -> None:
        """Take the outcome of a tick."""
        if outcome.stamp_ns != self._awaiting:
            return
        self._awaiting = None
        if outcome.ended:
            self._final_next = self._new_episode = True
        self.advance()

    def advance(self) -> None:
        """Tick if everything is there; call it after a resume or a new connection too."""
        if self._commander.last_stamp_ns is None and not self._connected():
            return
        if self._awaiting is not None:
            newest = self._complete(newest=True)
            # An ended tick is followed by two sets, which may overtake their outcome, not more.
            if newest is not None and newest > self._awaiting + 2 * self._contract.period_ns:
                self._give_up()
        while self._awaiting is None and (stamp_ns := self._complete()) is not None:
            if self._final_next:
                self._final_next = False
                self._take(stamp_ns)
            elif not self._latch.halted:
                self._halt_sent = False
                self._tick(stamp_ns, self._take(stamp_ns))
            elif not self._halt_sent:
                self._halt_sent = self._new_episode = self._soft = True
                self._take(stamp_ns)
                self._safe_command(stamp_ns)
            else:
                return

    def check(self) -> str:
        """Return what is being waited for, '' while ticks go on; call it about once a second.

        An outcome that did not come between two calls, while later sensor messages did, is given
        up: the robot began a new episode without executing that tick.
        """
        ticks, self._ticks_at_check = self._ticks_at_check, self._counters.ticks
        if ticks != self._counters.ticks:
            return ''
        if self._awaiting is not None and self._complete() is not None:
            self._give_up()
        self.advance()
        if self._awaiting is not None:
            return f'the outcome of the tick at {self._awaiting} ns'
        if not self._sets:
            return 'sensor messages'
        have = self._sets[max(self._sets)]
        missing = [s.topic for s in self._contract.streams.values() if s.name not in have]
        return 'a message on ' + ', '.join(missing) if missing else ''

    def stop(self) -> None:
        """Send the safe command as the last one, if anything was ever commanded."""
        last = self._commander.last_stamp_ns
        if last is None or self._contract.on_stop == 'none' or self._halt_sent:
            return
        ahead = 2 if self._final_next else 1
        self._buffer.reset()
        self._commander.stop(last + ahead * self._contract.period_ns, self._episode, None)

    def _complete(self, newest: bool = False) -> int | None:
        full = len(self._contract.streams)
        complete = (stamp for stamp, values in self._sets.items() if len(values) == full)
        return (max if newest else min)(complete, default=None)

    def _give_up(self) -> None:
        """The outcome awaited will not come: go on with the newest set, in a new episode."""
        newest = self._complete(newest=True) or 0
        self._sets = {s: values for s, values in self._sets.items() if s >= newest}
        self._awaiting, self._final_next, self._new_episode = None, False, True
        self._counters.lost_outcomes += 1

    def _take(self, stamp_ns: int) -> dict[str, np.ndarray | None]:
        values = self._sets.pop(stamp_ns)
        for older in [s for s in self._sets if s < stamp_ns]:
            del self._sets[older]  # a stream skipped that stamp; it cannot complete any more
        return values

    def _safe_command(self, stamp_ns: int) -> None:
        self._buffer.reset()
        self._awaiting = stamp_ns
        self._commander.hold(stamp_ns, self._episode, Source.HALT)

    def _tick(self, stamp_ns: int, values: dict[str, np.ndarray | None]) -> None:
        bad = [name for name, numbers in values.items() if numbers is None]
        measured = self._places.read(values)
        if self._new_episode:
            self._new_episode = False
            self._buffer.reset()
            self._episode += 1
            self._counters.episodes += 1
            self._started = False
        if not self._started and measured is not None:
            self._commander.start(measured, self._soft)
            self._started, self._soft = True, False
        self._awaiting = stamp_ns
        if bad:
            self._refuse(f'stream {bad[0]!r}: the message at {stamp_ns} ns cannot be used')
            self._commander.hold(stamp_ns, self._episode)
            return
        due = self._buffer.take()
        if due is None:
            try:
                self._plan(stamp_ns, values)
            except MessageError as error:
                self._refuse(str(error))
            due = self._buffer.take()
        if due is None:
            self._commander.late(stamp_ns, self._episode, measured)
        else:
            chunk, index = due
            rows = self._buffer.played(chunk)
            self._commander.play(stamp_ns, chunk, index, rows, measured=measured)

    def _plan(self, stamp_ns: int, values: Mapping[str, Any]) -> None:
        previous, before = self._commander.executed.before(stamp_ns, self._episode)
        observation = self._decoder.observation(values, previous)
        stamps = dict.fromkeys(self._contract.streams, stamp_ns) | before
        epoch = self._buffer.epoch
        self._buffer.offer(self._planner.plan(observation, stamps, self._episode, epoch))

    def _refuse(self, reason: str) -> None:
        self._counters.refused += 1
        # What was wrong with a message, if that was said, says more.
        self._counters.reason = self._counters.reason or reason
        self._buffer.reset()
