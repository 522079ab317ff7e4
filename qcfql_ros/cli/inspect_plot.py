# SPDX-License-Identifier: Apache-2.0
"""A recording as one picture: topics and episodes over time, and the range of each number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qcfql_ros.contract.schema import Contract
from qcfql_ros.data.inspection_report import BagReport
from qcfql_ros.data.inspection_steps import NumberReport, Segment
from qcfql_ros.data.inspection_topics import TopicReport

_BINS = 600  # of the time line, at most
_TICKS_A_BIN = 4
_GAPS_DRAWN = 500
_COLORS = {
    'success': '#2e9e5b',
    'failure': '#d1495b',
    'timeout': '#edae49',
    'abort': '#8d6a9f',
    '': '0.65',  # the episode does not end here
}
_OTHER_COLOR = '#5c80bc'


def plot_recording(path: Path, report: BagReport, contract: Contract) -> None:
    """Write the picture of a recording that was inspected under `contract`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = report.steps
    numbers = [] if steps is None else [n for n in (steps.action, steps.state) if n]
    tallest = max((len(one) for one in numbers), default=0)
    heights = [0.32 * len(report.topics) + 0.6, 0.9, 0.24 * tallest + 0.8]
    if not numbers:
        del heights[2]
    figure = Figure(figsize=(11.0, sum(heights) + 1.2), layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), max(1, len(numbers)), height_ratios=heights)
    over_time = figure.add_subplot(grid[0, :])
    _draw_topics(over_time, report, contract.rate_hz)
    episodes = figure.add_subplot(grid[1, :], sharex=over_time)
    _draw_episodes(episodes, report)
    over_time.set_xlim(0.0, max(report.seconds, 1e-3))
    limits = {
        name: (low, high)
        for name, low, high in zip(
            contract.action.names, contract.action.low, contract.action.high, strict=True
        )
    }
    for place, some in enumerate(numbers):
        axis = figure.add_subplot(grid[2, place])
        is_action = steps is not None and some is steps.action
        _draw_numbers(axis, some, limits if is_action else {}, tallest)
        axis.set_title('action' if is_action else 'observation.state', fontsize=9)
    for axis in figure.axes:
        axis.spines[['top', 'right']].set_visible(False)
        axis.tick_params(labelsize=7)
    state = 'fit' if report.fit else f'unfit: {report.unfit[0]}'
    figure.suptitle(f'{report.path.name}: {state}'[:110], fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _draw_topics(axis: Any, report: BagReport, rate_hz: float) -> None:
    """One row a topic: the darker the more messages, red where there is a gap."""
    seconds = max(report.seconds, 1e-3)
    bins = int(np.clip(seconds * rate_hz / _TICKS_A_BIN, 1, _BINS))
    edges = np.linspace(0.0, seconds, bins + 1)
    rows = np.zeros((len(report.topics), bins))
    for row, topic in enumerate(report.topics):
        at_s = (topic.receive_ns - report.start_ns) / 1e9
        counts = np.histogram(at_s, edges)[0].astype(float)
        usual = np.median(counts[counts > 0]) if counts.any() else 1.0
        rows[row] = np.minimum(counts / usual, 1.0)
    if len(rows):
        extent = (0.0, seconds, len(rows) - 0.5, -0.5)
        axis.imshow(
            rows, aspect='auto', extent=extent, cmap='Blues', vmax=1.4, interpolation='nearest'
        )
    for row, topic in enumerate(report.topics):
        spans = [(start, end - start) for start, end in _gaps(topic, report)[:_GAPS_DRAWN]]
        axis.broken_barh(spans, (row - 0.4, 0.8), color=_COLORS['failure'], alpha=0.85)
    axis.set_yticks(range(len(rows)), [topic.topic for topic in report.topics])
    axis.set_title('messages; red: gaps', fontsize=9)
    axis.tick_params(labelbottom=False)


def _gaps(topic: TopicReport, report: BagReport) -> list[tuple[float, float]]:
    """Return begin and end of each gap in seconds, by receive stamps; none in lockstep."""
    if report.lockstep or topic.wanted is None or not len(topic.receive_ns):
        return []
    times = (topic.receive_ns - report.start_ns) / 1e9
    if topic.wanted.role == 'sensor':
        times = np.concatenate(([0.0], times, [report.seconds]))
    found = np.flatnonzero(np.diff(times) > topic.wanted.gap_s)
    return [(float(times[i]), float(times[i + 1])) for i in found]


def _draw_episodes(axis: Any, report: BagReport) -> None:
    """Segments over time, in the colour of the outcome that they end with."""
    segments = () if report.steps is None else report.steps.segments
    seen: dict[str, Any] = {}
    for (start_s, end_s), segment in zip(segment_times(report), segments, strict=True):
        outcome = segment.outcome
        color = _COLORS.get(outcome, _OTHER_COLOR)
        bar = axis.broken_barh([(start_s, end_s - start_s)], (-0.4, 0.8), color=color, lw=0)
        seen.setdefault(outcome or 'cut', bar)
    axis.set_yticks([0], ['segments'])
    axis.set_ylim(-0.6, 0.6)
    axis.set_xlabel('s', fontsize=8)
    if seen:
        axis.legend(
            seen.values(),
            seen.keys(),
            loc='lower right',
            bbox_to_anchor=(1.0, 0.95),
            ncols=len(seen),
            fontsize=7,
            frameon=False,
        )


def segment_times(report: BagReport) -> list[tuple[float, float]]:
    """Return begin and end of each segment, seconds since the recording began.

    Stamps of a robot in lockstep are of its own time: they are looked up among the step messages,
    and begin anew each time that the robot was started.
    """
    segments: Sequence[Segment] = () if report.steps is None else report.steps.segments
    clock = next((t for t in report.topics if t.wanted and t.wanted.role == 'step'), None)
    if not report.lockstep or clock is None:
        start = report.start_ns
        return [((s.start_ns - start) / 1e9, (s.end_ns - start) / 1e9) for s in segments]
    cuts = np.flatnonzero(np.diff(clock.stamp_ns) < 0) + 1
    stamps, received = np.split(clock.stamp_ns, cuts), np.split(clock.receive_ns, cuts)
    era, before_ns = 0, 0
    times: list[float] = []
    for stamp_ns in (stamp for s in segments for stamp in (s.start_ns, s.end_ns)):
        if stamp_ns < before_ns:
            era = min(era + 1, len(stamps) - 1)
        before_ns = stamp_ns
        place = min(int(np.searchsorted(stamps[era], stamp_ns)), len(received[era]) - 1)
        times.append((int(received[era][place]) - report.start_ns) / 1e9)
    return list(zip(times[::2], times[1::2], strict=True))


def _draw_numbers(
    axis: Any, numbers: Sequence[NumberReport], limits: dict[str, tuple[float, float]], rows: int
) -> None:
    """Smallest to largest as a line, the middle 98 % as a bar, the median as a mark.

    There is room for `rows`, so that two plots side by side have the same lines.
    """
    for row, number in enumerate(numbers):
        low, median, high = np.quantile(number.sample, (0.01, 0.5, 0.99))
        color = '0.6' if number.constant else _OTHER_COLOR
        axis.plot([number.low, number.high], [row, row], color=color, lw=1)
        axis.barh(row, high - low, left=low, height=0.6, color=color, alpha=0.6)
        axis.plot([median], [row], '|', color='black', markersize=7)
        if number.name in limits:
            axis.plot(limits[number.name], [row, row], '|', color='#d1495b', markersize=11)
    axis.set_yticks(range(len(numbers)), [_label(number.name) for number in numbers])
    axis.set_ylim(rows - 0.5, -0.5)
    axis.margins(x=0.05)
    axis.use_sticky_edges = False
    axis.grid(axis='x', alpha=0.25)


def _label(name: str) -> str:
    return name if len(name) <= 34 else f'…{name[-33:]}'
