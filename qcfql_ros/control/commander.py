# SPDX-License-Identifier: Apache-2.0
"""A tick's commands: filtered, sent, recorded, counted.

::

    tick       play                      go_on     go_on     go_on
    sends      command 0, the chunk      command 1 command 2 command 3, the step

The record of a tick says what was carried out, so it goes out with the tick's last command. With
one command a tick that is the first one too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qcfql_ros.contract.chunk_record import ChunkRecord
from qcfql_ros.contract.named_vector import StepRecord
from qcfql_ros.contract.schema import Contract
from qcfql_ros.control.chunk_buffer import PlannedChunk
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.executed import ExecutedRows
from qcfql_ros.control.measured import Measurement
from qcfql_ros.control.output import Output
from qcfql_ros.control.safety import Filtered, SafetyFilter
from qcfql_ros.control.tuning import Tuning, TuningBox
from qcfql_ros.control.upsampling import Upsampler
from qcfql_ros.control.whole_chunk import WholeChunk
from qcfql_ros.data.steps import Source

NO_CHUNK = -1
LONGEST_RAMP_S = 2.0


@dataclass
class _Tick:
    """The tick in progress, whose record is still to be sent."""

    stamp_ns: int
    episode: int
    source: Source
    chunk: int = NO_CHUNK
    index: int = 0
    command: int = 0
    held: Filtered | None = None


class Commander:
    """Sends action rows, hold rows and the safe command. Used by one thread at a time.

    Args:
        contract: limits, hold row, upsampling.
        output: where everything goes.
        counters: to count in.
        lockstep: how the process is paced, for the record; then a tick has one command.
        lead_ns: a chunk's observation is taken this long before its first tick.
        tuning: what may be changed while running; looked at when a chunk begins.

    Attributes:
        commands: in a tick.
        last_stamp_ns: of the last tick begun; None before the first.
        at_rest: whether the last command was the safe one, or none was sent.
        executed: the rows that were recorded.
    """

    def __init__(
        self,
        contract: Contract,
        output: Output,
        counters: Counters,
        lockstep: bool,
        lead_ns: int = 0,
        tuning: TuningBox | None = None,
    ) -> None:
        self.contract = contract
        self.commands = 1 if lockstep else contract.commands_per_tick
        self.lead_ns = 0 if lockstep else lead_ns
        self.last_stamp_ns: int | None = None
        self.at_rest = True
        self.tuning = tuning
        self._output = output
        self._counters = counters
        self._lockstep = lockstep
        self._filter = SafetyFilter(contract, self.commands)
        self._upsampler = Upsampler(contract.upsampling, self.commands, contract.action_dim)
        self._upsampler.start(self._filter.values.tolist())
        self._whole = WholeChunk(self._filter, contract.safety.soft_start_s)
        self._relative = [n.action for n in self._filter.numbers if n.relative]
        self._tuned = Tuning()
        self._tick: _Tick | None = None
        self._row: np.ndarray | None = None  # played last
        self._index = 0
        self._version = -1
        self._owner: int | None = None
        self.executed = ExecutedRows(contract, lockstep)

    def start(self, measured: Measurement, soft: bool) -> None:
        """Take it that the robot rests at `measured`; `soft` after an activation or a resume."""
        self._filter.start(measured, soft)
        self._upsampler.start(self._filter.values.tolist())
        self._whole.forget()
        self._row = None

    def play(
        self,
        stamp_ns: int,
        chunk: PlannedChunk,
        index: int,
        rows: int | None = None,
        following: np.ndarray | None = None,
        measured: Measurement | None = None,
        command: int = 0,
    ) -> None:
        """Begin a tick with one row of a chunk.

        Args:
            stamp_ns: deadline of the tick, ROS time.
            chunk: being played.
            index: of the row.
            rows: how many of the chunk's rows are going to be played; None for all.
            following: the row that will probably be played next.
            measured: where the robot is, if that is known.
            command: the first of the tick's commands that there is still time for.
        """
        self._version = chunk.version
        if index == 0:
            self._counters.chunks += 1
            self._take_tuning()
        row = chunk.actions[index]
        tick = _Tick(stamp_ns, chunk.episode, Source.POLICY, chunk.number, index)
        accepted = self._filter.want(row, measured)
        if self._whole.exists and index == 0 and accepted is not None:
            self._send_ahead(chunk.actions[:rows], measured, stamp_ns)
        if accepted is None or (self._whole.exists and not len(self._whole.values)):
            self._row = None
            tick.source = Source.HOLD
            self._hold(tick, stamp_ns, command)
        else:
            self._row, self._index = row, index
            self._move(tick, accepted, following, command)
        if index == 0:
            # After the row, which is what the robot waits for.
            self._output_of_owner().announce(
                ChunkRecord(
                    stamp_ns=stamp_ns,
                    actions=chunk.actions,
                    chunk=chunk.number,
                    episode=chunk.episode,
                    seed=chunk.seed,
                    digest=chunk.digest,
                    policy_version=chunk.version,
                    observation_stamps=chunk.observation_stamps,
                    noise_scale=chunk.noise_scale,
                    num_samples=chunk.num_samples,
                )
            )

    def late(
        self,
        stamp_ns: int,
        episode: int,
        measured: Measurement | None = None,
        command: int = 0,
    ) -> None:
        """Begin a tick whose row is not there: hold, or the last row again."""
        on_late = self._tuned.on_late or self.contract.safety.on_late
        wanted = None
        if on_late == 'repeat' and self._row is not None and not self._whole.exists:
            wanted = self._filter.want(self._row, measured)
        if wanted is None:
            self.hold(stamp_ns, episode, command=command)
            return
        self._counters.repeats += 1
        self._move(_Tick(stamp_ns, episode, Source.HOLD), wanted, None, command)

    def go_on(self, stamp_ns: int, command: int) -> None:
        """Send another command of the tick in progress, due at `stamp_ns`, ROS time."""
        if self._tick is None:
            return
        if self._tick.held is None:
            self._send(command, stamp_ns)
        else:
            self._rest(stamp_ns)
        if command == self.commands - 1:
            self.finish()

    def finish(self) -> None:
        """Record the tick in progress, also if its last commands were missed."""
        tick, self._tick = self._tick, None
        if tick is None:
            return
        filtered = tick.held or self._filter.executed()
        row, clipped = filtered.row, filtered.clipped
        if tick.held is None:
            row, ahead = self._whole.put_row(row, tick.index)
            clipped += ahead
        self._counters.clipped += clipped
        self._record(tick, row, clipped)

    def hold(
        self,
        stamp_ns: int,
        episode: int,
        source: Source = Source.HOLD,
        command: int = 0,
        zero: bool = False,
    ) -> None:
        """Send the safe command: `Source.HOLD` for want of an action, `Source.HALT` to stop.

        It is a tick of its own; or the end of the one in progress, which then counts as halted.
        Nothing is sent while it is not known where a position is to be held.

        Args:
            stamp_ns: deadline of the command, ROS time.
            episode: for the record.
            source: of the tick.
            command: the first of the tick's commands that there is still time for.
            zero: velocities and efforts exactly 0, whatever the hold row says.
        """
        self._counters.holds += self._filter.started
        self._row = None
        tick = _Tick(stamp_ns, max(0, episode), source)
        if self._tick is not None:
            tick.stamp_ns = self._tick.stamp_ns
        last = self.commands - 1
        self._hold(tick, stamp_ns, last if source == Source.HALT else command, zero)

    def stop(self, stamp_ns: int, episode: int, sleep: Callable[[int], None] | None) -> None:
        """Send what the contract's `on_stop` says as the last command.

        Args:
            stamp_ns: deadline of the tick it belongs to.
            episode: for the record.
            sleep: waits that many ns between the commands of a ramp; None sends none.
        """
        on_stop = self.contract.on_stop
        if on_stop == 'ramp_down' and sleep is not None and not self._whole.exists:
            stamp_ns = self._ramp_down(stamp_ns, sleep)
        self.hold(stamp_ns, episode, Source.HALT, zero=on_stop == 'zero')

    def take_over(self) -> None:
        """Let only the calling thread send from now on: the one that did so hangs."""
        self._owner = threading.get_ident()

    def _take_tuning(self) -> None:
        if self.tuning is None:
            return
        before, self._tuned = self._tuned, self.tuning.take()
        if self._tuned.limits_scale != before.limits_scale:
            self._filter.set_limits_scale(self._tuned.limits_scale)

    def _send_ahead(self, rows: np.ndarray, measured: Measurement | None, stamp_ns: int) -> None:
        if self._whole.filter(rows, measured):
            whole = self._whole
            self._counters.commands += 1
            self.at_rest = False
            self._output_of_owner().trajectory(whole.values, whole.velocities, stamp_ns)

    def _move(
        self, tick: _Tick, end: list[float], following: np.ndarray | None, command: int
    ) -> None:
        for i in self._relative:
            self._upsampler.rebase(i, self._filter.numbers[i].base)
        self._upsampler.begin(end, None if following is None else self._filter.preview(following))
        self._begun(tick)
        stamp_ns = tick.stamp_ns
        if command:
            stamp_ns += command * self.contract.period_ns // self.commands
        self._send(command, stamp_ns)
        if command == self.commands - 1:
            self.finish()

    def _begun(self, tick: _Tick) -> None:
        self._tick = tick
        self.last_stamp_ns = tick.stamp_ns
        self._counters.ticks += 1

    def _send(self, command: int, stamp_ns: int) -> None:
        if self._tick is not None:
            self._tick.command = command
        values = self._filter.send(self._upsampler.at(command))
        self._counters.commands += 1
        self.at_rest = False
        self._output_of_owner().command(values, stamp_ns)

    def _cut(self) -> None:
        """Take back what was filtered ahead and will not be carried out."""
        part = 1.0 if self._tick is None else (self._tick.command + 1) / self.commands
        self._counters.cut_chunks += self._whole.cut(self._index, part)

    def _hold(self, tick: _Tick, stamp_ns: int, command: int, zero: bool = False) -> None:
        if not self._filter.started:
            self._counters.reason = 'nothing is sent: where the robot is was never measured'
            return
        self._cut()
        counted = self._tick is not None
        tick.held = self._filter.zero() if zero else self._filter.hold()
        self._upsampler.start(self._filter.values.tolist())
        self._rest(stamp_ns)
        if counted:
            self._tick = tick
        else:
            self._begun(tick)
        if command == self.commands - 1:
            self.finish()

    def _rest(self, stamp_ns: int) -> None:
        self._counters.commands += 1
        self.at_rest = True
        self._output_of_owner().rest(self._filter.values, stamp_ns)

    def _ramp_down(self, stamp_ns: int, sleep: Callable[[int], None]) -> int:
        """Slow down command by command; return the stamp of the command after the last."""
        command_ns = self.contract.period_ns // self.commands
        for _ in range(round(LONGEST_RAMP_S * 1e9 / command_ns)):
            if not self._filter.started or self._filter.slow_down() is None:
                break
            self._counters.commands += 1
            self._output_of_owner().command(self._filter.values, stamp_ns)
            sleep(command_ns)
            stamp_ns += command_ns
        return stamp_ns

    def _output_of_owner(self) -> Output:
        if self._owner is not None and self._owner != threading.get_ident():
            raise RuntimeError('another thread has sent the safe command as the last one')
        return self._output

    def _record(self, tick: _Tick, row: np.ndarray, clipped: int) -> None:
        self.executed.add(tick.stamp_ns, tick.episode, row)
        self._output_of_owner().record(
            StepRecord(
                stamp_ns=tick.stamp_ns,
                action=row,
                episode=tick.episode,
                chunk=tick.chunk,
                index=tick.index,
                source=tick.source,
                policy_version=self._version,
                clipped=clipped,
                lead_ns=self.lead_ns,
                lockstep=self._lockstep,
            )
        )
