# SPDX-License-Identifier: Apache-2.0
"""The ticks of a bag that others recorded, and what each of them looks at.

::

    clock        |        |        |        |        commands, or a grid of the control period
    observation  ^lead    ^lead    ^lead             the latest message of every stream
    commands      o        o        o        o       in the window of its tick, or the latest
    reward          r        r        r        r     in the window of its tick
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qcfql_ros.contract.observation import state_places
from qcfql_ros.contract.previous import first_row, previous_ticks
from qcfql_ros.contract.recordings import Window
from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.episodes import Episode
from qcfql_ros.data.teleoperation_messages import NONE, Series

# Why a tick is no step; the first that holds is told.
REASONS = (
    '',
    'missing_command',
    'bad_command',
    'unknown_reference',
    'missing_reward',
    'bad_reward',
    'missing_observation',
    'bad_observation',
    'missing_next_observation',
)
CODE = {reason: code for code, reason in enumerate(REASONS)}
# A clock that is set to the right year in the middle of a bag must not make a tick for each period
# of all that time.
LONGEST_PAUSE_NS = 60_000_000_000


@dataclass(frozen=True, eq=False)
class Ticks:
    """The n ticks of a bag in order.

    Attributes:
        stamp_ns: (n,) int64.
        receive_ns: (n,) int64, when the command of the clock was received; on a grid of the
            period, as much later as the tick is.
        command: (n,) place in the clock's series, `NONE` where the command is too old.
        episode: (n,) its place among the episodes.
        follows: (n,) bool, one control period after the tick before, in the same episode.
        outside: commands of the clock that are in no episode.
    """

    stamp_ns: np.ndarray
    receive_ns: np.ndarray
    command: np.ndarray
    episode: np.ndarray
    follows: np.ndarray
    outside: int = field(default=0, kw_only=True)

    def __len__(self) -> int:
        return len(self.stamp_ns)

    @property
    def ends_episode(self) -> np.ndarray:
        """(n,) bool, the last tick of an episode."""
        ends = np.ones(len(self), bool)
        ends[:-1] = self.episode[1:] != self.episode[:-1]
        return ends

    def before(self, count: int) -> np.ndarray:
        """Return the tick that lies `count` ticks before each, `NONE` behind a gap."""
        place = np.arange(len(self)) - count
        run = np.cumsum(~self.follows)
        there = place >= 0
        there[there] = run[place[there]] == run[there]
        return np.where(there, place, NONE)


def _member(receive_ns: np.ndarray, episodes: Sequence[Episode]) -> np.ndarray:
    """Return the place of the episode that each receive stamp is in, `NONE` for none."""
    begins = np.array([episode.begin_ns for episode in episodes], np.int64)
    ends = np.array([episode.end_ns for episode in episodes], np.int64)
    member = np.searchsorted(begins, receive_ns, 'right') - 1
    inside = member >= 0
    inside[inside] = receive_ns[inside] <= ends[member[inside]]
    member[~inside] = NONE
    return member


def find_ticks(contract: Contract, clock: Series, episodes: Sequence[Episode]) -> Ticks:
    """Return the ticks inside of `episodes`."""
    rules = contract.recordings
    assert rules is not None
    member = _member(clock.receive_ns, episodes)
    inside = member != NONE
    command = np.flatnonzero(inside)
    member = member[inside]
    # Stamps may be in another order than receipts: an episode is one stretch of ticks.
    order = np.argsort(member, kind='stable')
    command, member = command[order], member[order]
    stamp, receive = clock.stamp_ns[command], clock.receive_ns[command]
    period_ns, tolerance_ns = contract.period_ns, rules.tolerance_ns
    outside = len(clock.stamp_ns) - len(command)
    same = np.zeros(len(command), bool)
    same[1:] = member[1:] == member[:-1]
    if rules.grid == 'commands':
        follows = same.copy()
        follows[1:] &= np.abs(np.diff(stamp) - period_ns) <= tolerance_ns
        return Ticks(stamp, receive, command, member, follows, outside=outside)
    same[1:] &= np.diff(stamp) <= LONGEST_PAUSE_NS
    starts = np.flatnonzero(~same)
    parts: list[tuple[np.ndarray, ...]] = []
    for start, end in zip(starts, [*starts[1:], len(command)], strict=True):
        grid = np.arange(stamp[start], stamp[end - 1] + 1, period_ns, dtype=np.int64)
        latest = start + np.searchsorted(stamp[start:end], grid, 'right') - 1
        age = grid - stamp[latest]
        fresh = np.where(age > period_ns + tolerance_ns, NONE, command[latest])
        follows = np.ones(len(grid), bool)
        follows[0] = False
        number = np.full(len(grid), member[start])
        parts.append((grid, receive[latest] + age, fresh, number, follows))
    if not parts:
        return Ticks(stamp, receive, command, member, same, outside=outside)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Ticks(*columns, outside=outside)


def in_windows(
    contract: Contract,
    ticks: Ticks,
    clock: Series,
    series: Series,
    window: Window,
    episodes: Sequence[Episode],
) -> tuple[np.ndarray, int]:
    """Return the place of the message in the window of each tick, `NONE` for none.

    Commands outside of episodes have windows too, so that no tick takes what belongs to them.

    Returns:
        (n,) places; how many messages inside of `episodes` nothing took.
    """
    rules = contract.recordings
    assert rules is not None
    commands = rules.grid == 'commands'
    places = series.goes_to(clock.receive_ns if commands else ticks.receive_ns, window)
    left = _member(series.receive_ns, episodes) != NONE
    left[places[places != NONE]] = False
    return places[ticks.command] if commands else places, int(left.sum())


def command_values(
    contract: Contract,
    commands: dict[str, Series],
    ticks: Ticks,
    episodes: Sequence[Episode],
    counters: Counter[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Return what was commanded at each tick, and the code of what is wrong with it.

    Args:
        contract: with a section `recordings`.
        commands: by relative topic.
        ticks: all.
        episodes: which the ticks name.
        counters: commands in no tick's window are added to it.

    Returns:
        (n, action_dim) float64 command values, NaN where there is none; (n,) uint8.
    """
    rules = contract.recordings
    assert rules is not None
    values = np.full((len(ticks), contract.action_dim), np.nan)
    codes = np.zeros(len(ticks), np.uint8)
    for command in contract.action.commands:
        series = commands[command.topic]
        window = rules.windows.get(command.topic)
        if command.topic == rules.clock:
            places = ticks.command
        elif window is None:
            places = series.latest(ticks.receive_ns)
        elif rules.grid == 'period':
            places = series.latest(ticks.receive_ns, contract.period_ns + rules.tolerance_ns)
        else:
            clock = commands[rules.clock]
            places, unused = in_windows(contract, ticks, clock, series, window, episodes)
            counters['unused_command'] += unused
        there = places != NONE
        good = there.copy()
        good[there] = series.good[places[there]]
        for number, one in enumerate(command.fields):
            values[good, one.action] = series.values[places[good], number]
        codes[~there] = CODE['missing_command']
        codes[(codes == 0) & ~good] = CODE['bad_command']
    return values, codes


