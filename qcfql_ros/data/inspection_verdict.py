# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a recording: what makes it unfit, and what a person should look at."""

from __future__ import annotations

from collections.abc import Iterator

from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.inspection_report import BagReport
from qcfql_ros.data.inspection_steps import StepReport
from qcfql_ros.data.inspection_topics import TopicReport
from qcfql_ros.data.step_counters import DROP_PREFIX

SLOW = 0.9  # of the wanted rate
STALE = 0.01  # of the ticks
DROPPED = 0.01  # of the steps
AT_LIMITS = 0.5  # of the steps
WIDE = 10.0  # standard deviation


def unfit_reasons(report: BagReport, window_steps: int) -> tuple[str, ...]:
    """Return why nothing can be learned from a recording; empty if it can."""
    found = [
        f'{topic.topic} ({topic.wanted.type}) '
        f'{"has no message" if topic.type else "is missing" + _moved(topic, report)}'
        for topic in report.topics
        if topic.wanted is not None and topic.wanted.required and not topic.messages
    ]
    steps = report.steps
    if steps is not None and not steps.windows:
        longest = max((segment.steps for segment in steps.segments), default=0)
        why = ', '.join(f'{count} {reason}' for reason, count in dropped(report).items())
        found.append(
            f'no window of {window_steps} steps: {steps.steps} steps, the longest unbroken run '
            f'has {longest}{"; dropped: " + why if why else ""}'
        )
    return tuple(found)


def _moved(topic: TopicReport, report: BagReport) -> str:
    """Name a topic of the bag that may be the one that is missing."""
    last = topic.topic.rpartition('/')[2]
    for name, kind in report.unused.items():
        same = topic.wanted is not None and kind == topic.wanted.type
        if same and (name.endswith(topic.topic) or name.rpartition('/')[2] == last):
            return f'; the bag has {name}'
    return ''


def dropped(report: BagReport) -> dict[str, int]:
    """Return how many steps were dropped, by reason, the most frequent first."""
    return {
        name.removeprefix(DROP_PREFIX): count
        for name, count in sorted(report.counters.items(), key=lambda item: (-item[1], item[0]))
        if name.startswith(DROP_PREFIX) and count
    }


def warnings(report: BagReport, contract: Contract) -> tuple[str, ...]:
    """Return what a person should look at, the worst first."""
    planned = report.steps is not None and report.steps.sources.get('policy', 0) > 0
    found = [
        line
        for topic in report.topics
        if planned or topic.messages or topic.wanted is None or topic.wanted.role != 'chunk'
        for line in _of_topic(topic, contract)
    ]
    if report.damage:
        found.insert(0, f'damaged: {report.damage}')
    if report.steps is not None and report.steps.steps:
        found += _of_steps(report, report.steps)
        found += _of_numbers(report.steps)
    return tuple(found)


def _of_topic(topic: TopicReport, contract: Contract) -> Iterator[str]:
    name, wanted = topic.topic, topic.wanted
    if wanted is None:
        return
    if not topic.messages:
        if not wanted.required:
            yield f'{name} ({wanted.type}) {"has no message" if topic.type else "is missing"}'
        return
    if topic.bad_messages:
        share = _percent(topic.bad_messages / topic.messages)
        yield (
            f'{name}: {topic.bad_messages} of {topic.messages} messages ({share}) cannot '
            f'be used: {topic.bad[0].reason}'
        )
    rate, needs = topic.rate_hz, topic.needs_hz
    if rate is not None and needs is not None and rate < SLOW * needs:
        yield f'{name}: {rate:.3g} Hz, the contract needs {needs:g} Hz'
    if topic.stale is not None and topic.stale > STALE:
        yield (
            f'{name}: older than max_age_s ({wanted.gap_s:g} s) at {_percent(topic.stale)} of '
            f'the ticks; longest time without a message {topic.longest_s:.3g} s'
        )
    if topic.beyond_tolerance:
        yield (
            f'{name}: {topic.beyond_tolerance} of {topic.messages} stamps are further than '
            f'stamp_tolerance_s ({contract.stamp_tolerance_s:g} s) from their receive stamp, up '
            f'to {topic.largest_offset_s:.3g} s: the clocks of robot and recorder differ'
        )
    if wanted.role == 'sensor' and topic.repeated:
        yield f'{name}: {topic.repeated} messages repeat the stamp of the one before'


def _of_steps(report: BagReport, steps: StepReport) -> Iterator[str]:
    lost = dropped(report)
    count = sum(lost.values())
    if count > DROPPED * (steps.steps + count):
        reasons = ', '.join(f'{number} {reason}' for reason, number in lost.items())
        yield f'{count} of {steps.steps + count} steps were dropped: {reasons}'
    outcomes = steps.outcomes
    if not outcomes:
        yield 'no episode has an end'
    elif not outcomes['success']:
        yield f'none of {sum(outcomes.values())} episodes succeeded'
    if steps.reward_low == steps.reward_high:
        yield f'the reward is {steps.reward_low:g} at every step: nothing tells good from bad'
    segments, short = steps.short
    if segments:
        yield f'too short for a window: segments {segments}, steps in them {short}'


def _of_numbers(steps: StepReport) -> Iterator[str]:
    for number in steps.action:
        if number.outside:
            yield (
                f'action {number.name}: {_percent(number.outside)} beyond its limits, '
                f'{number.low:.3g} to {number.high:.3g}: change scale and offset of its command'
            )
        if number.at_limits > AT_LIMITS:
            yield f'action {number.name}: {_percent(number.at_limits)} at its limits'
    for what, numbers in (('action', steps.action), ('observation.state', steps.state)):
        constant = [f'{number.name} ({number.low:.3g})' for number in numbers if number.constant]
        if constant:
            yield f'{what}: never changes: {", ".join(constant)}'
    wide = [f'{number.name} ({number.std:.3g})' for number in steps.state if number.std > WIDE]
    if wide:
        yield (
            f'observation.state: a standard deviation above {WIDE:g}: {", ".join(wide)}; scale '
            'it in the contract, or train with --normalize_observations'
        )


def _percent(share: float) -> str:
    return f'{100 * share:.0f} %' if share >= 0.1 else f'{100 * share:.2g} %'
