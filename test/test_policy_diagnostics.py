# SPDX-License-Identifier: Apache-2.0
"""What the policy node says of its timing: statistics, statuses, the plots' topic and layout."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from policy_scene import CONTRACT, make_policy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState

from qcfql_ros.contract.named_vector import Outcome, StepRecord, outcome_fields, step_fields
from qcfql_ros.control.tick_times import Statistics, TickTimes
from qcfql_ros.nodes.diagnostics import ERROR, OK
from qcfql_ros.nodes.gym_robot_node import GymRobotNode
from qcfql_ros.nodes.policy_node import PolicyNode
from qcfql_ros.nodes.policy_timing import TIMING_NAMES
from qcfql_ros.nodes.process import Stop

LAYOUT = Path(__file__).parents[1] / 'config' / 'qcfql.plotjuggler.xml'


def test_statistics_are_those_of_numpy():
    numbers = [float(n) for n in np.random.default_rng(1).normal(50.0, 3.0, 500)]
    found = Statistics.of(numbers)
    assert found.count == 500
    assert found.average == pytest.approx(np.mean(numbers))
    assert found.standard_deviation == pytest.approx(np.std(numbers))
    assert (found.min, found.max) == (min(numbers), max(numbers))
    assert found.p50 == np.quantile(numbers, 0.5, method='inverted_cdf')
    assert found.p99 == np.quantile(numbers, 0.99, method='inverted_cdf')
    assert Statistics.of([]) == Statistics()


def test_a_pause_between_two_runs_is_no_period():
    times, ms = TickTimes(), 1_000_000
    for begin in (100, 120, 140):
        times.add(begin * ms, (begin + 1) * ms, (begin + 3) * ms)
    times.pause()
    times.pause()
    for begin in (1000, 1010):
        times.add(begin * ms, (begin + 2) * ms, (begin + 3) * ms)
    timing = times.since(0)
    assert timing.periodicity.count == 3
    assert (timing.periodicity.min, timing.periodicity.max) == (50.0, 100.0)
    assert timing.lateness_us.max == 2000.0 and timing.lateness_us.min == 1000.0
    assert timing.publish_lateness_us.average == 3000.0
    assert timing.execution_us.average == pytest.approx((3 * 2000 + 2 * 1000) / 5)
    late = times.since(1005 * ms)
    assert late.periodicity.count == 1 and late.lateness_us.count == 1


def test_every_curve_of_the_layout_is_a_name_that_is_published():
    step = StepRecord(0, np.zeros(2, np.float32), 0, 0, 0, 0, 0, 0, 0, False)
    outcome = Outcome(0, 0.0, False, False, False, 0, 1, False)
    names = {
        'policy/timing': TIMING_NAMES,
        'policy/step': step_fields(step, CONTRACT)[0],
        'outcome': outcome_fields(outcome)[0],
    }
    published = {f'/{t}/{name}/position' for t, all_names in names.items() for name in all_names}
    curves = [curve.get('name') for curve in ET.parse(LAYOUT).getroot().iter('curve')]
    assert len(curves) == len(set(curves)) > 5
    assert set(curves) <= published


def test_at_wall_rate_the_statuses_and_the_timing_topic_say_how_it_goes(tmp_path):
    file = tmp_path / 'policy.safetensors'
    file.write_bytes(make_policy().to_bytes())
    settings = ('robot:=point_reach', 'contract:=point_reach', f'model:={file}', 'pacing:=wall')
    rclpy.init(args=['--ros-args', *(word for s in settings for word in ('-p', s))])
    executor, nodes, arrays, timings = SingleThreadedExecutor(), [], [], []
    try:
        ear = rclpy.create_node('ear')
        ear.create_subscription(DiagnosticArray, '/diagnostics', arrays.append, 10)
        ear.create_subscription(JointState, 'policy/timing', timings.append, 10)
        nodes = [ear, GymRobotNode(Stop()), PolicyNode(Stop())]
        for node in nodes:
            executor.add_node(node)

        def until(predicate, what):
            deadline = time.monotonic() + 30
            while not predicate():
                assert time.monotonic() < deadline, what
                executor.spin_once(timeout_sec=0.05)

        def newest():
            """Return the statuses of the newest array that has a rate, by name."""
            for array in reversed(arrays):
                found = {status.name: status for status in array.status}
                timing = found.get('policy: timing')
                if timing and float(values(timing)['periodicity.max']) > 0:
                    return found
            return None

        def values(status):
            return {pair.key: pair.value for pair in status.values}

        until(lambda: newest() and len(timings) > 15, 'diagnostics of a policy that drives')
        found = newest()
        names = ('control', 'weights', 'timing', 'observations', 'realtime')
        assert set(found) == {f'policy: {name}' for name in names}
        rate = values(found['policy: timing'])
        assert float(rate['update_rate']) == 20.0
        assert 0 < float(rate['periodicity.min']) <= float(rate['periodicity.average'])
        assert float(rate['execution_time.average']) > 0
        assert int(rate['publish_lateness_1s_max_us']) >= int(rate['lateness_1s_max_us'])
        ages = values(found['policy: observations'])
        assert {f'{name}.age_s' for name in CONTRACT.streams} < set(ages)
        control = values(found['policy: control'])
        assert control['watchdog'] == 'not wanted' and control['heartbeat'] != 'inactive'
        assert int(control['commands']) >= int(control['ticks']) > 0
        assert 'timer_slack.got' in values(found['policy: realtime'])
        assert found['policy: weights'].level == OK

        ages = tuple(f'observation_age_us.{name}' for name in CONTRACT.streams)
        assert all(tuple(message.name) == (*TIMING_NAMES, *ages) for message in timings)
        driven = [dict(zip(m.name, m.position, strict=True)) for m in timings]
        assert any(t['rate_hz'] > 0 and t['inference_us'] > 0 for t in driven)
        assert all(0 <= t['observation_age_us'] < 1e6 for t in driven[-5:])

        # Nothing is as even as this asks for.
        name = 'diagnostics.threshold.periodicity.standard_deviation.error'
        assert nodes[2].set_parameters([Parameter(name, value=1e-9)])[0].successful
        arrays.clear()
        until(lambda: newest() and newest()['policy: timing'].level == ERROR, 'the error')
        assert 'periodicity standard deviation' in newest()['policy: timing'].message
    finally:
        for node in nodes:
            if hasattr(node, 'close'):
                node.close()
        executor.shutdown()
        for node in nodes:
            node.destroy_node()
        rclpy.try_shutdown()
