# SPDX-License-Identifier: Apache-2.0
"""Recordings with everything in them that goes wrong, drawn at random, as lists of messages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from recorded_ticks import CONTRACT, EMPTY, JOINTS, PERIOD, STORE, Message, T, Ticks, header

from qcfql_ros.data.session_mark import session_mark, session_topic

WALL_START = 1_700_000_000_000_000_000
LOCKSTEP_START = 1_000_000_000_000


@dataclass
class Trouble:
    """How often, of 1, each thing goes wrong; of messages, or of ticks and episodes."""

    drop: float = 0.0
    double: float = 0.0
    swap: float = 0.0
    wait: float = 0.0  # seconds of silence
    back: float = 0.0  # the receiver's clock is set back
    mark: float = 0.0
    garbage: float = 0.0
    nan: float = 0.0
    joints: float = 0.0  # in another order, or one missing
    source: float = 0.0
    chunk: float = 0.0  # missing, late, of another observation, number or length
    stamp: float = 0.0  # a sensor's: empty, or far from its receipt
    gap: float = 0.0  # a tick left out
    restart: float = 0.0  # the robot counts anew
    stall: float = 0.0  # a topic is not heard for a while, then all of it at once
    silent: float = 0.0  # a topic, for some seconds
    episode: float = 0.0  # the policy counts one on, without a pause
    lead: float = 0.0  # another one, in one of ten episodes


def recording(
    random: np.random.Generator,
    trouble: Trouble,
    ticks: int,
    lockstep: bool,
    observed: bool = True,
) -> list[Message]:
    """Return about `ticks` ticks of some episodes.

    Args:
        random: draws.
        trouble: what goes wrong.
        ticks: that the robot does.
        lockstep: pacing.
        observed: chunks announce their observations.
    """
    with np.errstate(over='ignore'):
        log = _ticks(random, trouble, ticks, lockstep, 0.7 if observed else 0.0)
    return disturbed(log, random, trouble)


def _ticks(
    random: np.random.Generator, trouble: Trouble, ticks: int, lockstep: bool, observed: float
) -> list[Message]:
    log = Ticks(lockstep=lockstep)
    begin = LOCKSTEP_START if lockstep else WALL_START
    log.now_ns = WALL_START
    stamp, episode, chunk, left = begin, 0, 0, ticks

    def happens(share: float) -> bool:
        return bool(random.random() < share)

    while left > 0:
        length = min(left, int(random.integers(1, 25)))
        left -= length
        ends = str(random.choice(['terminated', 'truncated', 'open', 'success']))
        if not lockstep:
            leads = [0, 1, PERIOD, 2 * PERIOD + 1]
            log.lead_ns = int(random.choice(leads)) if happens(10 * trouble.lead) else PERIOD // 4
        size = int(random.integers(2, 5))
        if lockstep:
            sensors(log, random, trouble, stamp, 0)
        for index in range(length):
            if happens(trouble.gap):
                stamp += PERIOD
            if not lockstep:
                for part in (2, 4):
                    log.now_ns = max(log.now_ns, stamp - PERIOD // part)
                    sensors(log, random, trouble, stamp - PERIOD // part, index)
                log.now_ns = max(log.now_ns, stamp)
            episode += happens(trouble.episode)
            place, source = index % size, 0
            if happens(trouble.source):
                source = int(random.choice([1, 2, 3, 4]))
            planned = index // size % 3 < 2
            if place == 0:
                chunk += 1
                if planned and not happens(trouble.chunk / 2):
                    announce(log, random, trouble, stamp, chunk, size, observed)
            log.step(
                stamp,
                (float(random.normal()), float(random.choice([0.5, np.nan, np.inf, 1e39]))
                 if happens(trouble.nan) else -0.25),
                episode=episode,
                chunk=chunk if planned else -1,
                index=place,
                source=source,
            )  # fmt: skip
            last = index == length - 1
            if not lockstep:
                log.now_ns = max(log.now_ns, stamp + PERIOD // 3)
            log.outcome(
                stamp,
                float(random.choice([np.nan, np.inf])) if happens(trouble.nan)
                else float(random.normal()),
                terminated=(last and ends in ('terminated', 'success')) or happens(0.02),
                truncated=last and ends == 'truncated',
                success=last and ends == 'success',
                ended=last and ends != 'open',
            )  # fmt: skip
            stamp += PERIOD
            if lockstep:
                sensors(log, random, trouble, stamp, index + 1)
            if happens(0.3):
                log.add('/of_somebody_else', b'')
        if not lockstep:
            log.now_ns = max(log.now_ns, stamp)
            sensors(log, random, trouble, stamp, length)
        stamp += PERIOD * int(random.integers(1, 4) if lockstep else random.integers(0, 12))
        if happens(trouble.gap):
            stamp -= PERIOD
        log.robot_episode += ends != 'open'
        episode += 1
        if happens(trouble.restart):
            stamp, log.robot_episode, episode = begin, 0, 0
    return log.log


def sensors(log: Ticks, random: np.random.Generator, trouble: Trouble, stamp: int, number: float):
    """Add the sensors' messages of one stamp."""
    if random.random() < trouble.stamp:
        stamp = int(random.choice([0, stamp + 700_000_000, stamp - 700_000_000]))
    values = [-number - random.random(), number]
    names, velocity = ['y', 'x'], [0.25, 0.5]
    if random.random() < trouble.nan:
        values[0] = float(random.choice([np.nan, np.inf, 1e300]))
    if random.random() < trouble.joints:
        names = [['x', 'y'], ['y', 'q'], ['y', 'y']][int(random.integers(3))]
    if random.random() < trouble.joints / 3:
        velocity = velocity[:1]
    message = T[JOINTS](header(stamp), names, np.array(values), np.array(velocity), EMPTY)
    log.add('/joint_states', bytes(STORE.serialize_cdr(message, JOINTS)))
    log.goal(stamp)


