# SPDX-License-Identifier: Apache-2.0
"""What `qcfql inspect` says, in lines of at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.inspection_report import BagReport
from qcfql_ros.data.inspection_steps import NumberReport, StepReport
from qcfql_ros.data.inspection_verdict import dropped
from qcfql_ros.data.labels import labels_path
from qcfql_ros.data.step_counters import DROP_PREFIX, TOTALS

WIDTH = 100
_LABEL = 12
_NAME = 48
_TOPIC = 28
_BAD_SHOWN = 5
_SAID = (*TOTALS, 'bad_message')  # elsewhere


def full_text(report: BagReport, contract: Contract | None, window_steps: int) -> str:
    """Return everything about one recording; without a contract, what is in it."""
    if not report.files:  # nothing of it can be read
        return '\n'.join([str(report.path), *verdict(report)])
    lines = [*_about(report, contract), '', *_topics(report), '']
    if contract is not None:
        lines += _bad(report)
        if report.unused:
            names = (f'{name} ({kind})' for name, kind in report.unused.items())
            lines += _labelled('not used', ', '.join(names))
    lines += _labelled('damage', str(report.damage))
    if contract is not None and report.steps is not None:
        lines += _steps(report, report.steps, contract, window_steps)
        lines += ['', *_numbers('action', report.steps.action, limited=True)]
        lines += ['', *_numbers('observation.state', report.steps.state, limited=False)]
    if contract is not None:
        lines += ['', *verdict(report)]
    return '\n'.join(lines)


def verdict(report: BagReport) -> Iterator[str]:
    """Yield the warnings, and the line that says whether the recording can be used."""
    for line in report.warnings:
        yield from _wrapped('warning: ', line)
    for line in report.unfit:
        yield from _wrapped('unfit: ', line)
    if report.fit and report.steps is not None:
        yield f'fit: {report.steps.steps} steps, {report.steps.windows} windows'


def table(reports: Sequence[BagReport]) -> Iterator[str]:
    """Yield a line for each of several recordings."""
    rows = [('recording', 'minutes', 'episodes', 'success', 'steps', 'windows', 'warnings', '')]
    for report in reports:
        steps = report.steps
        outcomes = {} if steps is None else steps.outcomes
        rows.append(
            (
                str(report.path),
                f'{report.seconds / 60:.1f}',
                str(sum(outcomes.values())),
                str(outcomes.get('success', 0)),
                str(steps.steps if steps else 0),
                str(steps.windows if steps else 0),
                str(len(report.warnings)),
                'fit' if report.fit else 'unfit',
            )
        )
    yield from _table(rows, left={0, 7})


def size_text(size: float) -> str:
    """Return bytes in the unit that suits them."""
    if size < 1000:
        return f'{size:.0f} B'
    power = min(3, (len(f'{size:.0f}') - 1) // 3)
    return f'{size / 1000**power:.1f} {("B", "kB", "MB", "GB")[power]}'


def _about(report: BagReport, contract: Contract | None) -> Iterator[str]:
    start = datetime.fromtimestamp(report.start_ns / 1e9, UTC)
    files = f'{report.files} file{"" if report.files == 1 else "s"}'
    yield str(report.path)
    what = f'{start:%Y-%m-%d %H:%M:%S} UTC, {report.seconds:.1f} s, {report.messages} messages'
    yield f'  {report.storage}, {files}, {size_text(report.size)}; ' + (
        what if report.messages else 'no message of its topics'
    )
    recorded = 'names no contract'
    if report.contract_hash:
        recorded = f'recorded under contract {report.contract} ({report.contract_hash[:12]})'
    if contract is None:
        yield f'  {recorded}'
    else:
        yield f'  {recorded}; held against {contract.name} ({contract.hash[:12]})'
        if report.lockstep:
            yield '  lockstep: times are header stamps'


def _topics(report: BagReport) -> Iterator[str]:
    judged = any(topic.wanted is not None for topic in report.topics)
    head = ['topic', 'messages', 'Hz', 'p50 ms', 'p99 ms', 'longest s']
    head += ['needs', 'gaps', 'stale', 'offset ms', 'bad'] if judged else ['type']
    rows = [head]
    for topic in report.topics:
        row = [
            _short(topic.topic, _TOPIC) if judged else topic.topic,
            str(topic.messages) if topic.type else 'missing',
            _number(topic.rate_hz, '{:.1f}'),
            _number(topic.p50_s, '{:.1f}', 1e3),
            _number(topic.p99_s, '{:.1f}', 1e3),
            _number(topic.longest_s, '{:.2f}'),
        ]
        if judged:
            row += [
                _number(topic.needs_hz, '{:g}'),
                str(topic.gaps) if topic.messages else '-',
                _number(topic.stale, '{:.1f} %', 100),
                _number(topic.offset_s, '{:.1f}', 1e3),
                str(topic.bad_messages) if topic.messages else '-',
            ]
        else:
            row.append(topic.type)
        rows.append(row)
    yield from _table(rows, left={0} if judged else {0, 6})


def _bad(report: BagReport) -> Iterator[str]:
    for topic in report.topics:
        for bad in topic.bad[:_BAD_SHOWN]:
            at_s = (bad.first_ns - report.start_ns) / 1e9
            text = f'{topic.topic}: {bad.count}, first at {at_s:.2f} s: {bad.reason}'
            yield from _labelled('bad', text)
        if len(topic.bad) > _BAD_SHOWN:
            rest = sum(bad.count for bad in topic.bad[_BAD_SHOWN:])
            yield from _labelled('bad', f'{topic.topic}: {rest} for other reasons')


def _steps(
    report: BagReport, steps: StepReport, contract: Contract, window_steps: int
) -> Iterator[str]:
    outcomes = steps.outcomes
    text = f'{sum(outcomes.values())}{_counts(outcomes)}'
    if steps.unfinished:
        text += f'; {steps.unfinished} without an end'
    yield from _labelled('episodes', text)
    yield from _labelled(
        'steps',
        f'{steps.steps} ({_duration(steps.steps / contract.rate_hz)} at '
        f'{contract.rate_hz:g} Hz){_counts(steps.sources)}; {steps.terminated} terminated',
    )
    if report.labels is not None:
        path = labels_path(report.path)
        yield from _labelled('labels', f'{len(report.labels.episodes)} episodes of {path}')
    lost = dropped(report)
    if lost:
        yield from _labelled('dropped', f'{sum(lost.values())} steps{_counts(lost)}')
    other = {
        name.replace('_', ' '): count
        for name, count in report.counters.items()
        if count and name not in _SAID and not name.startswith(DROP_PREFIX)
    }
    if other:
        yield from _labelled('counted', _counts(other)[2:])
    lengths = sorted(segment.steps for segment in steps.segments)
    if lengths:
        yield from _labelled(
            'segments',
            f'{len(lengths)} of {lengths[0]} to {lengths[-1]} steps, median '
            f'{lengths[len(lengths) // 2]}; ended by{_counts(steps.ends)[1:]}',
        )
    segments, short = steps.short
    rest = f'; too short: {short} steps in {segments} segments' if segments else ''
    yield from _labelled('windows', f'{steps.windows} of {window_steps} steps{rest}')
    yield from _labelled(
        'reward',
        f'{steps.reward_low:g} to {steps.reward_high:g}, mean {steps.reward_mean:.4g}',
    )


def _counts(counts: Mapping[str, int]) -> str:
    """Return ``: 3 success, 1 timeout``, most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return f': {", ".join(f"{count} {name}" for name, count in ordered)}' if ordered else ''


