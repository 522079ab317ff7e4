#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The processes of ``benchmarks/executor.py``; that file starts them.

    python benchmarks/executor_contenders.py ROLE CONTRACT MODEL PRIORITY

robot: publishes the contract's sensors at its rate, listens to commands and steps.
train: makes updates on invented data until it is killed, niced as the package does it.
ours, rclpy_timer, lerobot_sleep: one line of standard input a block, ``SECONDS TRACE``; one line
of JSON about it on standard output. Between blocks they have no subscription and no timer.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from array import array
from collections import deque
from typing import Any

import numpy as np

from qcfql_ros.contract import Contract, load_contract
from qcfql_ros.control.histogram import Histogram

WARM_UP_S = 0.5  # of each block, before anything is counted
TRAINER_NICE = 5  # training/process.py


class Block:
    """What one block measured, as the parent reads it.

    Attributes:
        wake, published: lateness.
        trace: due time and begin of every tick, ns.
    """

    def __init__(self) -> None:
        self.wake, self.published = Histogram(), Histogram()
        self.ticks = self.missed = 0
        self.trace: list[tuple[int, int]] = []
        self._begin_ns, self._cpu = time.monotonic_ns(), os.times()

    def say(self, **more: Any) -> None:
        """Print the line."""
        cpu = os.times()
        used_s = cpu.user + cpu.system - self._cpu.user - self._cpu.system
        wall_s = (time.monotonic_ns() - self._begin_ns) * 1e-9
        words = {
            'wake': sparse(self.wake),
            'published': sparse(self.published),
            'ticks': self.ticks,
            'missed': self.missed,
            'cpu': used_s / wall_s,
            'trace': self.trace,
            **more,
        }
        print(json.dumps(words), flush=True)


def sparse(histogram: Histogram) -> dict[str, Any]:
    """Return a histogram for JSON."""
    counts = {i: c for i, c in enumerate(histogram.counts) if c}
    return {'counts': counts, 'count': histogram.count, 'max_ns': histogram.max_ns}


def blocks():
    """Yield (seconds, whether to trace) of each line of standard input."""
    print('ready', flush=True)
    for line in sys.stdin:
        seconds, trace = line.split()
        yield float(seconds), trace == '1'


# ── the robot ──────────────────────────────────────────────────────────────────────────────────


def robot(contract: Contract, **_: Any) -> None:
    """Publish sensors on a grid of its own; count what comes back."""
    import rclpy
    from geometry_msgs.msg import PoseStamped, TwistStamped
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import JointState

    from qcfql_ros.contract.named_vector import set_stamp
    from qcfql_ros.nodes.qos import RECORD_QOS, command_qos, sensor_qos

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('robot')
    heard = [0]

    def hear(message: Any) -> None:
        heard[0] += 1

    node.create_subscription(TwistStamped, 'twist_command', hear, command_qos('wall'))
    node.create_subscription(JointState, 'policy/step', hear, RECORD_QOS)
    joints = JointState(name=['x', 'y'], position=[0.0, 0.0], velocity=[0.0, 0.0])
    goal = PoseStamped()
    publishers = [
        (node.create_publisher(JointState, 'joint_states', sensor_qos('wall')), joints),
        (node.create_publisher(PoseStamped, 'goal_pose', sensor_qos('wall')), goal),
    ]
    threading.Thread(target=rclpy.spin, args=(node,), daemon=True).start()
    print('ready', flush=True)
    due_ns = time.monotonic_ns()
    while True:
        due_ns = max(due_ns + contract.period_ns, time.monotonic_ns() - contract.period_ns)
        time.sleep(max(0.0, (due_ns - time.monotonic_ns()) * 1e-9))
        for publisher, message in publishers:
            set_stamp(message, time.time_ns())
            publisher.publish(message)


# ── ours ───────────────────────────────────────────────────────────────────────────────────────


