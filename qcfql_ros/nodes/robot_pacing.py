# SPDX-License-Identifier: Apache-2.0
"""When a simulated robot ticks: in lockstep with its commands, or on a clock's grid.

Both are driven by what a node hears and know no ROS::

    lockstep   sensors(s) -> [all commands stamped s] -> outcome(s), sensors(s + period) -> ...
               ended:        outcome(s), sensors(s + period) the last, reset,
                             sensors(s + 2 period) the first of the next episode
    wall       every period: newest commands, or hold -> outcome -> sensors
               ended:        outcome and last sensors at one grid time, reset at the next
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from qcfql_ros.contract.named_vector import Outcome
from qcfql_ros.contract.schema import Contract
from qcfql_ros.robots.command_sets import CommandSets
from qcfql_ros.robots.session import RobotSession

FIRST_STAMP_NS = 1_000_000_000_000
# Between an episode that was broken off and the next one: no reader may take them for neighbours.
BREAK_PERIODS = 10


class Output(Protocol):
    """Where sensors and outcomes go."""

    def publish_sensors(self, stamp_ns: int) -> None:
        """Publish every sensor stream with this stamp."""

    def publish_outcome(self, outcome: Outcome) -> None:
        """Publish what came of a tick."""


class LockstepPacing:
    """One tick for each complete set of commands that carries the stamp of the last sensors.

    Attributes:
        credits: the last tick that may be executed; None for no limit.
        running: sensors are out and commands awaited.
        finished: all episodes are done.
    """

    def __init__(
        self,
        session: RobotSession,
        commands: CommandSets,
        contract: Contract,
        output: Output,
        episodes: int = 0,
        wait_for_credits: bool = False,
    ) -> None:
        self._session, self._commands, self._output = session, commands, output
        self._period_ns = contract.period_ns
        self._episodes = episodes
        self.stamp_ns = FIRST_STAMP_NS - self._period_ns
        self.credits: int | None = 0 if wait_for_credits else None
        self.running = False
        self.finished = False

    def start(self) -> None:
        """Begin an episode: the other side is there."""
        self._begin(self._period_ns)

    def break_off(self) -> None:
        """Leave the episode where it is; the other side has gone or is a new one."""
        if self.running:
            self.running = False
            self._commands.drop_until(self.stamp_ns)
            self.stamp_ns += BREAK_PERIODS * self._period_ns

    def advance(self) -> None:
        """Execute the tick if its commands and its credit are there."""
        if not self.running or self.waiting_for_credits:
            return
        row = self._commands.take(self.stamp_ns)
        if row is None:
            return
        outcome = self._session.execute(row, self.stamp_ns)
        self._output.publish_outcome(outcome)
        self.stamp_ns += self._period_ns
        self._output.publish_sensors(self.stamp_ns)
        if not outcome.ended:
            return
        self._commands.drop_until(self.stamp_ns)
        self.running = False
        if self._episodes and self._session.episode + 1 >= self._episodes:
            self.finished = True
        else:
            self._begin(self._period_ns)

    @property
    def waiting_for_credits(self) -> bool:
        """Whether the next tick is one too many for the learner."""
        return self.credits is not None and self._session.tick + 1 > self.credits

    def _begin(self, gap_ns: int) -> None:
        self._session.begin_episode()
        self.stamp_ns += gap_ns
        self.running = True
        self._output.publish_sensors(self.stamp_ns)


class WallPacing:
    """One tick each period of the wall clock.

    The simulation stands still until the first command of an episode, so that an episode does
    not run out before anybody drives it; sensors go on.

    Attributes:
        starved: ticks with no new command, on which the robot held.
        finished: all episodes are done; sensors go on.
    """

    def __init__(
        self,
        session: RobotSession,
        commands: CommandSets,
        contract: Contract,
        output: Output,
        episodes: int = 0,
    ) -> None:
        self._session, self._commands, self._output = session, commands, output
        self._hold = np.array(contract.action.hold, dtype=np.float32)
        self._episodes = episodes
        self._begin = True
        self._driven = False
        self.starved = 0
        self.finished = False

    def tick(self, now_ns: int) -> None:
        """Do what belongs to this grid time.

        Args:
            now_ns: ROS time.
        """
        if self._begin and not self.finished:
            self._session.begin_episode()
            self._begin = self._driven = False
            self._commands.drop_until(now_ns)  # whatever was planned before this reset
        elif not self._begin:
            self._step(now_ns)
        self._output.publish_sensors(now_ns)

    def break_off(self) -> None:
        """The other side has gone: a new episode at the next grid time, if one was driven."""
        if self._driven:
            self._begin, self._driven = True, False

    def _step(self, now_ns: int) -> None:
        command = self._commands.take_newest()
        if command is None and not self._driven:
            return
        self._driven = True
        if command is None:
            self.starved += 1
            outcome = self._session.execute(self._hold, now_ns)
            if not outcome.ended:
                return
        else:
            stamp_ns, row = command
            outcome = self._session.execute(row, stamp_ns)
        self._output.publish_outcome(outcome)
        if outcome.ended:
            self._begin = True
            self.finished = bool(self._episodes) and (self._session.episode + 1 >= self._episodes)
