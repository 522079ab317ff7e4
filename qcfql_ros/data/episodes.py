# SPDX-License-Identifier: Apache-2.0
"""When the episodes of a bag that others recorded begin and end, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from qcfql_ros.contract.recordings import EventRule
from qcfql_ros.data.labels import DISCARD, Labels

_EVER = 1 << 62


@dataclass(frozen=True)
class Episode:
    """One episode; a command received from `begin_ns` to `end_ns`, both included, is part of it.

    Attributes:
        begin_ns, end_ns: receive stamps.
        outcome: how it ended; empty where nothing says, then it is only broken off.
        reason: of the end of its last segment where nothing says how it ended.
    """

    begin_ns: int
    end_ns: int
    outcome: str = ''
    reason: str = 'shutdown'


def whole_bag() -> list[Episode]:
    """Return one episode of which nobody says how it ended."""
    return [Episode(-_EVER, _EVER)]


def labelled_episodes(labels: Labels) -> list[Episode]:
    """Return the episodes of the labels but those to be discarded."""
    return [
        Episode(labels.begin_ns(label), labels.end_ns(label), label.outcome)
        for label in labels.episodes
        if label.outcome != DISCARD
    ]


def announced_episodes(
    events: Iterable[tuple[int, str]], rule: EventRule, counters: Counter[str]
) -> list[Episode]:
    """Return the episodes that messages announce.

    Where no message says that an episode begins, one begins behind the end of the one before. A
    begin in the middle of an episode breaks that one off. An end outside of one is of no episode,
    and a message that a recorder was given twice says nothing new.

    Args:
        events: receive stamp and text, by stamp.
        rule: what the texts mean.
        counters: messages that mean nothing, or come where they cannot, are added to it.
    """
    episodes: list[Episode] = []
    begin: int | None = None if 'start' in rule.words else -_EVER
    for receive_ns, text in events:
        meaning = rule.meaning_of(text)
        if meaning is None:
            counters['unknown_event'] += 1
        elif meaning == 'start':
            if begin is not None:
                episodes.append(Episode(begin, receive_ns - 1, reason='restart'))
            begin = receive_ns
        elif begin is None:
            counters['stray_event'] += 1
        else:
            episodes.append(Episode(begin, receive_ns, meaning))
            begin = None if 'start' in rule.words else receive_ns + 1
    if begin is not None:
        episodes.append(Episode(begin, _EVER))
    return episodes
