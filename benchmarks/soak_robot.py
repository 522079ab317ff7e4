# SPDX-License-Identifier: Apache-2.0
"""A robot that does all that a robot should not: for the wall-clock part of the soak."""

from __future__ import annotations

import json
import math
import time
from array import array
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TwistStamped
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from soak_checker import EVENT_TOPIC
from soak_lockstep import make_policy
from std_msgs.msg import Bool, String, UInt8MultiArray
from std_srvs.srv import Trigger

from qcfql_ros.contract.named_vector import Outcome, outcome_fields, set_stamp, vector_message
from qcfql_ros.contract.schema import Contract
from qcfql_ros.nodes.qos import RECORD_QOS, command_qos, sensor_qos
from qcfql_ros.nodes.weights import WEIGHTS_QOS, split

JOINTS = ('shoulder', 'elbow')
EPISODE_TICKS = 700
SIM_START_NS = 1_000_000_000_000
# Mean time between two of a kind, in s.
EVERY_S = {'halt': 9.0, 'weights': 2.0, 'parameters': 3.0, 'clock': 21.0, 'silence': 17.0}
DROPPED, REORDERED, NOT_A_NUMBER = 0.01, 0.01, 0.003  # of the sensor messages
WEIGHTS = ('good', 'good', 'good', 'wrong hash', 'NaN', 'truncated', 'old version', 'garbage')
# (name, value, whether the declaration allows it); unknown names are refused too.
PARAMETERS = (
    ('limits_scale', 0.5, True),
    ('limits_scale', 1.0, True),
    ('limits_scale', -1.0, False),
    ('limits_scale', 7.0, False),
    ('noise_scale', 0.5, True),
    ('noise_scale', math.nan, False),
    ('on_late', 'repeat', True),
    ('on_late', 'hold', True),
    ('on_late', 'sometimes', False),
    ('lead_s', -0.5, False),
    ('contract', 'another', False),
    ('no_such_parameter', 1.0, False),
)


