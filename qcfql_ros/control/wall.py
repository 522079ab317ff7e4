# SPDX-License-Identifier: Apache-2.0
"""Pacing by the clock, for robots.

::

    sensors     |g0             |g1             |g2        every period, at the robot's will
    ticks              |t0             |t1                 phase * period after the first stream's
    commands           |   |   |   |   |   |   |   |   |   commands_per_tick of them
    observe         |                                      lead before the first tick of a chunk

`tick` runs in the control thread at each command's deadline and never waits: at a tick's first
one it takes the row that is due, sends it, and asks the inference thread for the next chunk in
time. The ROS clock only names the ticks: setting it moves none, but begins a new episode, since
the stamps of sensors and ticks no longer belong together.
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
from qcfql_ros.control.executor import NextCall, Surroundings, TimedExecutor
from qcfql_ros.control.halt import HaltLatch
from qcfql_ros.control.latest import LatestMessages, Sample
from qcfql_ros.control.lead import adapted_lead_ns
from qcfql_ros.control.planner import Planner
from qcfql_ros.control.prefetch import ChunkRequest, Prefetch
from qcfql_ros.control.supervision import LONGEST_START_NS, judge_pause, judge_planning
from qcfql_ros.data.steps import Source

STOP_TIMEOUT_S = 1.0  # for a tick in progress; then the safe command is sent without it
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
        ros_now_ns: the ROS clock; read when a chunk is asked for.
        clock: the monotonic clock.
        execution_horizon: how many rows of a chunk are played; 0 plays all.
        adaptive_lead: fit the lead to what planning took, between episodes.
        surroundings: of the control thread.
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
        execution_horizon: int = 0,
        adaptive_lead: bool = False,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._contract = contract
        self._planner = planner
        self._commander = commander
        self._latch = latch
        self._counters = counters
        self._ros_now_ns = ros_now_ns
        self._clock = clock or MonotonicClock()
        self.latest = LatestMessages(contract)
        self.buffer = ChunkBuffer(execution_horizon)
        self.prefetch = Prefetch(
            planner, self.latest, self.buffer, counters, self._clock, commander.executed
        )
        self._commands = commander.commands
        self._command_ns = contract.period_ns // self._commands
        self._tolerance_ns = round(contract.stamp_tolerance_s * 1e9)
        self.executor = TimedExecutor(self._command_ns, self.tick, self._clock, None, surroundings)
        self.state = State.WAITING
        self._first_stream = next(iter(contract.streams))
        self._newer_than = (-1, -1)  # (stamp, receive time) of the sensors that are of the past
        self._ended: tuple[int, int] | None = None
        self._episode = -1
        self._t0_ns = 0  # of the episode, monotonic
        self._ticks = -1  # number of the tick in progress, from the episode's first
        self._offset_ns = 0
        self._adaptive_lead = adaptive_lead
        self._tuned_lead_s: float | None = None
        self._soft = True  # the next episode is the first one after an activation or a resume
        self._clock_set_ns = 0  # by how much, during this episode
        self._last_call_ns = 0
        self._driving = False

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

    def supervise(self, now_ns: int) -> str:
        """Return what is wrong with the threads, '' if nothing; asked from outside them.

        Args:
            now_ns: monotonic time.
        """
        if not self._driving:
            return ''
        rows = self._planner.policy.info.action_chunk_size
        period_ns = self._contract.period_ns
        silent_ns = now_ns - self._last_call_ns
        return judge_planning(self.prefetch, rows * period_ns, now_ns) or judge_pause(
            silent_ns, period_ns
        )

    def start(self, died: Callable[[BaseException], None]) -> None:
        """Start both threads."""
        self.prefetch.start(died)
        # The thread first asks for its priority and settles the interpreter.
        self._last_call_ns = self._clock.now_ns() + LONGEST_START_NS
        self._driving = True
        self.executor.start(self._clock.now_ns(), died, paced=False)

    def stop(self) -> None:
        """End both threads; send the safe command last, if anything was ever commanded.

        Also where the control thread is dead or hangs: then this one sends it, and that one is
        not let send anything any more.
        """
        self._driving = False
        ended = self.executor.stop(STOP_TIMEOUT_S)
        self._commander.take_over()
        last = self._commander.last_stamp_ns
        if last is not None and self._contract.on_stop != 'none':
            passed = self._clock.now_ns() + self._offset_ns - last
            periods = max(1, -(-passed // self._contract.period_ns))
            stamp_ns = last + periods * self._contract.period_ns
            sleep = self._clock.sleep if ended else None
            self._commander.stop(stamp_ns, self._episode, sleep)
        self.buffer.reset()
        self.prefetch.stop()

    def tick(self, deadline_ns: int) -> NextCall | None:
        """Do what is due at `deadline_ns` (monotonic). Called by the executor."""
        self._last_call_ns = self._clock.now_ns()
        if self._latch.halted:
            # Between two episodes too: the last one may have ended in mid-motion.
            if self.state is State.RUNNING or not self._commander.at_rest:
                self.buffer.reset()
                stamp_ns = deadline_ns + self._offset_ns
                self._commander.hold(stamp_ns, self._episode, Source.HALT)
            self.state = State.HALTED
            return self._poll()
        if self.state is State.HALTED:
            self._soft = True
            self._wait_for_newer()
        self._end_episode()
        if self.state is State.WAITING:
            return self._begin_episode()
        return self._command(deadline_ns)

    def _command(self, deadline_ns: int) -> NextCall | None:
        """Begin a tick, or send another command of the one in progress."""
        period_ns, commands = self._contract.period_ns, self._commands
        # To the nearest: a period need not be a whole number of commands' ns.
        number = ((deadline_ns - self._t0_ns) * commands + period_ns // 2) // period_ns
        tick, command = divmod(number, commands)
        if tick == self._ticks:
            self._commander.go_on(deadline_ns + self._offset_ns, command)
        else:
            self._commander.finish()  # its last commands were missed
            self._ticks = tick
            self._run(self._t0_ns + tick * period_ns, command)
        if commands > 1 and command == commands - 1:
            next_ns = self._t0_ns + (tick + 1) * period_ns
            if self._clock.now_ns() < next_ns:
                return NextCall(next_ns)
        return None

    def _run(self, deadline_ns: int, command: int) -> None:
        stamp_ns = deadline_ns + self._offset_ns
        stale, beyond_ns = self.latest.stale(self._clock.now_ns())
        if stale:
            self._stale(stamp_ns, stale, beyond_ns, command)
            return
        if self._clock_set_ns:
            self._counters.reason = f'the clock was set by {self._clock_set_ns * 1e-9:+.3f} s'
            self._commander.hold(stamp_ns, self._episode, command=command)
            self._commander.finish()
            self._wait_for_newer()
            return
        measured = self.latest.measured()
        due = self.buffer.take()
        if due is None:
            self._counters.chunk_misses += 1
            self._commander.late(stamp_ns, self._episode, measured, command)
        else:
            chunk, index = due
            rows = self.buffer.played(chunk)
            following = self.buffer.peek()
            self._commander.play(stamp_ns, chunk, index, rows, following, measured, command)
        self._request_in_time(deadline_ns)

    def _stale(self, stamp_ns: int, stale: str, beyond_ns: int, command: int) -> None:
        """Hold while a stream is silent; stop when it has been for too long."""
        self._counters.refused += 1
        self._counters.stale_ticks += 1
        self._counters.reason = stale
        self.buffer.reset()
        self._commander.hold(stamp_ns, self._episode, command=command)
        safety = self._contract.safety
        if beyond_ns <= safety.stop_after_s * 1e9:
            return
        if safety.resume_after_stale:
            self._commander.finish()
            self._soft = True
            self._wait_for_newer()
        else:
            self._latch.halt(stale, wait=False)

    def _request_in_time(self, deadline_ns: int) -> None:
        """Ask for the chunk after the last planned row once its observation is due soon."""
        if self.prefetch.busy:
            return
        period_ns = self._contract.period_ns
        first_tick_ns = deadline_ns + (self.buffer.rows_left() + 1) * period_ns
        if first_tick_ns - self._commander.lead_ns <= deadline_ns + period_ns:
            self._request(first_tick_ns)

    def _request(self, first_tick_ns: int) -> None:
        set_ns = self._ros_now_ns() - self._clock.now_ns() - self._offset_ns
        if abs(set_ns) > self._tolerance_ns:
            self._clock_set_ns = set_ns
            return
        take_at_ns = first_tick_ns - self._commander.lead_ns
        self.prefetch.request(
            ChunkRequest(
                take_at_ns=take_at_ns,
                until_ns=take_at_ns + self._offset_ns,
                lead_ns=self._commander.lead_ns,
                episode=self._episode,
                epoch=self.buffer.epoch,
            )
        )

    def _end_episode(self) -> None:
        ended, self._ended = self._ended, None
        if ended is None or self.state is not State.RUNNING:
            return
        stamp_ns, receive_ns = ended
        if stamp_ns < self._t0_ns + self._offset_ns:
            return  # of an episode that is over here already
        # The final observation comes with the outcome, the first of the next episode a period
        # later. The command stamped s is executed at the robot's next grid time at the earliest,
        # s + (1 - phase) P; half a period after that, nothing final can be stamped any more,
        # unless the command was executed late. Then the time of receipt tells.
        period_ns = self._contract.period_ns
        stamp_ns += round((1.5 - self._contract.phase) * period_ns)
        self._commander.finish()
        self._wait_for_newer(stamp_ns, receive_ns + period_ns // 2)

    def _wait_for_newer(self, stamp_ns: int = -1, receive_ns: int | None = None) -> None:
        self.buffer.reset()
        self._newer_than = (stamp_ns, self._clock.now_ns() if receive_ns is None else receive_ns)
        self.state = State.WAITING

    def _begin_episode(self) -> NextCall:
        now_ns = self._clock.now_ns()
        stale, _ = self.latest.stale(now_ns)
        first = self.latest.newest(self._first_stream)
        # If the clock was set back meanwhile, no stamp is newer: received long after is new too.
        patience_ns = self._tolerance_ns + 2 * self._contract.period_ns
        newer = self.latest.all_newer(*self._newer_than, patience_ns)
        if first is None or stale or self.prefetch.busy or not newer:
            return self._poll()
        measured = self.latest.measured()
        if measured is None:
            self._counters.reason = 'a message that says where the robot is cannot be used'
            return self._poll()
        self._commander.start(measured, self._soft)
        self._soft = False
        self._fit_lead()
        self._offset_ns = self._ros_now_ns() - now_ns
        self._clock_set_ns = 0
        period_ns = self._contract.period_ns
        t0_ns = first.receive_ns + round(self._contract.phase * period_ns)
        short_ns = now_ns - (t0_ns - self._commander.lead_ns)
        if short_ns > 0:
            t0_ns += -(-short_ns // period_ns) * period_ns
        self.state = State.RUNNING
        self._episode += 1
        self._counters.episodes += 1
        self._t0_ns, self._ticks = t0_ns, -1
        self._counters.reason = ''
        self._request(t0_ns)
        return NextCall(t0_ns)

    def _fit_lead(self) -> None:
        """Change the lead, which an episode keeps, to what is asked for or what planning takes."""
        commander, adaptive = self._commander, self._adaptive_lead
        if commander.tuning is not None:
            tuning = commander.tuning.take()
            lead_s = tuning.lead_s
            if tuning.adaptive_lead is not None:
                adaptive = tuning.adaptive_lead
            if lead_s is not None and (not adaptive or lead_s != self._tuned_lead_s):
                self._tuned_lead_s = lead_s
                commander.lead_ns = round(lead_s * 1e9)
        if adaptive:
            chunk_ns = self._planner.policy.info.action_chunk_size * self._contract.period_ns
            latencies = self.prefetch.latencies_ns
            commander.lead_ns = adapted_lead_ns(latencies, commander.lead_ns, chunk_ns)

    def _poll(self) -> NextCall:
        after_ns = self._contract.period_ns // _POLLS_PER_PERIOD
        return NextCall(self._clock.now_ns() + after_ns, paced=False)
