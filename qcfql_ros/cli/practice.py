# SPDX-License-Identifier: Apache-2.0
"""What a robot achieved in practice: its outcomes counted, live or from the bag."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from qcfql_ros.contract.named_vector import Outcome, decode_outcome
from qcfql_ros.data.steps import Source
from qcfql_ros.errors import BagError

RATE_WINDOW_S = 5.0


@dataclass(frozen=True)
class Episode:
    """One finished episode.

    Attributes:
        episode: the robot's number of it, from 0.
        end_s: when it ended, seconds since the first tick, by the receiver's clock.
        ticks: its length.
        total_reward: sum of its rewards.
        success: the task was solved in it.
        policy_version: of the weights that chose its last action; -1 if unknown.
    """

    episode: int
    end_s: float
    ticks: int
    total_reward: float
    success: bool
    policy_version: int


class Practice:
    """Counts outcomes into episodes. Time is an argument."""

    def __init__(self) -> None:
        self.episodes: list[Episode] = []
        self.ticks = 0
        self.first_s: float | None = None
        self._recent: deque[float] = deque()
        self._length = 0
        self._reward = 0.0
        self._success = False
        self._number = 0

    def add(self, outcome: Outcome, now_s: float, policy_version: int = -1) -> Episode | None:
        """Count one tick's outcome; return the episode if it ends one."""
        if self.first_s is None:
            self.first_s = now_s
        if outcome.episode != self._number:  # the one before was abandoned: never finished
            self._start(outcome.episode)
        self.ticks += 1
        self._recent.append(now_s)
        self._length += 1
        self._reward += outcome.reward
        self._success |= outcome.success
        if not outcome.ended:
            return None
        episode = Episode(
            episode=outcome.episode,
            end_s=now_s - self.first_s,
            ticks=self._length,
            total_reward=self._reward,
            success=self._success,
            policy_version=policy_version,
        )
        self.episodes.append(episode)
        self._start(outcome.episode + 1)
        return episode

    def _start(self, number: int) -> None:
        self._number, self._length, self._reward, self._success = number, 0, 0.0, False

    def ticks_per_s(self, now_s: float) -> float:
        """Return the rate over the last five seconds."""
        while self._recent and self._recent[0] < now_s - RATE_WINDOW_S:
            self._recent.popleft()
        if self.first_s is None:
            return 0.0
        return len(self._recent) / max(1.0, min(RATE_WINDOW_S, now_s - self.first_s))

    def successes(self, last: int = 0) -> tuple[int, int]:
        """Return (successes, episodes) of the last so many episodes; 0 means all."""
        chosen = self.episodes[-last:]
        return sum(episode.success for episode in chosen), len(chosen)


@dataclass(frozen=True)
class RecordedPractice:
    """What a bag holds of a practice.

    Attributes:
        episodes: those that ended.
        messages: number of messages by topic.
        transitions: ticks that have both a step and an outcome.
        policy_versions: weights that chose an executed action, in the order of their first use.
        step_s: receive time of each step, seconds since the first.
        lateness_s: receive time minus deadline of each step; means something at wall rate only.
    """

    episodes: Sequence[Episode]
    messages: dict[str, int]
    transitions: int
    policy_versions: tuple[int, ...]
    step_s: Sequence[float]
    lateness_s: Sequence[float]


def read_practice(
    bag: Path, outcome_topic: str = '/outcome', step_topic: str = '/policy/step'
) -> RecordedPractice:
    """Read a bag again, every message of it, with a reader that is not ours.

    Raises:
        BagError: it is missing or cannot be read.
    """
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import Stores, get_typestore

    typestore = get_typestore(Stores.ROS2_JAZZY)
    versions_by_stamp: dict[int, int] = {}
    outcomes: list[tuple[float, Outcome]] = []
    messages: dict[str, int] = {}
    step_s: list[float] = []
    lateness_s: list[float] = []
    try:
        with Reader(bag) as reader:
            for connection, receive_ns, data in reader.messages():
                topic = connection.topic
                messages[topic] = messages.get(topic, 0) + 1
                if topic == outcome_topic:
                    message = typestore.deserialize_cdr(data, connection.msgtype)
                    outcomes.append((receive_ns / 1e9, decode_outcome(message)))
                elif topic == step_topic:
                    message = typestore.deserialize_cdr(data, connection.msgtype)
                    stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
                    values = dict(zip(message.name, message.position, strict=True))
                    planned = values['meta.source'] == Source.POLICY  # not a hold
                    versions_by_stamp[stamp] = (
                        int(values['meta.policy_version']) if planned else -1
                    )
                    step_s.append(receive_ns / 1e9)
                    lateness_s.append((receive_ns - stamp) / 1e9)
    except Exception as error:
        raise BagError(f'bag {bag} cannot be read: {error}') from error
    practice = Practice()
    executed: dict[int, None] = {}
    transitions = 0
    for receive_s, outcome in outcomes:
        version = versions_by_stamp.get(outcome.stamp_ns, -1)
        if outcome.stamp_ns in versions_by_stamp:
            transitions += 1
            if version >= 0:
                executed.setdefault(version)
        practice.add(outcome, receive_s, version)
    start_s = step_s[0] if step_s else 0.0
    return RecordedPractice(
        episodes=practice.episodes,
        messages=messages,
        transitions=transitions,
        policy_versions=tuple(executed),
        step_s=[value - start_s for value in step_s],
        lateness_s=lateness_s,
    )


def write_episodes(path: Path, episodes: Iterable[Episode]) -> None:
    """Write one line an episode, as CSV with the names of `Episode`."""
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Episode)])
        for episode in episodes:
            row = astuple(episode)
            writer.writerow(
                [f'{value:.3f}' if isinstance(value, float) else value for value in row]
            )
