# SPDX-License-Identifier: Apache-2.0
"""What exists while the policy node is active: its topics, its driver, its threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from std_msgs.msg import UInt8MultiArray

from qcfql_ros.contract.topics import WEIGHTS_TOPIC
from qcfql_ros.control.commander import Commander
from qcfql_ros.control.executor import NextCall
from qcfql_ros.control.lockstep import LockstepDriver
from qcfql_ros.control.realtime import RealtimeThread
from qcfql_ros.control.tick_times import TickTimes
from qcfql_ros.control.tuning import TuningBox
from qcfql_ros.control.wall import State, WallDriver
from qcfql_ros.control.watchdog import HALTED, HOLDING, INACTIVE, RUNNING
from qcfql_ros.nodes.command_output import CommandOutput
from qcfql_ros.nodes.fence import Fence
from qcfql_ros.nodes.heartbeat import Heartbeat
from qcfql_ros.nodes.policy_setup import Setup
from qcfql_ros.nodes.safe_command import SafeCommand
from qcfql_ros.nodes.sensing import Sensing
from qcfql_ros.nodes.weights import WEIGHTS_QOS

STOP_WITHIN_S = 1.0
QUIET = SubscriptionEventCallbacks(use_default_callbacks=False)


class BeatingDriver(WallDriver):
    """Says with each call of the control thread that this thread lives, and what it does.

    Attributes:
        beat: told the state.
        times: of the commands.
    """

    beat: Callable[[str], None]
    times: TickTimes

    def tick(self, deadline_ns: int) -> NextCall | None:
        holds, commands = self._counters.holds, self._counters.commands
        following = super().tick(deadline_ns)
        if self.state is State.RUNNING and self._counters.commands > commands:
            self.times.add(deadline_ns, self.executor.last_begin_ns, time.monotonic_ns())
        else:
            self.times.pause()
        if self.state is State.HALTED:
            self.beat(HALTED)
        elif self.state is State.RUNNING and self._counters.holds == holds:
            self.beat(RUNNING)
        else:
            # Between two episodes the last command may still be executed.
            commanded = self._commander.last_stamp_ns is not None
            self.beat(HOLDING if commanded else INACTIVE)
        return following


class Driving:
    """Made at activation, closed at deactivation; a new one knows nothing of the one before.

    Args:
        node: whose topics these are.
        setup: contract, planner, weight gate, halt latch, counters.
        listen: returns what is heard of the robot, listening from then on at the latest. A robot
            in lockstep that is listened to expects a command, so that comes after the publishers.
        heartbeat: says what is done.
        parameters: of the node, checked.
        tuning: what may be changed while driving.
        died: told the exception of a thread that dies.
        realtime: around the control thread (wall pacing only).
    """

    def __init__(
        self,
        node: Node,
        setup: Setup,
        listen: Callable[[], Sensing],
        heartbeat: Heartbeat,
        parameters: Any,
        tuning: TuningBox,
        died: Callable[[BaseException], None],
        realtime: RealtimeThread,
    ) -> None:
        self._node = node
        self._setup = setup
        self._heartbeat = heartbeat
        self.realtime = realtime
        self.on_the_wall = parameters.pacing == 'wall'
        contract = setup.contract
        self.output = CommandOutput(node, contract, parameters.pacing)
        self._fence = Fence(self.output, contract)
        commander = Commander(
            contract,
            self._fence,
            setup.counters,
            not self.on_the_wall,
            round(parameters.lead_s * 1e9),
            tuning,
        )
        shared = (contract, setup.planner, commander, setup.latch, setup.counters)
        horizon = parameters.execution_horizon
        self.driver: LockstepDriver | WallDriver
        if self.on_the_wall:
            driver = BeatingDriver(
                *shared, self._ros_now_ns, execution_horizon=horizon, surroundings=realtime
            )
            driver.beat, driver.times = self._beat, TickTimes()
            self.driver = driver
        else:
            self.driver = LockstepDriver(*shared, self.output.connected, horizon)
        self._sensing = listen()
        self._sensing.attach(self.driver)
        self._weights = node.create_subscription(
            UInt8MultiArray,
            WEIGHTS_TOPIC,
            self._on_weights,
            WEIGHTS_QOS,
            event_callbacks=QUIET,
        )
        setup.gate.start(died)
        if isinstance(self.driver, WallDriver):
            self.driver.start(died)

    def advance(self) -> None:
        """Look again whether a tick can be made (lockstep); the clock does it otherwise."""
        if isinstance(self.driver, LockstepDriver):
            self.driver.advance()

    def supervise(self) -> str:
        """Return which thread died or hangs, or ''; called about ten times a second."""
        if isinstance(self.driver, BeatingDriver):
            return self.driver.supervise(time.monotonic_ns())
        self._beat(HALTED if self._setup.latch.halted else RUNNING)
        return ''

    def close(self) -> None:
        """Stop the threads, send the safe command, take the topics away."""
        self._deafen()
        try:
            self.driver.stop()
        except BaseException:
            self._send_safe_command()
            if isinstance(self.driver, WallDriver):
                self.driver.executor.stop(STOP_WITHIN_S)
            self._end()
            raise
        self._end()

    def abandon(self) -> None:
        """Send the safe command from this thread, whatever the others do, and leave them."""
        self._send_safe_command()
        self._deafen()
        # What it sends ends at the fence; it may have to wait for a thread that hangs.
        stopping = threading.Thread(target=self.driver.stop, name='stopping', daemon=True)
        stopping.start()
        stopping.join(STOP_WITHIN_S)
        self._end()

    def _deafen(self) -> None:
        self._sensing.detach()
        self._node.destroy_subscription(self._weights)

    def _end(self) -> None:
        self._fence.shut()
        self._heartbeat.beat(HALTED if self._setup.latch.halted else INACTIVE)
        self._heartbeat.flush()
        self._setup.gate.stop()
        self.output.close()

    def _send_safe_command(self) -> None:
        self._fence.shut()
        contract = self._setup.contract
        if not self._fence.sent or contract.on_stop == 'none':
            return
        safe, now_ns = SafeCommand(contract), self._ros_now_ns()
        for name in contract.streams:
            newest = self._sensing.latest.newest(name)
            if newest is not None and newest.values is not None:
                safe.on_measured(name, newest.values)
        messages, unknown = safe.messages(
            safe.values(now_ns, self._fence.commanded(now_ns)), now_ns
        )
        self.output.send(messages)
        if unknown:
            self._node.get_logger().error(f'no safe command for {unknown}: nobody knows where')

    def _beat(self, state: str) -> None:
        if not self._fence.is_shut:
            self._heartbeat.beat(state)

    def _ros_now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def _on_weights(self, message: UInt8MultiArray) -> None:
        self._setup.gate.on_part(bytes(message.data))
