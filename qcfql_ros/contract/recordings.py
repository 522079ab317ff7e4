# SPDX-License-Identifier: Apache-2.0
"""How bags that others recorded make steps: the contract's `recordings`, as frozen values.

Such bags have neither `policy/step` nor outcome messages, so something else must say what a tick
is, which commands are its action row, what it was worth and how its episode ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qcfql_ros.contract import topics

OUTCOMES = ('success', 'failure', 'timeout', 'abort')
"""How an episode ends: the first two terminate it, the others truncate it."""
TERMINATES = OUTCOMES[:2]

Window = tuple[int, int]
"""From and until when, in ns after the clock's message was received, a message is received that
belongs to the same tick; the end is no part of it."""


@dataclass(frozen=True)
class RewardRule:
    """What a tick is worth: a message of its own, or a number by how the episode ended.

    Attributes:
        topic: relative topic of the message; empty for a reward by the outcome.
        type: of the message.
        window_ns: where the message lies.
        step: by the outcome: of every step but the last one of an episode that terminates.
        success, failure: of that last one.
    """

    topic: str = ''
    type: str = ''
    window_ns: Window = (0, 0)
    step: float = 0.0
    success: float = 1.0
    failure: float = 0.0


@dataclass(frozen=True)
class EventRule:
    """Messages (std_msgs/String) that say when an episode begins and how it ends.

    Attributes:
        topic: relative topic.
        words: ``start`` or an outcome to the text, or its beginning, that says so; what is not
            there is never said.
    """

    topic: str
    words: Mapping[str, str]

    def meaning_of(self, text: str) -> str | None:
        """Return ``start``, an outcome, or None for another text.

        A text means what its first words are: ``start 3`` is a ``start``. Of two that fit, the
        longer one counts.
        """
        said = text.split()
        best: tuple[int, str] | None = None
        for meaning, wanted in self.words.items():
            words = wanted.split()
            if said[: len(words)] == words and (best is None or len(words) > best[0]):
                best = (len(words), meaning)
        return None if best is None else best[1]


@dataclass(frozen=True)
class Recordings:
    """What makes steps of a bag that others recorded.

    Attributes:
        clock: relative topic of the commands that say what a tick is.
        by_header: a tick has the header stamp of its command; else the receive stamp.
        grid: ``commands``, every message of the clock is a tick; or ``period``, ticks are one
            control period apart from the first command of an episode on, each with the latest
            command.
        tolerance_ns: how far the distance of two ticks may be from a period (``commands``), or
            the age of the latest command above it (``period``).
        lead_ns: an observation is taken this long before its tick.
        max_age_ns: by stream; an observation older than this does not count.
        windows: by relative topic of the other commands: where its message lies; None for the
            latest one at the tick, however old.
        reward: what a tick is worth.
        events: what says how episodes end; None where only labels do.
    """

    clock: str
    by_header: bool
    grid: str
    tolerance_ns: int
    lead_ns: int
    max_age_ns: Mapping[str, int]
    windows: Mapping[str, Window | None] = field(default_factory=dict)
    reward: RewardRule = field(default_factory=RewardRule)
    events: EventRule | None = None

    def topics(self) -> dict[str, str]:
        """Return relative topic to type of what no other section of the contract names."""
        found = {self.reward.topic: self.reward.type} if self.reward.topic else {}
        return found | ({self.events.topic: topics.STRING} if self.events else {})

    def meaning(self) -> list[object]:
        """Return all of it as JSON has it, for the contract's hash."""
        reward, events = self.reward, self.events
        return [
            self.clock,
            self.by_header,
            self.grid,
            self.tolerance_ns,
            self.lead_ns,
            dict(self.max_age_ns),
            dict(self.windows),
            [reward.topic, reward.type, reward.window_ns]
            if reward.topic
            else [reward.step, reward.success, reward.failure],
            None if events is None else [events.topic, dict(events.words)],
        ]
