# SPDX-License-Identifier: Apache-2.0
"""A simulated robot on ROS topics: sensors and outcomes out, commands in."""

from __future__ import annotations

import sys
import time
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from std_msgs.msg import UInt64

from qcfql_ros.contract import load_contract
from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.named_vector import Outcome, outcome_fields, vector_message
from qcfql_ros.contract.topics import CREDITS_TOPIC, JOINT_STATE
from qcfql_ros.errors import MessageError
from qcfql_ros.nodes.process import Stop, run_node
from qcfql_ros.nodes.qos import CREDITS_QOS, RECORD_QOS, command_qos, sensor_qos
from qcfql_ros.nodes.robot_graph import RobotGraph
from qcfql_ros.nodes.robot_pacing import LockstepPacing, WallPacing
from qcfql_ros.nodes.ros_parameters import declare_parameters
from qcfql_ros.parameters import ROBOT_NODE
from qcfql_ros.robots import make_robot
from qcfql_ros.robots.command_sets import CommandSets
from qcfql_ros.robots.session import RobotSession

WATCH_S = 0.1
LONG_WAIT_S = 5.0


class GymRobotNode(Node):
    """Wires a simulated robot to the topics of its contract."""

    def __init__(self, stop: Stop) -> None:
        super().__init__('robot')
        self._stop = stop
        parameters = declare_parameters(self, ROBOT_NODE)
        contract = load_contract(parameters.contract or parameters.robot)
        robot = make_robot(parameters.robot, parameters.mode, contract)
        self._session = RobotSession(robot, parameters.seed)
        self._commands = CommandSets(contract)
        self._group = MutuallyExclusiveCallbackGroup()
        self._lockstep = parameters.pacing == 'lockstep'
        self._about = {'robot': parameters.robot, 'mode': parameters.mode}

        # Each event handler costs every spin of the executor: without them it takes half as long.
        # A subscription that asks for another QoS says so on its own side.
        quiet = PublisherEventCallbacks(use_default_callbacks=False)
        self._sensors = {
            stream.name: self.create_publisher(
                message_class(stream.type),
                stream.topic,
                sensor_qos(parameters.pacing),
                event_callbacks=quiet,
            )
            for stream in contract.streams.values()
        }
        self._outcome = self.create_publisher(
            message_class(JOINT_STATE), contract.outcome.topic, RECORD_QOS, event_callbacks=quiet
        )
        for command in contract.action.commands:
            self.create_subscription(
                message_class(command.type),
                command.topic,
                partial(self._on_command, command.topic),
                command_qos(parameters.pacing),
                callback_group=self._group,
            )
        self._graph = RobotGraph(
            self,
            [
                *((sensor, parameters.expected_subscribers) for sensor in self._sensors.values()),
                (
                    self._outcome,
                    parameters.expected_subscribers + parameters.expected_listeners,
                ),
            ],
            [command.topic for command in contract.action.commands],
        )
        self._diagnostics = self.create_publisher(
            DiagnosticArray, '/diagnostics', 10, event_callbacks=quiet
        )

        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._pacing: LockstepPacing | WallPacing
        if self._lockstep:
            self._pacing = LockstepPacing(
                self._session,
                self._commands,
                contract,
                self,
                parameters.episodes,
                parameters.wait_for_credits,
            )
            if parameters.wait_for_credits:
                self.create_subscription(UInt64, CREDITS_TOPIC, self._on_credits, CREDITS_QOS)
        else:
            self._pacing = WallPacing(
                self._session, self._commands, contract, self, parameters.episodes
            )
            period_s = contract.period_ns * 1e-9
            self.create_timer(period_s, self._on_grid, self._group, clock=steady)
        self.create_timer(WATCH_S, self._watch, self._group, clock=steady)
        self.create_timer(1.0, self._diagnose, self._group, clock=steady)
        self._matched = False
        self._said_finished = False
        self._waiting_for = ''
        self._waiting_since = time.monotonic()
        self._waiting_tick = 0
        self._said_waiting = False
        self._ticks_before = 0
        self.get_logger().info(
            f'{parameters.robot} ready ({parameters.mode}, {parameters.pacing}), '
            f'contract {contract.name} {contract.hash[:12]}'
        )

    def publish_sensors(self, stamp_ns: int) -> None:
        """Publish every sensor stream of the contract with this stamp."""
        messages = self._session.robot.sensors(stamp_ns)
        for name, publisher in self._sensors.items():
            publisher.publish(messages[name])

    def publish_outcome(self, outcome: Outcome) -> None:
        """Publish what came of a tick."""
        self._outcome.publish(vector_message(outcome.stamp_ns, *outcome_fields(outcome)))

    def close(self) -> None:
        """Free the simulation."""
        self._session.robot.close()

    def _on_command(self, topic, message) -> None:
        try:
            self._commands.push(topic, message)
        except MessageError as error:
            self.get_logger().error(f'command dropped: {error}', throttle_duration_sec=1.0)
        if self._lockstep:
            self._pacing.advance()

    def _on_credits(self, message: UInt64) -> None:
        self._pacing.credits = message.data
        self._pacing.advance()

    def _on_grid(self) -> None:
        self._pacing.tick(self.get_clock().now().nanoseconds)

    def _watch(self) -> None:
        """Ten times a second: begin when matched, begin anew when the other side changed."""
        if self._pacing.finished:
            self._say_finished()
            self._wait('')
        elif self._matched:
            reason = self._graph.changed()
            if reason:
                self.get_logger().warning(f'{reason}: episode {self._session.episode} broken off')
                self._pacing.break_off()
                self._matched = False
            elif self._lockstep and self._pacing.waiting_for_credits:
                self._wait(f'credits beyond {self._pacing.credits}')
            elif self._lockstep:
                missing = self._commands.missing(self._pacing.stamp_ns)
                self._wait(f'command {", ".join(missing)}')
        else:
            missing = self._graph.missing()
            self._wait(', '.join(missing))
            if not missing:
                self._graph.remember()
                self._matched = True
                self.get_logger().info(f'matched: episode {self._session.episode + 1} begins')
                if self._lockstep:
                    self._pacing.start()

    def _wait(self, what: str) -> None:
        """Note what is awaited; after 5 s say it, once for each wait."""
        tick = self._session.tick
        if not what or tick != self._waiting_tick or what != self._waiting_for:
            self._waiting_for, self._waiting_tick = what, tick
            self._waiting_since = time.monotonic()
            self._said_waiting = False
        elif not self._said_waiting and time.monotonic() - self._waiting_since > LONG_WAIT_S:
            self._said_waiting = True
            text = f'waiting for {what} since {LONG_WAIT_S:g} s'
            if not self._matched:  # a policy may take its time to start
                self.get_logger().warning(text)
            elif (
                self._lockstep and self._pacing.waiting_for_credits
            ):  # learning sets the pace, as it should
                self.get_logger().info(text)
            else:
                self.get_logger().error(text)

    def _say_finished(self) -> None:
        if not self._said_finished:
            self._said_finished = True
            self.get_logger().info(
                f'finished: {self._session.episode + 1} episodes, {self._session.tick} ticks, '
                f'{self._session.successes} ended in success'
            )

    def _diagnose(self) -> None:
        ticks, self._ticks_before = (
            self._session.tick - self._ticks_before,
            self._session.tick,
        )
        values = {
            **self._about,
            'episode': self._session.episode,
            'tick': self._session.tick,
            'successes': self._session.successes,
            'ticks_per_s': ticks,
            'waiting_for': self._waiting_for,
            'starved': getattr(self._pacing, 'starved', 0),
            'superseded': self._commands.superseded,
            'late': self._commands.late,
            'finished': int(self._pacing.finished),
        }
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [
            DiagnosticStatus(
                level=DiagnosticStatus.ERROR if self._said_waiting else DiagnosticStatus.OK,
                name='robot: pacing',
                message=f'waiting for {self._waiting_for}' if self._waiting_for else 'ok',
                hardware_id=self.get_fully_qualified_name(),
                values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
            )
        ]
        self._diagnostics.publish(message)


def main(args: list[str] | None = None) -> int:
    """Run the robot until it is asked to stop."""
    return run_node(GymRobotNode, args)


if __name__ == '__main__':
    sys.exit(main())
