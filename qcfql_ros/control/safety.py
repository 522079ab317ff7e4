# SPDX-License-Identifier: Apache-2.0
"""The last thing a command passes before it is sent; what comes out is what is recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qcfql_ros.contract.schema import Contract, Safety
from qcfql_ros.control.limits import PositionLimit, SlewLimit
from qcfql_ros.control.measured import Measurement
from qcfql_ros.control.workspace import WorkspaceLimit


@dataclass(frozen=True, eq=False)
class Filtered:
    """What a tick came to.

    Attributes:
        row: (action_dim,) float32, finite: the action row that was carried out.
        clipped: how many of its numbers a limit changed.
        refused: the row could not be used; `row` holds the robot instead.
    """

    row: np.ndarray
    clipped: int = 0
    refused: bool = False


class Number:
    """One number of the action row and of the command, and its limits.

    Attributes:
        action: its place in the row.
        ahead: it is sent once a chunk; see `whole_chunk`.
        limit: what bounds its command value.
        base: what a relative position is added to in this tick; else 0.
        rest: the command value that does not move, where soft start begins.
        asked: the row's number, inside the row's limits.
        end: command value that this tick is to reach.
        clipped: a limit changed it in this tick.
    """

    limit: PositionLimit | SlewLimit

    def __init__(self, contract: Contract, place: int, period_s: float) -> None:
        action, safety = contract.action, contract.safety
        command, field = next(
            (c, f) for c in action.commands for f in c.fields if f.action == place
        )
        self.action = place
        self.ahead = command.whole_chunk
        self.is_position = field.is_position
        self.relative = field.relative
        self.scale, self.offset = field.scale, field.offset
        # The row's limits are float32, as the row is.
        self.low, self.high = (
            float(np.float32(action.low[place])),
            float(np.float32(action.high[place])),
        )
        self.hold = float(np.float32(action.hold[place]))
        self.elapsed_s = math.inf
        self.base = 0.0
        self.rest = self.hold * self.scale + self.offset
        self.end = self.asked = self.rest
        self.clipped = False
        if self.ahead:
            period_s = contract.period_ns * 1e-9
        self.period_s = period_s
        low, high = safety.low[place], safety.high[place]
        acceleration = safety.acceleration[place]
        if self.is_position:
            velocity = safety.velocity[place]
            self.limit = PositionLimit(low, high, velocity, acceleration, period_s)
        else:
            self.limit = SlewLimit(low, high, acceleration, period_s, self.rest)

    @property
    def absolute(self) -> bool:
        """Whether it is a position by itself: its hold is where it is."""
        return self.is_position and not self.relative

    def start(self, position: float, soft: bool) -> None:
        """Be at rest, at `position` if it is one; begin softly."""
        self.elapsed_s = 0.0 if soft else self.elapsed_s
        if self.is_position:
            self.limit.start(position)
        else:
            self.limit.stay()
        if self.absolute:
            self.rest = position

    def want(self, number: float, measured: float) -> float:
        """Take the row's number and return the command value to reach with it."""
        inside = min(max(number, self.low), self.high)
        self.clipped = inside != number
        self.asked = inside
        self.end = inside * self.scale + self.offset
        if self.relative:
            self.base = measured if self.relative == 'measured' else self.limit.value
            self.rest = self.base + self.hold * self.scale + self.offset
            self.end += self.base
        return self.end

    def send(self, wanted: float, soft_start_s: float) -> float:
        """Return the command value to send instead of `wanted`."""
        if self.elapsed_s < soft_start_s:
            self.elapsed_s += self.period_s
            wanted = self.rest + soft_fraction(self.elapsed_s, soft_start_s) * (wanted - self.rest)
        value = self.limit.follow(wanted)
        if value != wanted:
            self.clipped = True
        return value

    def executed(self) -> float:
        """Return the row's number that came to be: its own, bit for bit, if it was reached."""
        value = self.limit.value
        if value == self.end:
            return self.asked
        return (value - self.base - self.offset) / self.scale


def soft_fraction(elapsed_s: float, soft_start_s: float) -> float:
    """Return how much of a command counts, from 0 at the start to 1, smooth at both ends."""
    if elapsed_s >= soft_start_s:
        return 1.0
    part = elapsed_s / soft_start_s
    return part * part * (3.0 - 2.0 * part)