def ours(contract_file: str, model: str, priority: int, **_: Any) -> None:
    """The policy node as it is, activated for each block."""
    from qcfql_ros.nodes.policy_node import PolicyNode
    from qcfql_ros.nodes.process import run_node

    class Measured(PolicyNode):
        """Watched from a timer of its own; ticks are as they are without it."""

        def __init__(self, stop) -> None:
            super().__init__(stop)
            self._orders: deque[tuple[float, bool]] = deque()
            self._block: Block | None = None
            self._due_s = 0.0
            threading.Thread(target=self._hear_orders, daemon=True).start()
            self._watching = self.create_timer(0.05, self._watch, clock=self._steady)
            self._watching.cancel()

        def _hear_orders(self) -> None:
            for order in blocks():
                self._orders.append(order)
                self._watching.reset()
            self._stop.request()

        def _watch(self) -> None:
            if self._driving is None:
                if self._orders:
                    self._seconds, self._trace = self._orders.popleft()
                    self.trigger_configure()
                self.trigger_activate()  # fails until the sensors are there
                return
            executor, now_s = self._driving.driver.executor, time.monotonic()
            if self._block is None:
                if not executor.lateness.count:
                    self._due_s = now_s + WARM_UP_S  # still looking for the robot
                elif now_s >= self._due_s:
                    self._begin()
            elif now_s >= self._due_s:
                self._end()

        def _begin(self) -> None:
            executor = self._driving.driver.executor
            self._due_s = time.monotonic() + self._seconds
            self._block = Block()
            self._wake, self._published = (
                executor.lateness.snapshot(),
                executor.published.snapshot(),
            )
            executor.lateness.max_ns = executor.published.max_ns = 0  # of the block alone
            self._missed, self._late = executor.missed_ticks, self._setup.counters.chunk_misses
            if self._trace:
                tick, trace = executor._tick, self._block.trace

                def traced(deadline_ns: int) -> Any:
                    trace.append((deadline_ns, executor.last_begin_ns))
                    return tick(deadline_ns)

                executor._tick = traced

        def _end(self) -> None:
            executor, block = self._driving.driver.executor, self._block
            block.wake = executor.lateness.since(self._wake)
            block.published = executor.published.since(self._published)
            block.wake.max_ns = executor.lateness.max_ns
            block.published.max_ns = executor.published.max_ns
            block.ticks = block.wake.count
            block.missed = executor.missed_ticks - self._missed
            more = {
                'spin_us': executor.spin_ns / 1e3,
                'chunk_misses': self._setup.counters.chunk_misses - self._late,
                'realtime': str(executor._surroundings.report),
                'gc_longest_us': max(executor._surroundings.interpreter.longest_ns) / 1e3,
            }
            block.say(**more)
            self._block = None
            self._watching.cancel()
            self.trigger_deactivate()
            self.trigger_cleanup()  # listens to nothing until the next block

    settings = {
        'contract': contract_file,
        'model': model,
        'pacing': 'wall',
        'autostart': 'false',
        'device': 'cpu',
        'realtime_priority': priority,
    }
    words = [word for name, value in settings.items() for word in ('-p', f'{name}:={value}')]
    sys.exit(run_node(Measured, ['--ros-args', *words]))


# ── the others: the same work in another loop ──────────────────────────────────────────────────


