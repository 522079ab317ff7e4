# SPDX-License-Identifier: Apache-2.0
"""Pacing by the clock, for robots.

::

    sensors     |g0             |g1             |g2        every period, at the robot's will
    ticks              |t0             |t1                 phase * period after the first stream's
    observe         |                                      lead before the first tick of a chunk

`tick` runs in the control thread and never waits: it takes the row that is due, sends it, and
asks the inference thread for the next chunk in time.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from qcfql_ros.contract.named_vector import Outcome
from qcfql_ros.contract.schema import Contract
from qcfql_ros.control.chunk_buffer import ChunkBuffer
from qcfql_ros.control.clock import Clock, MonotonicClock
from qcfql_ros.control.commander import Commander
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.executor import NextCall, TimedExecutor
from qcfql_ros.control.halt import HaltLatch
from qcfql_ros.control.latest import LatestMessages, Sample
from qcfql_ros.control.planner import Planner
from qcfql_ros.control.prefetch import ChunkRequest, Prefetch
from qcfql_ros.data.steps import Source

STOP_AFTER_NS = 1_000_000_000  # a stream silent for this long beyond its max_age: stop holding
_POLLS_PER_PERIOD = 10


class State(Enum):
    """What the control thread does."""

    WAITING = 'waiting'
    RUNNING = 'running'
    HALTED = 'halted'


class WallDriver:
    """Control thread, inference thread, and what they share.

    Args:
        contract: period, phase, streams.
        planner: used by the inference thread alone.
        commander: used by the control thread alone.
        latch: the halt latch.
        counters: to count in.
        ros_now_ns: the ROS clock; read once at each episode's start.
        clock: the monotonic clock.
    """

    def __init__(
        self,
        contract: Contract,
        planner: Planner,
        commander: Commander,
        latch: HaltLatch,
        counters: Counters,
        ros_now_ns: Callable[[], int],
        clock: Clock | None = None,
    ) -> None:
        self._contract = contract
        self._commander = commander
        self._latch = latch
        self._counters = counters
        self._ros_now_ns = ros_now_ns
        self._clock = clock or MonotonicClock()
        self.latest = LatestMessages(contract)
        self.buffer = ChunkBuffer()
        self.prefetch = Prefetch(planner, self.latest, self.buffer, counters, self._clock)
        self.executor = TimedExecutor(contract.period_ns, self.tick, self._clock)
        self.state = State.WAITING
        self._first_stream = next(iter(contract.streams))
        self._newer_than = (-1, -1)  # (stamp, receive time) of the sensors that are of the past
        self._ended: tuple[int, int] | None = None
        self._episode = -1
        self._episode_stamp_ns = 0
        self._offset_ns = 0

    def on_sensor(self, stream: str, sample: Sample) -> None:
        """Take one decoded message."""
        self.latest.put(stream, sample)

    def on_outcome(self, outcome: Outcome, receive_ns: int) -> None:
        """Take the outcome of a tick; an ended one stops this episode before the next tick."""
        if outcome.ended:
            self._ended = (outcome.stamp_ns, receive_ns)

    def check(self) -> str:
        """Return what is being waited for."""
        if self.state is State.RUNNING:
            return ''
        stale, _ = self.latest.stale(self._clock.now_ns())
        return stale or ('a sensor message of a new episode' if self._episode >= 0 else '')

    def start(self, died: Callable[[BaseException], None]) -> None:
        """Start both threads."""
        self.prefetch.start(died)
        self.executor.start(self._clock.now_ns(), died, paced=False)

    def stop(self) -> None:
        """End both threads; send the safe command last, if anything was ever commanded."""
        self.executor.stop()
        self.buffer.reset()
        self.prefetch.stop()
        last = self._commander.last_stamp_ns
        if last is None or self._contract.on_stop == 'none':
            return
        passed = self._clock.now_ns() + self._offset_ns - last
        periods = max(1, -(-passed // self._contract.period_ns))
        stamp_ns = last + periods * self._contract.period_ns
        self._commander.hold(stamp_ns, self._episode, Source.HALT)

    def tick(self, deadline_ns: int) -> NextCall | None:
        """Do what is due at `deadline_ns` (monotonic). Called by the executor."""
        if self._latch.halted:
            if self.state is State.RUNNING:
                self.buffer.reset()
                stamp_ns = deadline_ns + self._offset_ns
                self._commander.hold(stamp_ns, self._episode, Source.HALT)
            self.state = State.HALTED
            return self._poll()
        if self.state is State.HALTED:
            self._wait_for_newer()
        self._end_episode()
        if self.state is State.WAITING:
            return self._begin_episode()
        self._run(deadline_ns)
        return None

    def _run(self, deadline_ns: int) -> None:
        stamp_ns = deadline_ns + self._offset_ns
        stale, beyond_ns = self.latest.stale(self._clock.now_ns())
        if stale:
            self._counters.refused += 1
            self._counters.reason = stale
            self.buffer.reset()
            self._commander.hold(stamp_ns, self._episode)
            if beyond_ns > STOP_AFTER_NS:
                self._wait_for_newer()
            return
        due = self.buffer.take()
        if due is None:
            self._counters.chunk_misses += 1
            self._commander.hold(stamp_ns, self._episode)
        else:
            self._commander.play(stamp_ns, *due)
        self._request_in_time(deadline_ns)

    def _request_in_time(self, deadline_ns: int) -> None:
        """Ask for the chunk after the last planned row once its observation is due soon."""
        if self.prefetch.busy:
            return
        period_ns = self._contract.period_ns
        first_tick_ns = deadline_ns + (self.buffer.rows_left() + 1) * period_ns
        if first_tick_ns - self._commander.lead_ns <= deadline_ns + period_ns:
            self._request(first_tick_ns)

    def _request(self, first_tick_ns: int) -> None:
        take_at_ns = first_tick_ns - self._commander.lead_ns
        self.prefetch.request(
            ChunkRequest(
                take_at_ns=take_at_ns,
                until_ns=take_at_ns + self._offset_ns,
                episode=self._episode,
                epoch=self.buffer.epoch,
            )
        )

    def _end_episode(self) -> None:
        ended, self._ended = self._ended, None
        if ended is None or self.state is not State.RUNNING:
            return
        stamp_ns, receive_ns = ended
        if stamp_ns < self._episode_stamp_ns:
            return  # of an episode that is over here already
        # The final observation comes with the outcome, the first of the next episode a period
        # later. The command stamped s is executed at the robot's next grid time at the earliest,
        # s + (1 - phase) P; half a period after that, nothing final can be stamped any more,
        # unless the command was executed late. Then the time of receipt tells.
        period_ns = self._contract.period_ns
        stamp_ns += round((1.5 - self._contract.phase) * period_ns)
        self._wait_for_newer(stamp_ns, receive_ns + period_ns // 2)

    def _wait_for_newer(self, stamp_ns: int = -1, receive_ns: int | None = None) -> None:
        self.buffer.reset()
        self._newer_than = (stamp_ns, self._clock.now_ns() if receive_ns is None else receive_ns)
        self.state = State.WAITING

    def _begin_episode(self) -> NextCall:
        now_ns = self._clock.now_ns()
        stale, _ = self.latest.stale(now_ns)
        first = self.latest.newest(self._first_stream)
        newer = self.latest.all_newer(*self._newer_than)
        if first is None or stale or self.prefetch.busy or not newer:
            return self._poll()
        self._offset_ns = self._ros_now_ns() - now_ns
        period_ns = self._contract.period_ns
        t0_ns = first.receive_ns + round(self._contract.phase * period_ns)
        short_ns = now_ns - (t0_ns - self._commander.lead_ns)
        if short_ns > 0:
            t0_ns += -(-short_ns // period_ns) * period_ns
        self.state = State.RUNNING
        self._episode += 1
        self._counters.episodes += 1
        self._episode_stamp_ns = t0_ns + self._offset_ns
        self._counters.reason = ''
        self._request(t0_ns)
        return NextCall(t0_ns)

    def _poll(self) -> NextCall:
        after_ns = self._contract.period_ns // _POLLS_PER_PERIOD
        return NextCall(self._clock.now_ns() + after_ns, paced=False)