class SafetyFilter:
    """Finite, inside limits of place, velocity and acceleration, gentle after a start.

    One tick: `want` takes its row; `send` is called once for each of its commands; `executed`
    says what came of it. Or `hold`, `slow_down` or `zero`, each of which is a whole tick.

    Args:
        contract: its limits, hold row and workspace.
        commands: in a tick.

    Attributes:
        values: (action_dim,) float64, the command values sent last. Overwritten by the next.
        started: whether it is known where the robot is, as far as that matters.
        numbers: one for each action number.
    """

    def __init__(self, contract: Contract, commands: int = 1) -> None:
        self._safety: Safety = contract.safety
        period_s = contract.period_ns * 1e-9 / commands
        self.numbers = [Number(contract, i, period_s) for i in range(contract.action_dim)]
        self.values = np.array([number.limit.value for number in self.numbers])
        self._sent = self.values.tolist()
        self._hold = np.array(contract.action.hold, dtype=np.float32)
        self._hold.setflags(write=False)
        self._places = [number for number in self.numbers if number.is_position]
        self._absolute = [number for number in self.numbers if number.absolute]
        self._needs_measured = any(n.relative == 'measured' for n in self.numbers)
        self._row = self._hold
        self._workspace: WorkspaceLimit | None = None
        if self._safety.workspace is not None:
            slew = min(
                (self._safety.acceleration[i] for i in self._safety.workspace.actions if i >= 0),
                default=math.inf,
            )
            self._workspace = WorkspaceLimit(
                self._safety.workspace, slew, contract.period_ns * 1e-9
            )
        self.started = not self._places
        self.set_limits_scale(1.0)

    def set_limits_scale(self, scale: float) -> None:
        """Multiply velocity and acceleration limits from the next command on.

        Args:
            scale: in (0, 1].
        """
        for i, number in enumerate(self.numbers):
            number.limit.set_limits(
                self._safety.velocity[i] * scale, self._safety.acceleration[i] * scale
            )

    def start(self, measured: Measurement, soft: bool) -> None:
        """Be at rest where the robot is.

        Args:
            measured: where that is.
            soft: begin softly: it was activated or resumed.
        """
        for number, position in zip(self.numbers, measured.positions, strict=True):
            number.start(position, soft)
            self._sent[number.action] = number.limit.value
        self.values[:] = self._sent
        self.started = True

    def want(self, row: np.ndarray, measured: Measurement | None) -> list[float] | None:
        """Take the row of a tick, (action_dim,) float32.

        Returns:
            Command values to reach by the end of the tick; None if the row is refused: it is not
            finite, or relative to what is not known.
        """
        asked = row.tolist()
        if not math.isfinite(sum(asked)) and not np.isfinite(row).all():
            return None
        if not self.started or ((self._needs_measured or self._workspace) and measured is None):
            return None
        self._row = row
        if self._workspace is not None and measured is not None:
            self._workspace.tool = measured.tool
        if measured is None:
            return [number.want(asked[i], 0.0) for i, number in enumerate(self.numbers)]
        places = measured.positions
        return [number.want(asked[i], places[i]) for i, number in enumerate(self.numbers)]

    def preview(self, row: np.ndarray) -> list[float]:
        """Return about what the row after this tick's will want, without taking it."""
        return [
            min(max(asked, n.low), n.high) * n.scale + n.offset + (n.end if n.relative else 0.0)
            for asked, n in zip(row.tolist(), self.numbers, strict=True)
        ]

    def send(self, wanted: list[float]) -> np.ndarray:
        """Return `values`: what to send instead of `wanted`, one number for each action."""
        soft_start_s = self._safety.soft_start_s
        sent = self._sent
        for i, number in enumerate(self.numbers):
            if not number.ahead:
                sent[i] = number.send(wanted[i], soft_start_s)
        if self._workspace is not None:
            for i in self._workspace.limit(sent):
                self.numbers[i].limit.start(sent[i])
                self.numbers[i].clipped = True
        self.values[:] = sent
        return self.values

    def executed(self) -> Filtered:
        """Return what the tick came to so far."""
        clipped = 0
        row: np.ndarray | None = None
        for i, number in enumerate(self.numbers):
            if number.ahead:
                continue
            clipped += number.clipped
            if number.clipped or number.limit.value != number.end:
                if row is None:
                    row = self._row.copy()
                row[i] = number.executed()
        return Filtered(self._row if row is None else row, clipped)

    def hold(self) -> Filtered:
        """Hold: velocities and efforts of the hold row, positions where they were last sent."""
        return self._rest([number.limit.stay() for number in self.numbers])

    def zero(self) -> Filtered:
        """Velocities and efforts exactly 0; positions as in `hold`: 0 is no safe position."""
        for number in self.numbers:
            if number.is_position:
                number.limit.stay()
            else:
                number.limit.start(0.0)
        return self._rest([number.limit.value for number in self.numbers])

    def slow_down(self) -> Filtered | None:
        """Slow down by one command; None once all is at rest."""
        before = list(self._sent)
        values = [number.limit.slow_down() for number in self.numbers]
        for number, value in zip(self.numbers, before, strict=True):
            number.base = value if number.relative else 0.0
        return None if values == before else self._rest(values, before)

    def _rest(self, values: list[float], before: list[float] | None = None) -> Filtered:
        self._sent[:] = values
        self.values[:] = values
        row: np.ndarray | None = None
        for i, number in enumerate(self.numbers):
            if number.relative:
                at_rest = before is None or values[i] == before[i]
            else:
                at_rest = not number.is_position and values[i] == number.rest
            if not at_rest:
                if row is None:
                    row = self._hold.copy()
                base = number.base if number.relative else 0.0
                row[i] = (values[i] - base - number.offset) / number.scale
        return Filtered(self._hold if row is None else row)