class SoakRobot(Node):
    """Sensors on a grid, faults at random; follows the commands that it gets.

    Attributes:
        injected: what was done, counted.
        failures: what should not have come of it, in words.
        diagnostics: the newest of the policy node, by key.
    """

    def __init__(self, contract: Contract, seed: int) -> None:
        super().__init__('soak_robot')
        self.contract = contract
        self.injected: Counter[str] = Counter()
        self.failures: list[str] = []
        self.diagnostics: dict[str, str] = {}
        self.rng = np.random.default_rng(seed)
        self._step_ns = 0  # of the injected clock against the monotonic one
        self._zero_ns = time.monotonic_ns() - SIM_START_NS
        self._position = dict.fromkeys(JOINTS, 0.0)
        self._wanted = dict.fromkeys(JOINTS, 0.0)
        self._command_ns = self._executed_ns = 0
        self._tick = self._in_episode = self._episode = 0
        self._version = 0
        self._old: list[bytes] = []
        self._kept: list[Callable[[], None]] = []
        self._silent_until_ns = 0
        self._later: list[tuple[int, Callable[[], None]]] = []
        self._busy = False  # a halt is on its way
        self._due_ns: dict[str, int] = {}
        quality = sensor_qos('wall')
        self._joints = self.create_publisher(JointState, 'joint_states', quality)
        self._goal = self.create_publisher(PoseStamped, 'goal_pose', quality)
        self._outcome = self.create_publisher(JointState, 'outcome', RECORD_QOS)
        self._clock = self.create_publisher(Clock, '/clock', 10)
        self._weights = self.create_publisher(UInt8MultiArray, 'policy_weights', WEIGHTS_QOS)
        self._events = self.create_publisher(String, EVENT_TOPIC, 1000)
        self._halt_topic = self.create_publisher(Bool, 'halt', 10)
        for kind, topic, callback in (
            (JointState, 'arm/command', self._on_arm),
            (TwistStamped, 'base/twist_command', self._on_base),
        ):
            self.create_subscription(kind, topic, callback, command_qos('wall'))
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self._halt = self.create_client(Trigger, 'policy/halt')
        self._resume = self.create_client(Trigger, 'policy/resume')
        self._set = self.create_client(SetParameters, 'policy/set_parameters')

    def ready(self) -> bool:
        """Whether the policy node and the judge are there."""
        return self._halt.service_is_ready() and self._events.get_subscription_count() > 0

    def begin_faults(self) -> None:
        """Begin: until now the robot behaved well."""
        now_ns = time.monotonic_ns()
        self._due_ns = {kind: self._draw(kind, now_ns) for kind in EVERY_S}

    def end_faults(self) -> bool:
        """Behave well again; True once nothing is on its way any more."""
        self._due_ns = {}
        return not self._later and not self._busy

    def sim_ns(self) -> int:
        """Return the injected time."""
        return time.monotonic_ns() - self._zero_ns + self._step_ns

    def tick(self) -> None:
        """Do what belongs to one grid time."""
        now_ns = time.monotonic_ns()
        for kind, due_ns in self._due_ns.items():
            if now_ns >= due_ns and not (kind == 'halt' and self._busy):
                self._due_ns[kind] = self._draw(kind, now_ns)
                getattr(self, f'_do_{kind}')(now_ns)
        for entry in [entry for entry in self._later if entry[0] <= now_ns]:
            self._later.remove(entry)
            entry[1]()
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(self.sim_ns(), 1_000_000_000)
        self._clock.publish(clock)
        self._publish_outcome()
        self._publish_sensors(now_ns)

    def _draw(self, kind: str, now_ns: int) -> int:
        return now_ns + round(self.rng.exponential(EVERY_S[kind]) * 1e9)

    def _in(self, seconds: float, action: Callable[[], None]) -> None:
        self._later.append((time.monotonic_ns() + round(seconds * 1e9), action))

    # What the robot says.

    def _publish_sensors(self, now_ns: int) -> None:
        stamp_ns, period_s = self.sim_ns(), self.contract.period_ns * 1e-9
        before, self._position = self._position, dict(self._wanted)
        joints = JointState(name=list(JOINTS))
        joints.position = array('d', self._position.values())
        joints.velocity = array('d', ((self._position[j] - before[j]) / period_s for j in JOINTS))
        goal = PoseStamped()
        angle = stamp_ns * 1e-9
        goal.pose.position.x, goal.pose.position.y = math.sin(angle), math.cos(angle)
        faulty = bool(self._due_ns)
        held, self._kept = self._kept, []
        for publisher, message in ((self._joints, joints), (self._goal, goal)):
            set_stamp(message, stamp_ns)
            draw = self.rng.random(3) if faulty else (1.0, 1.0, 1.0)
            if draw[0] < NOT_A_NUMBER:
                self.injected['sensor: NaN'] += 1
                if message is joints:
                    message.position[0] = math.nan
                else:
                    message.pose.position.x = math.nan
            if now_ns < self._silent_until_ns:
                self.injected['sensor: silent'] += 1
            elif draw[1] < DROPPED:
                self.injected['sensor: dropped'] += 1
            elif draw[2] < REORDERED:
                self.injected['sensor: reordered'] += 1
                self._kept.append(partial(publisher.publish, message))
            else:
                publisher.publish(message)
        for publish in held:  # after the younger ones
            publish()

    def _publish_outcome(self) -> None:
        stamp_ns = self._command_ns
        if stamp_ns == self._executed_ns:
            return
        self._executed_ns = stamp_ns
        self._tick += 1
        self._in_episode += 1
        ended = self._in_episode >= EPISODE_TICKS
        outcome = Outcome(stamp_ns, -1.0, False, ended, False, self._episode, self._tick, ended)
        self._outcome.publish(vector_message(stamp_ns, *outcome_fields(outcome)))
        if ended:
            self._in_episode = 0
            self._episode += 1

    def _on_arm(self, message: JointState) -> None:
        stamp = message.header.stamp
        self._command_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        for name, number in zip(message.name, message.position, strict=True):
            if math.isfinite(number):
                self._wanted[name] = number

    def _on_base(self, message: TwistStamped) -> None:
        self.injected['base commands heard'] += 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.hardware_id.endswith('policy') or status.name.startswith('policy'):
                self.diagnostics |= {entry.key: entry.value for entry in status.values}

    def _say(self, kind: str) -> None:
        event = {'kind': kind, 'at_ns': time.monotonic_ns()}
        self._events.publish(String(data=json.dumps(event)))

    # What is done to the policy.

    def _do_silence(self, now_ns: int) -> None:
        self.injected['silences'] += 1
        self._silent_until_ns = now_ns + round(self.rng.uniform(0.05, 0.7) * 1e9)

    def _do_clock(self, now_ns: int) -> None:
        step_s = float(self.rng.uniform(0.1, 3.0) * self.rng.choice([-1.0, 1.0]))
        self.injected['clock back' if step_s < 0.0 else 'clock forward'] += 1
        if step_s < 0.0:
            self._say('clock back')
        self._step_ns += round(step_s * 1e9)

    def _do_halt(self, now_ns: int) -> None:
        self._busy = True
        self._say('halting')
        if self.rng.random() < 0.5:
            self.injected['halts by topic'] += 1
            self._halt_topic.publish(Bool(data=True))
            self._in(0.1, self._halted)
        else:
            self.injected['halts by service'] += 1
            self._halt.call_async(Trigger.Request()).add_done_callback(lambda _: self._halted())

    def _halted(self) -> None:
        self._say('halted')
        self._in(float(self.rng.uniform(0.2, 1.0)), self._resuming)

    def _resuming(self) -> None:
        self._say('resuming')
        self._resume.call_async(Trigger.Request()).add_done_callback(self._resumed)

    def _resumed(self, future: Any) -> None:
        if future.result().message != 'resumed':
            self.failures.append(f'resume: {future.result().message!r}, wanted resumed')
        self._say('resumed')
        self._busy = False

    def _do_parameters(self, now_ns: int) -> None:
        name, value, allowed = PARAMETERS[int(self.rng.integers(len(PARAMETERS)))]
        kind = {float: 'double', str: 'string'}[type(value)]
        wire = ParameterValue(type=getattr(ParameterType, f'PARAMETER_{kind.upper()}'))
        setattr(wire, f'{kind}_value', value)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=wire)])

        def answered(future: Any) -> None:
            done = future.result().results[0].successful
            self.injected['parameters accepted' if done else 'parameters refused'] += 1
            if done and not allowed:
                self.failures.append(f'parameter {name} := {value} was accepted')

        self._set.call_async(request).add_done_callback(answered)

    def _do_weights(self, now_ns: int) -> None:
        kind = str(self.rng.choice(WEIGHTS))
        if kind == 'old version' and not self._old:
            kind = 'good'
        self.injected[f'weights: {kind}'] += 1
        self._version += kind != 'old version'
        strength = float(self.rng.choice([1.0, 30.0, 100.0]))
        if kind == 'NaN':
            strength = math.nan
        version = self._version
        blob = make_policy(self.contract, version, version, strength).to_bytes()
        if kind == 'garbage':
            blob = self.rng.bytes(5000)
        parts = self._old if kind == 'old version' else split(blob, version)
        if kind == 'good':
            self._old = parts
        elif kind == 'wrong hash':
            parts = [parts[0][:-1] + bytes([parts[0][-1] ^ 1])]
        elif kind == 'truncated':
            parts = [parts[0][:-100]]
        for part in parts:
            self._weights.publish(UInt8MultiArray(data=array('B', part)))
