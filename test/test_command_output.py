# SPDX-License-Identifier: Apache-2.0
"""What the commander sends, as it arrives over the middleware."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import rclpy
from control_parts import PERIOD_NS, joint_contract
from rclpy.executors import SingleThreadedExecutor

from qcfql_ros.contract.message_types import message_class
from qcfql_ros.contract.named_vector import decode_step
from qcfql_ros.contract.topics import JOINT_STATE, JOINT_TRAJECTORY
from qcfql_ros.control.chunk_buffer import PlannedChunk
from qcfql_ros.control.commander import Commander
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.measured import Measurement
from qcfql_ros.data.steps import Source
from qcfql_ros.nodes.command_output import CommandOutput
from qcfql_ros.nodes.qos import RECORD_QOS, command_qos


class Wire:
    """A node that commands and hears itself."""

    def __init__(self, contract):
        self.contract = contract
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('policy', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.commands, self.steps = [], []
        for command in contract.action.commands:
            self.node.create_subscription(
                message_class(command.type),
                command.topic,
                self.commands.append,
                command_qos('lockstep'),
            )
        self.node.create_subscription(
            message_class(JOINT_STATE), '~/step', self.steps.append, RECORD_QOS
        )
        self.output = CommandOutput(self.node, contract, 'lockstep')
        self.commander = Commander(contract, self.output, Counters(), lockstep=False)
        self.commander.start(Measurement((0.1, 0.1)), soft=False)

    def spin_until(self, wait_until, predicate, what):
        def spun():
            self.executor.spin_once(timeout_sec=0.05)
            return predicate()

        wait_until(spun, what=what)

    def close(self):
        self.output.close()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def wire(wait_until):
    """Return a function that makes a connected wire for a contract."""
    made = []

    def make(contract):
        one = Wire(contract)
        made.append(one)
        one.spin_until(wait_until, one.output.connected, 'the commands to be listened to')
        return one

    yield make
    for one in made:
        one.close()


def chunk():
    rows = np.array([[0.0, 0.25], [0.1, 0.5], [0.2, 0.75]], np.float32)
    return PlannedChunk(rows, 0, 0, 0, '0' * 64, 1, {})


def test_a_tick_arrives_as_command_values_and_its_step_as_an_action_row(wire, wait_until):
    one = wire(joint_contract())
    one.commander.play(PERIOD_NS, chunk(), 1)
    one.commander.hold(2 * PERIOD_NS, 0)
    one.spin_until(
        wait_until, lambda: len(one.commands) == len(one.steps) == 2, 'two commands and steps'
    )
    wanted = [float(np.float32(0.1)) * 2.0 + 0.1, 1.1]
    for message in one.commands:
        assert message.joint_names == ['j0', 'j1']
        assert message.points[0].positions.tolist() == wanted  # the hold stays there
    played, held = (decode_step(message, one.contract) for message in one.steps)
    assert played.action.tolist() == chunk().actions[1].tolist()
    assert (played.stamp_ns, played.source) == (PERIOD_NS, Source.POLICY)
    assert held.action.tolist() == played.action.tolist()
    assert held.source == Source.HOLD


def test_a_whole_chunk_arrives_once_and_a_cut_as_a_trajectory_that_rests(wire, wait_until):
    one = wire(joint_contract(whole_chunk=True))
    for i in range(2):
        one.commander.play((i + 1) * PERIOD_NS, chunk(), i)
    one.commander.hold(3 * PERIOD_NS, 0, Source.HALT)
    one.spin_until(
        wait_until, lambda: len(one.commands) == 2 and len(one.steps) == 3, 'what was sent'
    )
    whole, rest = one.commands
    assert [p.positions[1] for p in whole.points[:3]] == pytest.approx([0.6, 1.1, 1.6])
    assert whole.points[0].velocities[1] == pytest.approx((1.1 - 0.1) / 0.1)
    assert whole.points[-1].velocities.tolist() == [0.0, 0.0]
    assert whole.header.stamp.nanosec == PERIOD_NS
    assert len(rest.points) == 1
    assert rest.points[0].positions.tolist() == whole.points[1].positions.tolist()
    assert (rest.header.stamp.sec, rest.header.stamp.nanosec) == (0, 0)


def test_nothing_of_a_tick_is_sent_if_a_part_of_it_cannot_be_made(wire, wait_until):
    arm = joint_contract()
    second = dataclasses.replace(arm.action.commands[0], type=JOINT_TRAJECTORY, topic='arm_too')
    action = dataclasses.replace(arm.action, commands=(*arm.action.commands, second))
    one = wire(dataclasses.replace(arm, action=action))
    with pytest.raises(Exception, match='not finite'):
        one.output.command(np.array([0.0, np.nan]), 0)
    one.output.command(np.array([0.5, 0.5]), PERIOD_NS)  # a sentinel
    one.spin_until(wait_until, lambda: len(one.commands) == 2, 'the sentinel')
    assert [m.points[0].positions.tolist() for m in one.commands] == [[0.5, 0.5]] * 2
