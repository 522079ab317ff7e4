# SPDX-License-Identifier: Apache-2.0
"""What steps a bag of others must give, by the contract's rules, in plain loops over messages.

Written from docs/teleoperation.md and on purpose without anything of the package: no arrays, no
searching by halves, one tick after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Timed = tuple[float, Any]
"""When, in ns, and what; None for a message that cannot be used."""


@dataclass
class Rules:
    """The numbers of the section `recordings`, in ns."""

    period: float
    tolerance: float
    lead: float
    max_age: dict[str, float]
    windows: dict[str, tuple[float, float] | None] = field(default_factory=dict)
    reward_window: tuple[float, float] = (0, 0)
    failure_reward: float = 0.0


@dataclass
class Recorded:
    """The messages by kind, each list by time. `rewards` None: a success is worth 1, else 0."""

    streams: dict[str, list[Timed]]
    clock: list[Timed]
    others: dict[str, list[Timed]]
    rewards: list[Timed] | None
    episodes: list[tuple[float, float, str]]


@dataclass
class Segment:
    """Steps as (stamp, observation, action, reward, terminated, success, episode)."""

    steps: list[tuple]
    final: Any
    truncated: bool
    episode_end: bool


def expected(
    recorded: Recorded,
    rules: Rules,
    observe: Callable[[dict[str, Any]], Any],
    act: Callable[[Any, dict[str, Any]], Any],
) -> list[Segment]:
    """Return the segments.

    Args:
        recorded: the messages.
        rules: what belongs to what.
        observe: from the values of each stream.
        act: from the values of the clock, and those of the other commands.
    """
    segments = []
    everything = recorded
    for number, (begin, end, outcome) in enumerate(recorded.episodes):
        recorded = _around(everything, rules, begin, end)
        ticks = [tick for tick in recorded.clock if begin <= tick[0] <= end]
        open_steps: list[tuple] = []
        before = None
        for place, (stamp, command) in enumerate(ticks):
            last = place == len(ticks) - 1 and bool(outcome)
            apart = before is not None and abs(stamp - before - rules.period) > rules.tolerance
            if apart:
                segments += _close(open_steps, recorded, rules, observe)
                open_steps = []
            before = stamp
            step = _step(recorded, rules, observe, act, stamp, command, number, last and outcome)
            if step is None:
                segments += _close(open_steps, recorded, rules, observe)
                open_steps = []
                continue
            open_steps.append(step)
        ended = bool(open_steps) and open_steps[-1][0] == ticks[-1][0] and bool(outcome)
        segments += _close(open_steps, recorded, rules, observe, ended)
    return segments


def _around(recorded: Recorded, rules: Rules, begin: float, end: float) -> Recorded:
    """Return what is within 2 s of an episode: nothing else matters to it, and looking is slow."""

    def near(messages):
        return [one for one in messages if begin - 2e9 <= one[0] <= end + 2e9]

    return Recorded(
        {name: near(messages) for name, messages in recorded.streams.items()},
        near(recorded.clock),
        {
            topic: messages if rules.windows[topic] is None else near(messages)
            for topic, messages in recorded.others.items()
        },
        None if recorded.rewards is None else near(recorded.rewards),
        recorded.episodes,
    )


def margin(recorded: Recorded, rules: Rules) -> float:
    """Return how near, in ns, an observation's time comes to the stamp of a message."""
    nearest = float('inf')
    for stamp, _ in recorded.clock:
        for messages in recorded.streams.values():
            for at in (stamp, stamp + rules.period):
                nearest = min(nearest, *(abs(at - rules.lead - when) for when, _ in messages))
    return nearest


def _step(recorded, rules, observe, act, stamp, command, number, outcome):
    others = {}
    for topic, messages in recorded.others.items():
        window = rules.windows[topic]
        if window is None:
            found = [what for when, what in messages if when <= stamp][-1:]
        else:
            found = _window(messages, recorded.clock, stamp, window)
        if not found or found[0] is None:
            return None
        others[topic] = found[0]
    if command is None:
        return None
    terminated = outcome in ('success', 'failure')
    success = outcome == 'success'
    if recorded.rewards is None:
        reward = 1.0 if success else 0.0
    else:
        found = _window(recorded.rewards, recorded.clock, stamp, rules.reward_window)
        if not found or found[0] is None:
            return None
        reward = found[0]
    if terminated and not success:
        reward += rules.failure_reward
    observation = _look(recorded, rules, observe, stamp)
    if observation is None:
        return None
    return stamp, observation, act(command, others), reward, terminated, success, number


def _window(messages, clock, stamp, window):
    """What lies in the window of the tick and not in that of a later one that began before it."""
    found = []
    for when, what in messages:
        if not stamp + window[0] <= when < stamp + window[1]:
            continue
        if any(stamp < later and later + window[0] <= when for later, _ in clock):
            continue
        found.append(what)
    return found


def _look(recorded, rules, observe, stamp, more_age=0.0):
    values = {}
    for name, messages in recorded.streams.items():
        seen = [(when, what) for when, what in messages if when <= stamp - rules.lead]
        if not seen:
            return None
        when, what = max(seen, key=lambda message: message[0])
        if stamp - rules.lead - when > rules.max_age[name] + more_age or what is None:
            return None
        values[name] = what
    return observe(values)


def _close(steps, recorded, rules, observe, ended=False):
    steps = list(steps)
    while steps:
        more = rules.period if ended else 0.0  # the streams may fall silent with the episode
        final = _look(recorded, rules, observe, steps[-1][0] + rules.period, more)
        if final is not None:
            return [Segment(steps, final, not steps[-1][4], ended)]
        steps.pop()
        ended = False
    return []
