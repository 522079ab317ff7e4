# SPDX-License-Identifier: Apache-2.0
"""What the policy node says of itself once a second: level, text and counters."""

from __future__ import annotations

from rclpy.node import Node

from qcfql_ros.contract.schema import Contract
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.halt import HaltLatch
from qcfql_ros.control.planner import Planner
from qcfql_ros.control.wall import WallDriver
from qcfql_ros.nodes.diagnostics import ERROR, OK, WARN, Diagnostics
from qcfql_ros.nodes.driving import Driving
from qcfql_ros.nodes.weight_gate import WeightGate

CLIPPED_WARNING = 0.01


class PolicyDiagnostics:
    """The status ``policy: control``; warnings and errors are logged when they change.

    Attributes:
        last_error: the last exception of a callback, or ''.
        fatal: why the process is about to end, or ''.
    """

    def __init__(self, node: Node) -> None:
        self._log = node.get_logger()
        self._diagnostics = Diagnostics(node, 'policy: control')
        self._said = ''
        self.last_error = ''
        self.fatal = ''

    def configured(
        self,
        contract: Contract,
        planner: Planner,
        gate: WeightGate,
        latch: HaltLatch,
        counters: Counters,
    ) -> None:
        """Speak of these from now on."""
        self._contract = contract
        self._planner = planner
        self._gate = gate
        self._latch = latch
        self._counters = counters
        self._clipped_before = self._ticks_before = self._rejected_before = 0

    def inactive(self, waiting: str = '') -> None:
        """Say that nothing is driven, and what the activation waits for."""
        level, text = WARN, f'inactive; waiting: {waiting}' if waiting else 'inactive'
        if self.fatal:
            level, text = ERROR, self.fatal
        self._say(level, text)
        values = {'state': 'inactive', 'ticks': 0, 'waiting_for': waiting}
        self._diagnostics.publish(level, text, values | {'last_error': self.last_error})

    def active(self, driving: Driving) -> None:
        """Say what is waited for, what was refused, and the counters."""
        counters = self._counters
        waiting = driving.driver.check()
        level, text = self.judge(waiting)
        self._say(level, text)
        values = {
            name: getattr(counters, name)
            for name in ('ticks', 'holds', 'chunks', 'chunk_misses', 'episodes', 'refused')
        }
        state = 'halted' if self._latch.halted else ('waiting' if waiting else 'running')
        values |= {
            'late_ticks': 0,
            'missed_ticks': 0,
            'lateness_p50_us': 0,
            'lateness_p99_us': 0,
            'clipped': counters.clipped,
            'lost_outcomes': counters.lost_outcomes,
            'policy_version': self._planner.policy.info.version,
            'policy_digest': self._planner.policy.digest,
            'accepted_weights': self._gate.accepted,
            'rejected_weights': self._gate.rejected,
            'rejected_reason': self._gate.reason,
            'inference_p50_us': counters.inference.quantile(0.5) // 1000,
            'inference_p99_us': counters.inference.quantile(0.99) // 1000,
            'waiting_for': waiting,
            'state': state,
            'last_error': self.last_error,
        }
        if isinstance(driving.driver, WallDriver):
            executor = driving.driver.executor
            values['late_ticks'] = executor.late_ticks
            values['missed_ticks'] = executor.missed_ticks
            values['lateness_p50_us'] = executor.lateness.quantile(0.5) // 1000
            values['lateness_p99_us'] = executor.lateness.quantile(0.99) // 1000
        self._diagnostics.publish(level, text or 'ok', values)

    def flush(self) -> None:
        """Wait a moment until everybody has got it."""
        self._diagnostics.flush()

    def judge(self, waiting: str) -> tuple[bytes, str]:
        """Return level and text of the gravest thing there is to say."""
        counters = self._counters
        numbers = (counters.ticks - self._ticks_before) * self._contract.action_dim
        clipped = counters.clipped - self._clipped_before
        self._ticks_before, self._clipped_before = counters.ticks, counters.clipped
        rejected = self._gate.rejected - self._rejected_before
        self._rejected_before += rejected
        reason, counters.reason = counters.reason, ''
        halted, disk_error = self._latch.halted, self._latch.disk_error
        text = f'halted: {self._latch.reason}; call ~/resume to drive' if halted else ''
        if self.fatal:
            return ERROR, self.fatal
        if disk_error:
            return ERROR, text if disk_error in text else f'{text} {disk_error}'.lstrip()
        if halted:
            return WARN, text
        if reason:
            return WARN, reason
        if waiting:
            return WARN, f'waiting: {waiting}'
        if rejected:
            return WARN, f'weights refused: {self._gate.reason}'
        if numbers and clipped > CLIPPED_WARNING * numbers:
            return WARN, f'{clipped} of {numbers} action numbers clipped'
        return OK, ''

    def _say(self, level: bytes, text: str) -> None:
        # A line of its own for each: rclpy refuses a second severity from one line of code.
        if text and text != self._said and level == ERROR:
            self._log.error(text)
        elif text and text != self._said:
            self._log.warning(text)
        self._said = text