def announce(
    log: Ticks,
    random: np.random.Generator,
    trouble: Trouble,
    stamp: int,
    chunk: int,
    size: int,
    share: float,
) -> None:
    """Add a chunk's message; a share names the observations that the assembler will pick."""
    observed = stamp
    if not log.lockstep:
        halves = [stamp - PERIOD // 2, stamp - PERIOD // 4]
        every = [tick - k * PERIOD for tick in halves for k in range(4)]
        observed = max(at for at in every if at <= stamp - log.lead_ns)
    stamps = dict.fromkeys(CONTRACT.streams, observed)
    if random.random() < trouble.chunk:
        change = int(random.integers(4))
        if change == 0:
            stamps['goal'] -= PERIOD
        elif change == 1:
            chunk += 1
        elif change == 2:
            size += 1
        else:
            stamp += PERIOD
    if random.random() >= share:
        stamps = {}
    log.chunk(stamp, chunk, stamps, size)


def disturbed(log: list[Message], random: np.random.Generator, trouble: Trouble) -> list[Message]:
    """Return the messages as they might have been received."""
    log = _stalled(_silenced(log, random, trouble.silent), random, trouble.stall)
    order = np.arange(len(log), dtype=float)
    moved = random.random(len(log)) < trouble.swap
    order[moved] += random.normal(size=int(moved.sum())) * 4.0
    kept: list[Message] = []
    late_ns = 0
    receives = sorted(message[1] for message in log)
    for place, number in enumerate(np.argsort(order, kind='stable').tolist()):
        topic, _, data = log[number]
        if random.random() < trouble.drop:
            continue
        if random.random() < trouble.wait:
            late_ns += int(random.choice([200_000_000, 1_900_000_000, 2_100_000_000]))
        if random.random() < trouble.back:
            late_ns -= 5_000_000
        if random.random() < trouble.garbage:
            data = data[: int(random.integers(0, len(data) + 1))]
        now_ns = receives[place] + late_ns
        kept.append((topic, now_ns, data))
        if random.random() < trouble.double:
            kept.append((topic, now_ns, data))
        if random.random() < trouble.mark:
            kept.append((session_topic(), now_ns, session_mark('c', 'h', 1)))
    return kept


def _stalled(log: list[Message], random: np.random.Generator, share: float) -> list[Message]:
    """Return the messages with some topics held up, each in order."""
    held: dict[str, int] = {}
    received = []
    for topic, now_ns, data in log:
        if random.random() < share / 4:
            held[topic] = now_ns + int(random.choice([100_000_000, 1_900_000_000, 2_600_000_000]))
        received.append((topic, max(now_ns, held.get(topic, 0)), data))
    return sorted(received, key=lambda message: message[1])


def _silenced(log: list[Message], random: np.random.Generator, share: float) -> list[Message]:
    """Return the messages without those of some topics for some time."""
    silent: dict[str, int] = {}
    kept = []
    for topic, now_ns, data in log:
        if random.random() < share / 4:
            silent[topic] = now_ns + int(random.choice([50_000_000, 500_000_000, 2_500_000_000]))
        if now_ns >= silent.get(topic, 0):
            kept.append((topic, now_ns, data))
    return kept
