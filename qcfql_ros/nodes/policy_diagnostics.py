# SPDX-License-Identifier: Apache-2.0
"""What the policy node says of itself once a second: levels, texts and numbers."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node

from qcfql_ros.contract.schema import Contract
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.halt import HaltLatch
from qcfql_ros.control.planner import Planner
from qcfql_ros.nodes.diagnostics import ERROR, OK, WARN, Diagnostics, Status
from qcfql_ros.nodes.driving import BeatingDriver, Driving
from qcfql_ros.nodes.policy_timing import TimingReport, observation_ages_us
from qcfql_ros.nodes.weight_gate import WeightGate

CLIPPED_WARNING = 0.01


class PolicyDiagnostics:
    """The statuses ``policy: ...``; warnings and errors of ``policy: control`` are logged too.

    Args:
        node: that speaks.
        parameters: of the node, for the thresholds.

    Attributes:
        last_error: the last exception of a callback, or ''.
        fatal: why the process is about to end, or ''.
        supervision: what is wrong with the threads, seen from outside, or ''.
        watchdog: `seen`, `not seen` or `not wanted`.
    """

    def __init__(self, node: Node, parameters: Any) -> None:
        self._log = node.get_logger()
        self._diagnostics = Diagnostics(node)
        self._timing = TimingReport(parameters)
        self._said = ''
        self.last_error = ''
        self.fatal = ''
        self.supervision = ''
        self.watchdog = ''

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
        self._clipped_share, self._rejected = 0.0, 0

    def inactive(self, waiting: str = '') -> None:
        """Say that nothing is driven, and what the activation waits for."""
        level, text = WARN, f'inactive; waiting: {waiting}' if waiting else 'inactive'
        if self.fatal:
            level, text = ERROR, self.fatal
        self._say(level, text)
        values = {'state': 'inactive', 'ticks': 0, 'waiting_for': waiting}
        values |= {'watchdog': self.watchdog, 'supervision': self.supervision}
        values['last_error'] = self.last_error
        self._diagnostics.report([Status('policy: control', level, text, values)])

    def active(self, driving: Driving, heartbeat: str) -> None:
        """Say what is waited for, what was refused, and the counters.

        Args:
            driving: what drives.
            heartbeat: the state that the last one said.
        """
        statuses = [self._control(driving, heartbeat), self._weights()]
        driver = driving.driver
        if isinstance(driver, BeatingDriver):
            statuses += [
                self._timing.status(driver, self._counters.inference),
                self._observations(driver),
                self._realtime(driving),
            ]
        self._diagnostics.report(statuses)

    def _control(self, driving: Driving, heartbeat: str) -> Status:
        counters = self._counters
        waiting = driving.driver.check()
        reason = counters.reason
        level, text = self.judge(waiting)
        self._say(level, text)
        values = {
            name: getattr(counters, name)
            for name in ('ticks', 'holds', 'chunks', 'chunk_misses', 'episodes', 'refused')
        }
        values |= {
            'refused_reason': reason,
            'late_ticks': 0,
            'missed_ticks': 0,
            'lateness_p50_us': 0,
            'lateness_p99_us': 0,
            'commands': counters.commands,
            'repeats': counters.repeats,
            'cut_chunks': counters.cut_chunks,
            'stale_ticks': counters.stale_ticks,
            'clipped': counters.clipped,
            'clipped_share_1s': f'{self._clipped_share:.4f}',
            'lost_outcomes': counters.lost_outcomes,
            'policy_version': self._planner.policy.info.version,
            'policy_digest': self._planner.policy.digest,
            'inference_p50_us': counters.inference.quantile(0.5) // 1000,
            'inference_p99_us': counters.inference.quantile(0.99) // 1000,
            'waiting_for': waiting,
            'state': 'halted' if self._latch.halted else ('waiting' if waiting else 'running'),
            'halts': self._latch.halts,
            'halt_reason': self._latch.reason if self._latch.halted else '',
            'heartbeat': heartbeat,
            'watchdog': self.watchdog,
            'supervision': self.supervision,
            'last_error': self.last_error,
        }
        if isinstance(driving.driver, BeatingDriver):
            executor = driving.driver.executor
            values['late_ticks'] = executor.late_ticks
            values['missed_ticks'] = executor.missed_ticks
            values['lateness_p50_us'] = executor.lateness.quantile(0.5) // 1000
            values['lateness_p99_us'] = executor.lateness.quantile(0.99) // 1000
        return Status('policy: control', level, text or 'ok', values)

    def _weights(self) -> Status:
        gate, planner = self._gate, self._planner
        values = {
            'policy_version': planner.policy.info.version,
            'policy_digest': planner.policy.digest,
            'accepted_weights': gate.accepted,
            'rejected_weights': gate.rejected,
            'rejected_reason': gate.reason,
            'swaps': planner.swaps,
            'swap_wait_us': planner.swap_wait_ns // 1000,
        }
        rejected = self._rejected
        text = f'{rejected} refused: {gate.reason}' if rejected else 'ok'
        return Status('policy: weights', WARN if rejected else OK, text, values)

    def _observations(self, driver: BeatingDriver) -> Status:
        ages_us, values, old = observation_ages_us(driver), {}, []
        for stream in self._contract.streams.values():
            age_s = ages_us[stream.name] * 1e-6
            values[f'{stream.name}.age_s'] = f'{age_s:.4f}'
            values[f'{stream.name}.max_age_s'] = f'{stream.max_age_s:g}'
            if age_s > stream.max_age_s:
                old.append(
                    f'topic {stream.topic!r}: last message is {age_s:.2f} s old, wanted at most '
                    f'{stream.max_age_s:g} s'
                )
        return Status('policy: observations', WARN if old else OK, '; '.join(old) or 'ok', values)

    def _realtime(self, driving: Driving) -> Status:
        report, interpreter = driving.realtime.report, driving.realtime.interpreter
        executor = driving.driver.executor
        values = {'spin_us': executor.spin_ns // 1000}
        values['raised_threads'] = len(driving.realtime.companions.raised)
        values['collections'] = '/'.join(str(count) for count in interpreter.collections)
        values['longest_collection_us'] = max(interpreter.longest_ns) // 1000
        refused = () if report is None else report.refused
        for grant in () if report is None else report.grants:
            values[f'{grant.name}.wanted'], values[f'{grant.name}.got'] = grant.wanted, grant.got
        text = '; '.join(str(grant) for grant in refused)
        return Status('policy: realtime', WARN if refused else OK, text or 'ok', values)

    def flush(self) -> None:
        """Wait a moment until everybody has got it."""
        self._diagnostics.flush()

    def judge(self, waiting: str) -> tuple[bytes, str]:
        """Return level and text of the gravest thing there is to say."""
        counters = self._counters
        numbers = (counters.ticks - self._ticks_before) * self._contract.action_dim
        clipped = counters.clipped - self._clipped_before
        self._ticks_before, self._clipped_before = counters.ticks, counters.clipped
        self._clipped_share = clipped / numbers if numbers else 0.0
        rejected = self._rejected = self._gate.rejected - self._rejected_before
        self._rejected_before += rejected
        reason, counters.reason = counters.reason, ''
        halted, disk_error = self._latch.halted, self._latch.disk_error
        text = f'halted: {self._latch.reason}; call ~/resume to drive' if halted else ''
        if self.fatal or self.supervision:
            return ERROR, self.fatal or self.supervision
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
        if self._clipped_share > CLIPPED_WARNING:
            return WARN, f'{clipped} of {numbers} action numbers clipped'
        return OK, ''

    def _say(self, level: bytes, text: str) -> None:
        # A line of its own for each: rclpy refuses a second severity from one line of code.
        if text and text != self._said and level == ERROR:
            self._log.error(text)
        elif text and text != self._said:
            self._log.warning(text)
        self._said = text
