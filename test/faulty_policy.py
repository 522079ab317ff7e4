# SPDX-License-Identifier: Apache-2.0
"""The policy node with a fault built in, that shows once a file exists.

Usage: faulty_policy.py FAULT FILE --ros-args ...
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rcl_interfaces.msg import SetParametersResult

from qcfql_ros.control.planner import Planner
from qcfql_ros.control.wall import WallDriver
from qcfql_ros.nodes import policy_node
from qcfql_ros.nodes.driving import Driving
from qcfql_ros.nodes.policy_node import PolicyNode
from qcfql_ros.nodes.sensing import Sensing
from qcfql_ros.nodes.weight_gate import WeightGate


def breaks() -> None:
    """Raise what nobody expects."""
    raise RuntimeError('tested')


def hangs() -> None:
    """Return much later than anybody waits."""
    time.sleep(1000.0)


def stutters() -> None:
    """Block for longer than a sensor may be silent."""
    time.sleep(1.0)


class Watched(PolicyNode):
    """With a parameter callback of its own, so that there is one to break."""

    def __init__(self, stop) -> None:
        super().__init__(stop)
        self.add_on_set_parameters_callback(lambda parameters: self.on_set(parameters))

    def on_set(self, parameters):
        """Accept."""
        return SetParametersResult(successful=True)


FAULTS = {
    'sensor': (Sensing, '_on_sensor', breaks),
    'outcome': (Sensing, '_on_outcome', breaks),
    'weights': (Driving, '_on_weights', breaks),
    'weights_thread': (WeightGate, 'take', breaks),
    'timer': (PolicyNode, '_on_second', breaks),
    'service': (PolicyNode, '_on_halt', breaks),
    'parameter': (Watched, 'on_set', breaks),
    'deactivate': (WallDriver, 'stop', breaks),
    'inference_dies': (Planner, 'plan', breaks),
    'inference_hangs': (Planner, 'plan', hangs),
    'control_dies': (WallDriver, 'tick', breaks),
    'control_hangs': (WallDriver, 'tick', hangs),
    'executor_hangs': (Sensing, '_on_sensor', stutters),
}


def build_in(fault: str, trigger: Path) -> None:
    """Make one method do wrong once `trigger` exists."""
    owner, name, act = FAULTS[fault]
    original = getattr(owner, name)

    def wrapped(self, *args):
        if trigger.exists():
            act()
        return original(self, *args)

    setattr(owner, name, wrapped)


if __name__ == '__main__':
    build_in(sys.argv[1], Path(sys.argv[2]))
    sys.exit(policy_node.run_node(Watched, [sys.argv[0], *sys.argv[3:]]))