class Observer:
    """Observations of a bag at any time.

    Args:
        contract: says what they are made of.
        streams: the messages.
    """

    def __init__(self, contract: Contract, streams: dict[str, Series]) -> None:
        rules = contract.recordings
        assert rules is not None
        self._contract, self._rules, self._streams = contract, rules, streams
        self._places = state_places(streams, contract.state, contract.action.names)

    def pick(
        self, ticks_ns: np.ndarray, more_age_ns: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Return by stream the place of the message that an observation for each tick has.

        Args:
            ticks_ns: (n,) int64.
            more_age_ns: (n,) int64, by how much it may be older than the contract says.
        """
        more = np.zeros(len(ticks_ns), np.int64) if more_age_ns is None else more_age_ns
        return {
            name: series.latest(
                ticks_ns - self._rules.lead_ns, self._rules.max_age_ns[name] + more
            )
            for name, series in self._streams.items()
        }

    def judge(self, picked: dict[str, np.ndarray]) -> np.ndarray:
        """Return for each tick the code of what is wrong with its observation; 0 for nothing."""
        codes = np.zeros(len(next(iter(picked.values()))), np.uint8)
        for name, places in picked.items():
            series = self._streams[name]
            missing = places == NONE
            bad = ~missing
            bad[bad] = ~series.good[places[bad]]
            codes[(codes == 0) & bad] = CODE['bad_observation']
            codes[missing] = CODE['missing_observation']
        return codes

    def values(self, picked: dict[str, np.ndarray], stream: str, index: int) -> np.ndarray:
        """Return one number of a stream at each tick, float64; NaN where none can be used."""
        series, places = self._streams[stream], picked[stream]
        numbers = np.full(len(places), np.nan)
        there = places != NONE
        there[there] = series.good[places[there]]
        numbers[there] = series.values[places[there], index]
        return numbers

    def previous(self, ticks: Ticks, rows: np.ndarray, next_tick: bool) -> np.ndarray:
        """Return the tick whose row is the previous action in each tick's observation.

        Args:
            ticks: all.
            rows: (n, action_dim) float32, their action rows, NaN for none.
            next_tick: of the observation one control period after each.

        Returns:
            (n,) int, `NONE` where there was no row.
        """
        back = previous_ticks(self._contract, self._rules.lead_ns, False)
        before = ticks.before(back - next_tick)
        there = before != NONE
        there[there] = np.isfinite(rows[before[there]]).all(1)
        return np.where(there, before, NONE)

    def observe(
        self, picked: dict[str, np.ndarray], rows: np.ndarray, before: np.ndarray
    ) -> np.ndarray:
        """Return observations, (m, state_dim) float32.

        Args:
            picked: (m,) by stream, a place for each.
            rows: (n, action_dim) float32, action rows by tick.
            before: (m,) the tick whose row is the previous action, `NONE` where there was none.
        """
        count = len(before)
        state = np.empty((count, self._contract.state_dim), np.float32)
        with np.errstate(over='ignore'):
            for name, places in self._places.streams.items():
                state[:, places] = self._streams[name].values[picked[name]]
        if not self._places.previous or not count:
            return state
        previous = rows[before]
        for row in np.flatnonzero(before == NONE):
            previous[row] = self._first_row(picked, row)
        for part, numbers in self._places.previous:
            state[:, part] = previous[:, numbers]
        return state

    def _first_row(self, picked: dict[str, np.ndarray], row: int) -> np.ndarray:
        values = {name: s.values[picked[name][row]] for name, s in self._streams.items()}
        return first_row(self._contract, values)
