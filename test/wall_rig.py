# SPDX-License-Identifier: Apache-2.0
"""Driver, robot and both threads' work on one fake clock, for the tests of wall pacing."""

from __future__ import annotations

import numpy as np
from control_parts import POINT, CountingPolicy, Sent

from qcfql_ros.contract.named_vector import Outcome
from qcfql_ros.control.clock import FakeClock
from qcfql_ros.control.commander import Commander
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.halt import HaltLatch
from qcfql_ros.control.latest import Sample
from qcfql_ros.control.planner import Planner
from qcfql_ros.control.tuning import TuningBox
from qcfql_ros.control.wall import WallDriver

MS = 1_000_000
LEAD_NS = 10 * MS
OFFSET_NS = 1_700_000_000_000_000_000  # ROS time minus monotonic time


class WallRig:
    """Driver, robot and both threads' work, one after the other on one fake clock.

    The robot sends its sensors every period from `robot_ns` on, stamped when they are sent.
    """

    def __init__(self, robot_ns=7 * MS, contract=POINT, lead_ns=LEAD_NS, policy=None, **driver):
        self.period_ns = contract.period_ns
        self.offset_ns = OFFSET_NS
        self.tuning = TuningBox()
        self.clock = FakeClock()
        self.sent = Sent()
        self.policy = policy or CountingPolicy(columns=contract.action_dim)
        self.counters = Counters()
        self.latch = HaltLatch(None)
        self.planner = Planner(self.policy, 0, self.counters)
        commander = Commander(
            contract,
            self.sent,
            self.counters,
            lockstep=False,
            lead_ns=lead_ns,
            tuning=self.tuning,
        )
        self.commander = commander
        self.driver = WallDriver(
            contract,
            self.planner,
            commander,
            self.latch,
            self.counters,
            lambda: self.clock.time_ns + self.offset_ns,
            self.clock,
            **driver,
        )
        self.prefetch = self.driver.prefetch
        self.requests = []
        self.prefetch.request = self.request
        self.sensors_at = robot_ns
        self.silent = False
        self.bad = ()
        self.slow_ns = 0  # each plan ends this long after its observation
        self.numbers = None  # of every sensor message; None for the time
        self.deadline = 0

    def request(self, request):
        """Stand in for the queue of the inference thread."""
        self.prefetch.busy = True
        self.requests.append(request)

    def robot_until(self, now_ns):
        """Send the sensors that are due."""
        while self.sensors_at <= now_ns:
            for name, size in (('joint_states', 4), ('goal', 2)):
                values = (
                    None
                    if name in self.bad
                    else np.full(
                        size, self.sensors_at * 1e-9 if self.numbers is None else self.numbers
                    )
                )
                sample = Sample(self.sensors_at + self.offset_ns, self.sensors_at, values)
                if not self.silent:
                    self.driver.on_sensor(name, sample)
            self.sensors_at += self.period_ns

    def run_until(self, end_ns):
        """Do everything that is due before `end_ns`, in order of time."""
        while True:
            served_at = self.requests[0].take_at_ns + self.slow_ns if self.requests else end_ns
            due = min(self.deadline, served_at)
            if due >= end_ns:
                self.robot_until(end_ns)
                self.clock.time_ns = max(self.clock.time_ns, end_ns)
                return
            self.robot_until(due)
            self.clock.time_ns = max(self.clock.time_ns, due)
            if served_at == due and self.requests:
                self.prefetch.serve(self.requests.pop(0))
            else:
                following = self.driver.tick(self.deadline)
                self.deadline += self.period_ns // self.commander.commands
                if following is not None:
                    self.deadline = following.at_ns

    def end_episode(self):
        """The robot ends its episode with the last tick; the outcome comes with its sensors."""
        last = self.sent.steps[-1].stamp_ns
        outcome = Outcome(last, 1.0, True, False, True, 0, 1, True)
        self.driver.on_outcome(outcome, self.sensors_at)
