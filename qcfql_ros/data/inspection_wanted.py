# SPDX-License-Identifier: Apache-2.0
"""What a contract wants of a recording: its topics, how often, and messages that can be used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from qcfql_ros.contract.chunk_record import decode_chunk
from qcfql_ros.contract.decode import Decoder
from qcfql_ros.contract.decode_commands import command_numbers
from qcfql_ros.contract.named_vector import decode_outcome, decode_step
from qcfql_ros.contract.schema import Command, Contract, Stream
from qcfql_ros.contract.topics import (
    CHUNK_TOPIC,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    STEP_TOPIC,
    absolute,
)
from qcfql_ros.data.cdr import CdrReader
from qcfql_ros.data.teleoperation_messages import reward_number


@dataclass(frozen=True)
class WantedTopic:
    """A topic that steps are made of, or that is recorded with them.

    Attributes:
        topic: absolute name.
        type: ``package/msg/Name``.
        role: ``sensor``, ``image``, ``command``, ``outcome``, ``step``, ``chunk``, ``reward`` or
            ``event``.
        gap_s: a longer time without a message is a gap.
        rate_hz: at least so many messages a second; None where any number will do.
        required: without it there is no step.
        clock: its messages are the ticks.
        stream: of a sensor.
        command: of a command.
    """

    topic: str
    type: str
    role: str
    gap_s: float
    rate_hz: float | None = None
    required: bool = True
    clock: bool = False
    stream: Stream | None = None
    command: Command | None = None


def wanted_topics(
    contract: Contract, namespace: str = '', *, by_others: bool = False, labelled: bool = False
) -> dict[str, WantedTopic]:
    """Return by absolute name what a recording should have, in the order of the contract.

    Args:
        contract: what the messages mean.
        namespace: of the robot.
        by_others: not recorded by us: `Contract.recordings` says what makes steps.
        labelled: labels say how episodes end, so that no message has to.
    """
    found = _of_others(contract, labelled) if by_others else _of_ours(contract, namespace)
    return {topic.topic: topic for topic in found}


def _of_ours(contract: Contract, namespace: str) -> Iterator[WantedTopic]:
    rate, late = contract.rate_hz, contract.lateness_s

    def name(topic: str) -> str:
        return absolute(topic, namespace)

    for stream in contract.streams.values():
        at, kind = name(stream.topic), stream.type
        yield WantedTopic(at, kind, 'sensor', stream.max_age_s, rate, stream=stream)
    for image in contract.images.values():
        yield WantedTopic(name(image.topic), image.type, 'image', late, required=False)
    for command in contract.action.commands:
        least = None if command.whole_chunk else rate
        at, kind = name(command.topic), command.type
        yield WantedTopic(at, kind, 'command', late, least, required=False)
    yield WantedTopic(name(contract.outcome.topic), JOINT_STATE, 'outcome', late, rate)
    yield WantedTopic(name(STEP_TOPIC), JOINT_STATE, 'step', late, rate, clock=True)
    yield WantedTopic(name(CHUNK_TOPIC), JOINT_TRAJECTORY, 'chunk', late, required=False)


def _of_others(contract: Contract, labelled: bool) -> Iterator[WantedTopic]:
    rate, late, rules = contract.rate_hz, contract.lateness_s, contract.recordings
    ages = {} if rules is None else rules.max_age_ns
    for stream in contract.streams.values():
        age_s = ages[stream.name] / 1e9 if stream.name in ages else stream.max_age_s
        at, kind = absolute(stream.topic), stream.type
        yield WantedTopic(at, kind, 'sensor', age_s, rate, stream=stream)
    for image in contract.images.values():
        yield WantedTopic(absolute(image.topic), image.type, 'image', late, required=False)
    for command in contract.action.commands:
        is_clock = rules is not None and command.topic == rules.clock
        # Where the latest message counts, one for all ticks is enough.
        each = is_clock or (rules is not None and rules.windows.get(command.topic) is not None)
        yield WantedTopic(
            absolute(command.topic),
            command.type,
            'command',
            late,
            rate if each else None,
            clock=is_clock,
            command=command,
        )
    if rules is None:
        return
    if rules.reward.topic:
        reward = rules.reward
        yield WantedTopic(absolute(reward.topic), reward.type, 'reward', late, rate)
    if rules.events is not None:
        at, kind = absolute(rules.events.topic), rules.topics()[rules.events.topic]
        yield WantedTopic(at, kind, 'event', math.inf, required=not labelled)


class MessageChecks:
    """Decodes messages as training will, to find those that it cannot use.

    Args:
        contract: what they mean.

    Attributes:
        lockstep: steps that say they were paced by the robot's messages.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._read = CdrReader()
        self._decoder = Decoder(contract)
        self.lockstep = 0

    def of(self, wanted: WantedTopic) -> Callable[[bytes], object] | None:
        """Return what raises MessageError for a message that cannot be used; None for any."""
        if wanted.stream is not None:
            name = wanted.stream.name
            return lambda data: self._decoder.decode_cdr(name, data, self._read)
        if wanted.command is not None:
            return partial(self._command, wanted.command)
        checks: dict[str, Callable[[bytes], object]] = {
            'outcome': lambda data: decode_outcome(self._read(data, JOINT_STATE)),
            'step': self._step,
            'chunk': self._chunk,
            'reward': partial(self._reward, wanted.type),
            'event': lambda data: self._read(data, wanted.type),
        }
        return checks.get(wanted.role)

    def _step(self, data: bytes) -> None:
        self.lockstep += decode_step(self._read(data, JOINT_STATE), self._contract).lockstep

    def _chunk(self, data: bytes) -> None:
        decode_chunk(self._read(data, JOINT_TRAJECTORY), self._contract)

    def _command(self, command: Command, data: bytes) -> None:
        command_numbers(command, self._read(data, command.type))

    def _reward(self, kind: str, data: bytes) -> None:
        reward_number(self._read(data, kind))