def _numbers(title: str, numbers: Sequence[NumberReport], limited: bool) -> Iterator[str]:
    if not numbers:
        return
    rows = [[title, 'min', 'max', 'mean', 'std']]
    rows[0] += ['at limits', 'outside'] if limited else ['']
    for number in numbers:
        row = [_short(number.name)]
        row += [_decimal(value) for value in (number.low, number.high, number.mean, number.std)]
        if limited:
            row += [f'{100 * number.at_limits:.1f} %', f'{100 * number.outside:.1f} %']
        else:
            row += ['constant' if number.constant else '']
        rows.append(row)
    yield from _table(rows, left={0})


def _duration(seconds: float) -> str:
    return f'{seconds:.1f} s' if seconds < 120 else f'{seconds / 60:.1f} min'


def _decimal(value: float) -> str:
    return f'{value:.3f}' if value == 0.0 or 1e-3 <= abs(value) < 1e3 else f'{value:.1e}'


def _short(name: str, longest: int = _NAME) -> str:
    return name if len(name) <= longest else f'…{name[1 - longest :]}'


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return '-' if value is None else form.format(value * scale)


def _table(rows: Sequence[Sequence[str]], left: set[int]) -> Iterator[str]:
    """Yield rows in columns: those of `left` to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield '  '.join(cells).rstrip()


def _labelled(label: str, text: str) -> Iterable[str]:
    return _wrapped(label.ljust(_LABEL), text)


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=' ' * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
