# SPDX-License-Identifier: Apache-2.0
"""Ticks of a bag that others recorded to steps, and to the ends of their segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qcfql_ros.contract.recordings import TERMINATES
from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.episodes import Episode
from qcfql_ros.data.step_block import BLOCK_STEPS, StepBlock
from qcfql_ros.data.steps import Source
from qcfql_ros.data.teleoperation_messages import NONE, Gathered, Series
from qcfql_ros.data.teleoperation_ticks import (
    CODE,
    REASONS,
    Observer,
    Ticks,
    command_values,
    find_ticks,
    in_windows,
)


@dataclass(frozen=True, eq=False)
class TickData:
    """The messages that ticks are made of, ordered.

    Attributes:
        streams: by name.
        commands: by relative topic.
        rewards: of the reward's topic; None where the outcome says what a step is worth.
        by_topic: all of them by relative topic.
    """

    streams: dict[str, Series]
    commands: dict[str, Series]
    rewards: Series | None
    by_topic: dict[str, Series]

    @classmethod
    def of(cls, gathered: Gathered, counters: Counter[str]) -> TickData:
        """Return what was gathered; what is left out is added to `counters`."""
        gathered.finish()
        contract = gathered.contract
        tolerance_ns = round(contract.stamp_tolerance_s * 1e9)
        streams = {
            name: one.series(tolerance_ns, counters).within_float32()
            for name, one in gathered.streams.items()
        }
        commands = {t: s.series(tolerance_ns, counters) for t, s in gathered.commands.items()}
        by_topic = {contract.streams[name].topic: one for name, one in streams.items()} | commands
        rewards = None
        if gathered.rules.reward.topic:
            rewards = gathered.rewards.series(tolerance_ns, counters)
            by_topic[gathered.rules.reward.topic] = rewards
        return cls(streams, commands, rewards, by_topic)


def make_block(
    contract: Contract,
    data: TickData,
    episodes: Sequence[Episode],
    counters: Counter[str],
    first_episode: int = 0,
) -> StepBlock:
    """Return all steps and segment ends.

    Args:
        contract: with a section `recordings`.
        data: the messages.
        episodes: in order, not overlapping; ticks outside of them make no steps.
        counters: steps, segments, and by reason what was dropped are added to it.
        first_episode: number of the first of `episodes`.
    """
    rules = contract.recordings
    assert rules is not None
    ticks = find_ticks(contract, data.commands[rules.clock], episodes)
    observer = Observer(contract, data.streams)
    picked = observer.pick(ticks.stamp_ns)
    after = observer.pick(ticks.stamp_ns + contract.period_ns, _silence(contract, ticks, episodes))
    values, codes = command_values(contract, data.commands, ticks, episodes, counters)
    rows = _action_rows(contract, values, codes, ticks, observer, picked)
    reward = _rewards(contract, data, ticks, codes, episodes, counters)
    codes = np.where(codes == 0, observer.judge(picked), codes)
    ends = _segments(ticks, codes, observer.judge(after), episodes)
    last = np.array([end.tick for end in ends], np.intp)
    terminated, success = np.zeros(len(ticks), bool), np.zeros(len(ticks), bool)
    for end in ends:
        terminated[end.tick] = end.outcome in TERMINATES
        success[end.tick] = end.outcome == 'success'
    _price(contract, reward, terminated, success)
    step = np.flatnonzero(codes == 0)
    before = observer.previous(ticks, rows, next_tick=False)[step]
    before_end = observer.previous(ticks, rows, next_tick=True)[last]
    counters['outside_episodes'] += ticks.outside
    counters['steps'] += len(step)
    counters['segments'] += len(ends)
    for code, reason in enumerate(REASONS[1:], 1):
        dropped = int((codes == code).sum())
        if dropped:
            counters[f'dropped_{reason}'] += dropped
    return StepBlock(
        stamp_ns=ticks.stamp_ns[step],
        observation=observer.observe(_at(picked, step), rows, before),
        action=rows[step],
        reward=reward[step],
        terminated=terminated[step],
        success=success[step],
        source=np.full(len(step), Source.PERSON, np.uint8),
        chunk=np.full(len(step), -1, np.int64),
        index=np.zeros(len(step), np.int64),
        episode=ticks.episode[step] + first_episode,
        planned_row=np.zeros(0, np.int64),
        planned=np.zeros((0, 0, contract.action_dim), np.float32),
        end_after=np.searchsorted(step, last, 'right').astype(np.int64),
        final_observation=observer.observe(_at(after, last), rows, before_end),
        truncated=~terminated[last],
        episode_end=np.array([bool(end.outcome) for end in ends], bool),
        reason=tuple(end.reason for end in ends),
    )


def _silence(contract: Contract, ticks: Ticks, episodes: Sequence[Episode]) -> np.ndarray:
    """Return how much older than else the observation after each tick may be, (n,) int64.

    After the end of an episode the streams may fall silent; what its last tick looked at counts
    one period later too, for an outcome is not lost over that.
    """
    told = np.array([bool(episode.outcome) for episode in episodes], bool)
    return (ticks.ends_episode & told[ticks.episode]) * np.int64(contract.period_ns)


def _at(picked: dict[str, np.ndarray], ticks: np.ndarray) -> dict[str, np.ndarray]:
    return {name: places[ticks] for name, places in picked.items()}


def _action_rows(
    contract: Contract,
    values: np.ndarray,
    codes: np.ndarray,
    ticks: Ticks,
    observer: Observer,
    picked: dict[str, np.ndarray],
) -> np.ndarray:
    """Return action rows, (n, action_dim) float32, NaN where there is none; `codes` gets why."""
    rows = np.empty_like(values)
    for command in contract.action.commands:
        for field in command.fields:
            raw = values[:, field.action]
            if field.relative == 'command':
                before = np.full(len(raw), np.nan)
                before[1:][ticks.follows[1:]] = raw[:-1][ticks.follows[1:]]
                codes[(codes == 0) & np.isnan(before)] = CODE['unknown_reference']
                raw = raw - before
            elif field.measured is not None and field.relative:
                place = field.measured
                measured = observer.values(picked, place.stream, place.index)
                raw = raw - (measured / place.scale - place.offset)
            rows[:, field.action] = (raw - field.offset) / field.scale
    with np.errstate(over='ignore'):
        row = rows.astype(np.float32)
    codes[(codes == 0) & np.isinf(row).any(1)] = CODE['bad_command']
    row[~np.isfinite(row).all(1)] = np.nan
    return row


def _rewards(
    contract: Contract,
    data: TickData,
    ticks: Ticks,
    codes: np.ndarray,
    episodes: Sequence[Episode],
    counters: Counter[str],
) -> np.ndarray:
    """Return rewards, (n,) float64; marks in `codes` where there is none."""
    rules, rewards = contract.recordings, data.rewards
    assert rules is not None
    rule = rules.reward
    if rewards is None:
        return np.full(len(ticks), rule.step)
    clock = data.commands[rules.clock]
    places, unused = in_windows(contract, ticks, clock, rewards, rule.window_ns, episodes)
    counters['unused_reward'] += unused
    numbers = np.zeros(len(ticks))
    there = places != NONE
    numbers[there] = rewards.values[places[there], 0]
    bad = there.copy()
    bad[there] = ~rewards.good[places[there]]
    codes[(codes == 0) & ~there] = CODE['missing_reward']
    codes[(codes == 0) & bad] = CODE['bad_reward']
    return numbers


def _price(
    contract: Contract, reward: np.ndarray, terminated: np.ndarray, success: np.ndarray
) -> None:
    """Give the last step of an episode what its end is worth."""
    assert contract.recordings is not None
    rule, price = contract.recordings.reward, contract.outcome.failure_reward
    failed = terminated & ~success
    if not rule.topic:
        reward[success] = rule.success
        reward[failed] = rule.failure
    if price is not None:
        reward[failed] += price


@dataclass(frozen=True)
class _End:
    """The end of a segment behind a tick; the outcome is empty where no episode ends."""

    tick: int
    reason: str
    outcome: str = ''


def _segments(
    ticks: Ticks, codes: np.ndarray, following: np.ndarray, episodes: Sequence[Episode]
) -> list[_End]:
    """Return the ends of unbroken runs of steps.

    A run ends with a step after which the observation is known; what lies behind that is marked in
    `codes`.

    Args:
        ticks: all.
        codes: (n,) 0 for a step.
        following: (n,) 0 where the observation after the tick is known.
        episodes: which the ticks name.
    """
    good = codes == 0
    joined = ticks.follows.copy()
    joined[1:] &= good[1:] & good[:-1]
    joined[:1] = False
    starts = np.flatnonzero(good & ~joined)
    stops = np.flatnonzero(good & ~np.append(joined[1:], False))
    ends = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        last = stop
        while last >= start and following[last]:
            codes[last] = CODE['missing_next_observation']
            last -= 1
        if last < start:
            continue
        episode = episodes[ticks.episode[last]]
        behind = last + 1
        if behind < len(ticks) and ticks.episode[behind] == ticks.episode[last]:
            cut = 'gap' if not ticks.follows[behind] else REASONS[codes[behind]]
            ends.append(_End(last, cut))
        elif episode.outcome:
            reason = 'terminated' if episode.outcome in TERMINATES else episode.outcome
            ends.append(_End(last, reason, episode.outcome))
        else:
            ends.append(_End(last, episode.reason))
    return ends


def split_block(block: StepBlock, most_steps: int = BLOCK_STEPS) -> Iterator[StepBlock]:
    """Yield a block without planned chunks as smaller ones."""
    for start in range(0, len(block), most_steps):
        stop = min(start + most_steps, len(block))
        ends = np.searchsorted(block.end_after, (start, stop), 'right').tolist()
        yield block.part(slice(start, stop), slice(*ends))
