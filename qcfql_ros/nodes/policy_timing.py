# SPDX-License-Identifier: Apache-2.0
"""How punctual the policy node was: once a second in words, ten times a second in numbers.

Names and thresholds of rate and execution time are those of ros2_control's controller_manager
(its parameters ``diagnostics.threshold.*``), see docs/diagnostics.md.
"""

from __future__ import annotations

import time
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState

from qcfql_ros.contract.named_vector import vector_message
from qcfql_ros.control.histogram import Histogram
from qcfql_ros.control.tick_times import Statistics, Timing
from qcfql_ros.nodes.diagnostics import ERROR, OK, WARN, Status
from qcfql_ros.nodes.driving import BeatingDriver

NAME = 'policy: timing'
# The names that ~/timing has whatever the contract is; one for each stream comes after them.
TIMING_NAMES = (
    'rate_hz',
    'execution_us',
    'lateness_us',
    'publish_lateness_us',
    'inference_us',
    'observation_age_us',
)
_THRESHOLDS = {
    'periodicity mean error': (
        'diagnostics.threshold.periodicity.mean_error.warn',
        'diagnostics.threshold.periodicity.mean_error.error',
    ),
    'periodicity standard deviation': (
        'diagnostics.threshold.periodicity.standard_deviation.warn',
        'diagnostics.threshold.periodicity.standard_deviation.error',
    ),
    'execution time mean error': (
        'diagnostics.threshold.execution_time.mean_error.warn',
        'diagnostics.threshold.execution_time.mean_error.error',
    ),
    'execution time standard deviation': (
        'diagnostics.threshold.execution_time.standard_deviation.warn',
        'diagnostics.threshold.execution_time.standard_deviation.error',
    ),
}
_SECOND_NS = 1_000_000_000


class TimingReport:
    """The status ``policy: timing``, over the second before it.

    Args:
        parameters: of the node, for the thresholds.
    """

    def __init__(self, parameters: Any) -> None:
        self._parameters = parameters
        self._inference = self._inference_before = Histogram()

    def status(self, driver: BeatingDriver, inference: Histogram) -> Status:
        """Return the status of now."""
        timing = driver.times.since(time.monotonic_ns() - _SECOND_NS)
        desired = 1e9 / driver.executor.period_ns
        level, text = self._judge(timing, desired)
        if inference is not self._inference:  # configured anew, and counted from zero
            self._inference, self._inference_before = inference, Histogram()
        planned = inference.since(self._inference_before)
        self._inference_before = inference.snapshot()
        executor = driver.executor
        values = {'update_rate': f'{desired:g}'}
        values |= _words('periodicity', timing.periodicity)
        values |= _words('execution_time', timing.execution_us)
        values |= _quantiles('lateness', timing.lateness_us)
        values |= _quantiles('publish_lateness', timing.publish_lateness_us)
        values |= {
            'inference_1s_p50_us': planned.quantile(0.5) // 1000,
            'inference_1s_p99_us': planned.quantile(0.99) // 1000,
            'inference_1s_max_us': planned.max_ns // 1000,
            'lateness_run_max_us': executor.lateness.max_ns // 1000,
            'publish_lateness_run_max_us': executor.published.max_ns // 1000,
            'inference_run_max_us': inference.max_ns // 1000,
        }
        return Status(NAME, level, text, values)

    def _judge(self, timing: Timing, desired_hz: float) -> tuple[bytes, str]:
        """Return level and text; with fewer than two commands there is nothing to judge."""
        if not timing.periodicity.count:
            return OK, 'no commands in the last second'
        found = {
            'periodicity mean error': abs(timing.periodicity.average - desired_hz),
            'periodicity standard deviation': timing.periodicity.standard_deviation,
            'execution time mean error': timing.execution_us.average,
            'execution time standard deviation': timing.execution_us.standard_deviation,
        }
        worst, texts = OK, []
        for what, value in found.items():
            unit = 'Hz' if what.startswith('periodicity') else 'us'
            warn, error = (self._threshold(name) for name in _THRESHOLDS[what])
            if value > min(warn, error):
                level = ERROR if value > error else WARN
                worst = max(worst, level)
                bound = error if level == ERROR else warn
                texts.append(f'{what} {value:.1f} {unit}, wanted at most {bound:g}')
        return worst, '; '.join(texts) or 'ok'

    def _threshold(self, name: str) -> float:
        return getattr(self._parameters, name.replace('.', '_'))


class TimingTopic:
    """``~/timing``, a stamped named vector for plots; sent only while somebody listens."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._since_ns = time.monotonic_ns()
        quiet = PublisherEventCallbacks(use_default_callbacks=False)
        self._publisher = node.create_publisher(
            JointState, '~/timing', QoSProfile(depth=10), event_callbacks=quiet
        )

    def send(self, driver: BeatingDriver) -> None:
        """Send what happened since the last call; of each kind the largest."""
        since_ns, self._since_ns = self._since_ns, time.monotonic_ns()
        if not self._publisher.get_subscription_count():
            return
        timing = driver.times.since(since_ns)
        latencies = driver.prefetch.latencies_ns
        ages_us = observation_ages_us(driver)
        values = [
            timing.periodicity.average,
            timing.execution_us.max,
            timing.lateness_us.max,
            timing.publish_lateness_us.max,
            latencies[-1] * 1e-3 if latencies else 0.0,
            max(ages_us.values(), default=0.0),
            *ages_us.values(),
        ]
        names = [*TIMING_NAMES, *(f'observation_age_us.{name}' for name in ages_us)]
        now_ns = self._node.get_clock().now().nanoseconds
        self._publisher.publish(vector_message(now_ns, names, values))


def observation_ages_us(driver: BeatingDriver) -> dict[str, float]:
    """Return how long ago the newest message of each stream came; infinite without one."""
    now_ns, ages = time.monotonic_ns(), {}
    for name in driver.latest.streams:
        newest = driver.latest.newest(name)
        ages[name] = float('inf') if newest is None else (now_ns - newest.receive_ns) * 1e-3
    return ages


def _words(name: str, numbers: Statistics) -> dict[str, str]:
    return {
        f'{name}.average': f'{numbers.average:.3f}',
        f'{name}.standard_deviation': f'{numbers.standard_deviation:.3f}',
        f'{name}.min': f'{numbers.min:.3f}',
        f'{name}.max': f'{numbers.max:.3f}',
    }


def _quantiles(name: str, numbers: Statistics) -> dict[str, int]:
    return {
        f'{name}_1s_p50_us': round(numbers.p50),
        f'{name}_1s_p99_us': round(numbers.p99),
        f'{name}_1s_max_us': round(numbers.max),
    }
