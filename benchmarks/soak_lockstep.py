# SPDX-License-Identifier: Apache-2.0
"""Lockstep ticks by the million: robot, contract, planner, driver and filter by calls."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from soak_checker import HALT, Checker, numbers_of, read_bounds

from qcfql_ros.algorithm.policy import ChunkPolicy, PolicyInfo
from qcfql_ros.contract import load_contract
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.decode_commands import decode_commands
from qcfql_ros.contract.encode import Encoder
from qcfql_ros.contract.named_vector import (
    Outcome,
    StepRecord,
    decode_outcome,
    decode_step,
    outcome_fields,
    step_fields,
    vector_message,
)
from qcfql_ros.control.commander import Commander
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.halt import HaltLatch
from qcfql_ros.control.lockstep import LockstepDriver
from qcfql_ros.control.planner import Planner
from qcfql_ros.data.steps import Source
from qcfql_ros.errors import MessageError
from qcfql_ros.robots import make_robot
from qcfql_ros.robots.session import RobotSession

CHUNK = 5
START_NS = 1_000_000_000_000
NAN_EVERY, HALT_EVERY, POLICY_EVERY = 500, 5_000, 2_000


def make_policy(contract: Any, version: int, seed: int, strength: float = 1.0) -> ChunkPolicy:
    """Return a random policy; the last layer times `strength` brings its actions to the limits."""
    sizes = (contract.state_dim, contract.action_dim, CHUNK, (32, 32))
    info = PolicyInfo(contract.name, contract.hash, *sizes, version)
    policy = ChunkPolicy.random(info, seed)
    last = max(name for name in policy.network.state_dict() if 'kernels' in name)
    policy.network.state_dict()[last].mul_(strength)
    return ChunkPolicy(policy.network, policy.normalizer, info)


def resident_kib(process: int | str = 'self') -> int:
    """Return the memory of a process that is in RAM, its own by default."""
    with open(f'/proc/{process}/status') as status:
        return next(int(line.split()[1]) for line in status if line.startswith('VmRSS'))


class Loop:
    """The policy's side and the robot's side of one tick after the other.

    Attributes:
        checker: has judged every command.
        injected: what was done to them, counted.
    """

    def __init__(self, seed: int) -> None:
        self.contract = contract = load_contract('point_reach')
        self.rng = np.random.default_rng(seed)
        self.session = RobotSession(make_robot('point_reach', 'task', contract), seed)
        self.counters = Counters()
        self.latch = HaltLatch(None)
        self.planner = Planner(make_policy(contract, 0, seed), seed, self.counters)
        commander = Commander(contract, self, self.counters, lockstep=True)
        self.driver = LockstepDriver(contract, self.planner, commander, self.latch, self.counters)
        _, bounds = read_bounds(Path(contract.file))
        self.checker = Checker(contract.period_ns, bounds, paced=False)
        self.injected: Counter[str] = Counter()
        self.stamp_ns = START_NS
        self._decoder, self._encoder = Decoder(contract), Encoder(contract)
        self._commands: dict[str, Any] | None = None
        self._source = -1
        self._version = 0
        self._bad = False

    # What the commander sends.

    def command(self, values: np.ndarray, stamp_ns: int) -> None:
        """Encode as for the wire; the judge sees the messages."""
        if self._commands is not None:
            self.checker.fail('twice', f'a second command at {stamp_ns}')
        self._commands = {}
        for topic, _, message in self._encoder.commands(values, stamp_ns):
            self._commands[topic] = message
            self.checker.command(topic, numbers_of(message), stamp_ns, time.monotonic_ns())

    rest = command

    def trajectory(self, values: np.ndarray, velocities: np.ndarray, stamp_ns: int) -> None:
        """There is no such topic in this contract."""
        self.checker.fail('trajectory', f'a whole chunk at {stamp_ns}')

    def record(self, record: StepRecord) -> None:
        """Through the message and back, as it is recorded and read."""
        message = vector_message(record.stamp_ns, *step_fields(record, self.contract))
        again = decode_step(message, self.contract)
        self._source = again.source
        self.checker.step(again.stamp_ns, again.source)
        if not np.array_equal(again.action, record.action):
            self.checker.fail('step', f'{record.action} became {again.action}')

    def announce(self, record: Any) -> None:
        """Count the chunks."""
        self.injected['chunks'] += 1

    # The robot.

    def run(self, ticks: int) -> None:
        """Execute `ticks` ticks."""
        if self.session.episode < 0:
            self.session.begin_episode()
        while self.session.tick < ticks:
            self._disturb()
            self._sensors()
            if self.latch.halted:
                self._stay_halted()
            outcome = self._execute()
            self.stamp_ns += self.contract.period_ns
            if outcome.ended:
                self._sensors()  # the final observation, which nobody acts on
                self._expect_nothing('after the end of an episode')
                self.session.begin_episode()
                self.stamp_ns += self.contract.period_ns

    def _disturb(self) -> None:
        """Halts and new policies, at random."""
        if self.rng.random() < 1.0 / HALT_EVERY:
            self.injected['halts'] += 1
            self.latch.halt('soak')
        if self.rng.random() < 1.0 / POLICY_EVERY:
            self._version += 1
            self.injected['policies'] += 1
            strength = float(self.rng.choice([1.0, 10.0, 100.0]))
            self.planner.offer(make_policy(self.contract, self._version, self._version, strength))

    def _sensors(self) -> None:
        self._commands = None
        self._bad = self.rng.random() < 1.0 / NAN_EVERY
        for name, message in self.session.robot.sensors(self.stamp_ns).items():
            if self._bad and name == 'joint_states':
                self.injected['NaN observations'] += 1
                message.position[0] = math.nan
            try:
                values = self._decoder.decode_message(name, message).values
            except MessageError:
                values = None
            self.driver.on_sensor(name, self.stamp_ns, values)

    def _execute(self) -> Outcome:
        """Do what the command says and tell what came of it."""
        if self._commands is None:
            raise RuntimeError(f'no command at {self.stamp_ns}: {self.driver.check()}')
        if self._bad and self._source == Source.POLICY:
            self.checker.fail('observation', f'acted on a NaN at {self.stamp_ns}')
        row = decode_commands(self.contract, self._commands)
        outcome = self.session.execute(row, self.stamp_ns)
        message = vector_message(self.stamp_ns, *outcome_fields(outcome))
        self._commands = None
        self.driver.on_outcome(decode_outcome(message))
        return outcome

    def _stay_halted(self) -> None:
        """The safe command is executed, the sensors after it are not answered until a resume."""
        if self._source != HALT:
            self.checker.fail('safe command', f'none at {self.stamp_ns}')
        if self._execute().ended:
            self.stamp_ns += self.contract.period_ns
            self._sensors()  # the final observation
            self._expect_nothing('after the end of an episode')
            self.session.begin_episode()
        self.stamp_ns += self.contract.period_ns
        self._sensors()
        for _ in range(3):
            self.driver.check()
            self._expect_nothing('while halted')
        self._commands = None
        self.latch.resume()
        self.driver.advance()

    def _expect_nothing(self, when: str) -> None:
        if self._commands is not None:
            self.checker.fail('halt', f'a command at {self.stamp_ns} {when}')


def run_lockstep(ticks: int, seed: int) -> dict[str, Any]:
    """Run and return what was counted; memory is compared after a tenth of it."""
    loop = Loop(seed)
    warm = max(1, ticks // 10)
    began_s = time.monotonic()
    loop.run(warm)
    before_kib, warm_s = resident_kib(), time.monotonic()
    loop.run(ticks)
    ended_s = time.monotonic()
    report = loop.checker.report()
    if loop.counters.ticks != loop.session.tick:
        report['violations']['ticks'] = loop.counters.ticks - loop.session.tick
    return {
        **report,
        'injected': dict(loop.injected),
        'ticks': loop.session.tick,
        'episodes': loop.session.episode + 1,
        'holds': loop.counters.holds,
        'refused': loop.counters.refused,
        'seconds': ended_s - began_s,
        'memory_kib': resident_kib(),
        'growth_kib': resident_kib() - before_kib,
        'growth_s': ended_s - warm_s,
    }