class Work:
    """What a tick does: every k ticks a plan, each tick a command and a step."""

    def __init__(self, contract: Contract, model: str, name: str) -> None:
        import rclpy
        import torch
        from geometry_msgs.msg import TwistStamped
        from rclpy.signals import SignalHandlerOptions
        from sensor_msgs.msg import JointState

        from qcfql_ros.algorithm.policy import ChunkPolicy
        from qcfql_ros.contract.decode import Decoder
        from qcfql_ros.contract.message_types import message_class
        from qcfql_ros.nodes.qos import RECORD_QOS, command_qos, sensor_qos

        torch.set_num_threads(1)
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name)
        self._contract, self._decoder = contract, Decoder(contract)
        self._policy = ChunkPolicy.load(model, 'cpu')
        self._command = TwistStamped()
        self._step = JointState(name=[f'field{i}' for i in range(9)])
        self._commands = self.node.create_publisher(
            TwistStamped, 'twist_command', command_qos('wall')
        )
        self._steps = self.node.create_publisher(JointState, 'policy/step', RECORD_QOS)
        self._qos = sensor_qos('wall')
        self._message_class = message_class
        self._values: dict[str, np.ndarray] = {}
        self._index = self._plans = 0
        self._subscriptions: list[Any] = []
        for _ in range(20):
            self._policy.plan(np.zeros(contract.state_dim, np.float32), 0)

    def subscribe(self) -> None:
        """Listen to the sensors."""
        for stream in self._contract.streams.values():

            def hear(message: Any, name: str = stream.name) -> None:
                self._values[name] = self._decoder.decode_message(name, message).values

            self._subscriptions.append(
                self.node.create_subscription(
                    self._message_class(stream.type), stream.topic, hear, self._qos
                )
            )

    def unsubscribe(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self.node.destroy_subscription(subscription)
        self._subscriptions = []
        self._values = {}

    @property
    def complete(self) -> bool:
        """Whether there is something to plan from, and somebody to hear it."""
        return (
            len(self._values) == len(self._contract.streams)
            and self._commands.get_subscription_count() > 0
        )

    def tick(self) -> None:
        """Do the work of one tick."""
        from qcfql_ros.contract.named_vector import set_stamp

        if self._index == 0:
            observation = self._decoder.observation(dict(self._values))
            self._chunk = self._policy.plan(observation, self._plans)
            self._plans += 1
        row = self._chunk[self._index]
        self._index = (self._index + 1) % len(self._chunk)
        stamp_ns = time.time_ns()
        self._command.twist.linear.x, self._command.twist.linear.y = map(float, row)
        self._step.position = array('d', [*row.tolist(), *[0.0] * 7])
        set_stamp(self._command, stamp_ns)
        set_stamp(self._step, stamp_ns)
        self._commands.publish(self._command)
        self._steps.publish(self._step)


def rclpy_timer(contract: Contract, model: str, **_: Any) -> None:
    """All in a timer's callback on the single-threaded executor."""
    from rclpy.clock import Clock, ClockType
    from rclpy.executors import SingleThreadedExecutor

    work = Work(contract, model, 'rclpy_timer')
    executor = SingleThreadedExecutor()
    executor.add_node(work.node)
    period_ns = contract.period_ns
    block: Block | None = None

    def tick() -> None:
        # The timer has moved on to its next grid time, or beyond it if this one is late.
        begin_ns = time.monotonic_ns()
        lateness_ns = (period_ns - timer.time_until_next_call()) % period_ns
        if block is None:
            if work.complete:
                work.tick()
            return
        work.tick()
        block.ticks += 1
        block.wake.add(lateness_ns)
        block.published.add(lateness_ns + time.monotonic_ns() - begin_ns)

    for seconds, _ in blocks():
        work.subscribe()
        timer = work.node.create_timer(
            period_ns * 1e-9, tick, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        while not work.complete:
            executor.spin_once(timeout_sec=0.1)
        until_s = time.monotonic() + WARM_UP_S
        while time.monotonic() < until_s:
            executor.spin_once(timeout_sec=0.1)
        block = Block()
        begin_s = time.monotonic()
        while time.monotonic() < begin_s + seconds:
            executor.spin_once(timeout_sec=0.1)
        due = round((time.monotonic() - begin_s) * 1e9 / period_ns)
        block.missed = max(0, due - block.ticks)
        block.say()
        block = None
        work.node.destroy_timer(timer)
        work.unsubscribe()


def lerobot_sleep(contract: Contract, model: str, **_: Any) -> None:
    """A loop that sleeps for what its work has left of a period; messages in another thread.

    The pattern of the control loops of LeRobot 0.6 on Linux: no deadline, so nothing can be late
    against one. Lateness is that of a begin against the one before plus a period.
    """
    import rclpy

    work = Work(contract, model, 'lerobot_sleep')
    period_ns = contract.period_ns
    period_s = period_ns * 1e-9
    threading.Thread(target=rclpy.spin, args=(work.node,), daemon=True).start()
    for seconds, trace in blocks():
        work.subscribe()
        while not work.complete:
            time.sleep(0.01)
        block, count_from = None, time.monotonic() + WARM_UP_S
        before_ns = first_ns = 0
        while True:
            begin_s = time.perf_counter()
            begin_ns = time.monotonic_ns()
            if block is None and begin_ns * 1e-9 >= count_from:
                block, first_ns, before_ns = Block(), begin_ns, begin_ns - period_ns
            work.tick()
            if block is not None:
                due_ns = before_ns + period_ns
                block.wake.add(begin_ns - due_ns)
                block.published.add(time.monotonic_ns() - due_ns)
                if trace:
                    block.trace.append((first_ns + block.ticks * period_ns, begin_ns))
                block.ticks += 1
                before_ns = begin_ns
                if begin_ns - first_ns >= seconds * 1e9:
                    break
            left_s = period_s - (time.perf_counter() - begin_s)
            if left_s > 0:
                time.sleep(left_s)
        block.missed = max(0, (begin_ns - first_ns) // period_ns + 1 - block.ticks)
        block.say()
        work.unsubscribe()


# ── the load ───────────────────────────────────────────────────────────────────────────────────


def train(contract: Contract, **_: Any) -> None:
    """Updates as `qcfql train` makes them, of the default size, on random steps."""
    import torch

    from qcfql_ros.algorithm.config import AlgorithmConfig
    from qcfql_ros.algorithm.update import Update
    from qcfql_ros.data.step_block import blocks_of_events
    from qcfql_ros.data.steps import SegmentEnd, Step
    from qcfql_ros.training.setup import empty_replay, fill

    os.nice(TRAINER_NICE)
    torch.set_num_threads(1)
    config = AlgorithmConfig(contract.state_dim, contract.action_dim)
    generator = np.random.default_rng(0)
    events: list[Step | SegmentEnd] = []
    for index in range(20_000):
        observation = generator.standard_normal(contract.state_dim)
        action = generator.uniform(-1, 1, contract.action_dim)
        events.append(Step(index, observation, action, -1.0, index % 200 == 199))
        if index % 200 == 199:
            events.append(SegmentEnd(observation, False, 'terminated', True))
    replay = empty_replay(config, 40_000)
    blocks = blocks_of_events(events, contract.state_dim, contract.action_dim)
    fill(replay, blocks, 'invented steps')
    update = Update(config)
    update.step(replay.sample(config.batch_size, generator))
    print('ready', flush=True)
    while True:
        update.step(replay.sample(config.batch_size, generator))


ROLES = {
    'robot': robot,
    'ours': ours,
    'rclpy_timer': rclpy_timer,
    'lerobot_sleep': lerobot_sleep,
    'train': train,
}

if __name__ == '__main__':
    role, contract_file, model, priority = sys.argv[1:]
    ROLES[role](
        contract=load_contract(contract_file),
        contract_file=contract_file,
        model=model,
        priority=int(priority),
    )
