# SPDX-License-Identifier: Apache-2.0
"""The part of a contract file that says how bags of others make steps."""

from __future__ import annotations

from collections.abc import Mapping

from qcfql_ros.contract import topics
from qcfql_ros.contract.load_action import read_topic
from qcfql_ros.contract.recordings import (
    OUTCOMES,
    EventRule,
    Recordings,
    RewardRule,
    Window,
)
from qcfql_ros.contract.schema import Action, Command, Stream
from qcfql_ros.contract.section import Section

GRIDS = ('commands', 'period')
_BY_OUTCOME = ('step', 'success', 'failure')
_BY_MESSAGE = ('topic', 'type', 'window_s')


def read_recordings(
    top: Section, streams: Mapping[str, Stream], action: Action, period_s: float
) -> Recordings | None:
    """Return the section `recordings`, None where there is none.

    Args:
        top: the whole file.
        streams: of the contract, whose own `max_age_s` holds where the section has none.
        action: whose commands the clock is one of.
        period_s: of the control rate.

    Raises:
        ContractError: something is wrong; names the place.
    """
    if 'recordings' not in top:
        return None
    section = top.section(
        'recordings',
        (),
        (
            *('clock', 'clock_stamp', 'grid', 'tolerance_s', 'lead_s', 'max_age_s'),
            *('commands', 'reward', 'events'),
        ),
    )
    commands = {command.topic: command for command in action.commands}
    only = next(iter(commands)) if len(commands) == 1 else ''
    if not only and 'clock' not in section:
        raise section.error('clock', f'one of the command topics {", ".join(commands)}')
    clock = commands[section.choice('clock', commands, only)]
    max_age_s = None
    if 'max_age_s' in section:
        max_age_s = section.number('max_age_s', low=0.001, high=3600.0)
    return Recordings(
        clock=clock.topic,
        by_header=_by_header(section, clock),
        grid=section.choice('grid', GRIDS, 'commands'),
        tolerance_ns=_ns(section.number('tolerance_s', period_s / 4, 0.0, 0.9 * period_s)),
        lead_ns=_ns(section.number('lead_s', 0.0, 0.0, 10.0)),
        max_age_ns={
            name: _ns(stream.max_age_s if max_age_s is None else max_age_s)
            for name, stream in streams.items()
        },
        windows=_windows(section, [topic for topic in commands if topic != clock.topic], period_s),
        reward=_reward(section, period_s),
        events=_events(section),
    )


def _by_header(section: Section, clock: Command) -> bool:
    # The stamp of a trajectory says when it is to begin, not when it was sent.
    default = 'receive' if clock.type == topics.JOINT_TRAJECTORY else 'header'
    if clock.type not in topics.UNSTAMPED:
        return section.choice('clock_stamp', ('header', 'receive'), default) == 'header'
    if section.choice('clock_stamp', ('header', 'receive'), 'receive') == 'header':
        raise section.error('clock_stamp', f'receive: a {clock.type} has no header')
    return False


def _windows(section: Section, others: list[str], period_s: float) -> dict[str, Window | None]:
    half = (-_ns(period_s / 2), _ns(period_s / 2))
    windows: dict[str, Window | None] = dict.fromkeys(others, half)
    if 'commands' in section:
        if not others:
            raise section.error('commands', 'nothing: the clock is the only command topic')
        table = section.section('commands', (), others)
        for topic in table.data:
            item = table.section(topic, (), ('match', 'window_s'))
            if item.choice('match', ('window', 'latest'), 'window') == 'window':
                windows[topic] = _window(item, half)
            elif 'window_s' in item:
                raise item.error('window_s', 'nothing beside `match: latest`')
            else:
                windows[topic] = None
    return windows


def _window(section: Section, default: Window) -> Window:
    if 'window_s' not in section:
        return default
    wanted = 'two numbers of seconds after the message of the clock, the lower one first'
    if not isinstance(section.data['window_s'], list):
        raise section.error('window_s', wanted)
    low, high = (_ns(number) for number in section.numbers('window_s', 2, 0.0))
    if low >= high:
        raise section.error('window_s', wanted)
    return low, high


def _reward(section: Section, period_s: float) -> RewardRule:
    if 'reward' not in section:
        return RewardRule()
    reward = section.section('reward', (), (*_BY_MESSAGE, *_BY_OUTCOME))
    by_message = 'topic' in reward
    for key in _BY_OUTCOME if by_message else _BY_MESSAGE:
        if key in reward:
            raise reward.error(
                key,
                'either topic, type and window_s of a message, or numbers for '
                f'{", ".join(_BY_OUTCOME)} by how the episode ended',
            )
    if not by_message:
        return RewardRule(
            step=reward.number('step', 0.0),
            success=reward.number('success', 1.0),
            failure=reward.number('failure', 0.0),
        )
    return RewardRule(
        read_topic(reward),
        reward.choice('type', topics.NUMBER_TYPES),
        _window(reward, (0, _ns(period_s))),
    )


def _events(section: Section) -> EventRule | None:
    if 'events' not in section:
        return None
    events = section.section('events', ('topic',), ('type', 'start', *OUTCOMES))
    events.choice('type', (topics.STRING,), topics.STRING)
    words = {name: events.text(name) for name in ('start', *OUTCOMES) if name in events}
    if not set(words) & set(OUTCOMES):
        raise events.error('success', f'the text of at least one of {", ".join(OUTCOMES)}')
    for name, text in words.items():
        for other in words:
            if other < name and words[other].split() == text.split():
                raise events.error(name, f'another text than that of {other}')
    return EventRule(read_topic(events), words)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
