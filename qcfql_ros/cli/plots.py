# SPDX-License-Identifier: Apache-2.0
"""Pictures of a run: success over episodes, and the timing of ticks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qcfql_ros.cli.practice import Episode
from qcfql_ros.training.wilson import wilson_interval

WINDOW = 20


def _figure(rows: int, columns: int, ratios: Sequence[float]):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.2 * rows), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, width_ratios=list(ratios))
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.spines[['top', 'right']].set_visible(False)
    return figure, axes


def plot_learning_curve(path: Path, episodes: Sequence[Episode], title: str) -> None:
    """Write success over episodes: each one, and the share of the last 20 with its 95 % band."""
    figure, axes = _figure(1, 1, [1])
    axis = axes[0][0]
    success = np.array([episode.success for episode in episodes], dtype=float)
    number = np.arange(1, len(success) + 1)
    window = [success[max(0, i - WINDOW) : i] for i in number]
    share = np.array([part.mean() for part in window])
    band = np.array([wilson_interval(int(part.sum()), len(part)) for part in window]).reshape(
        -1, 2
    )
    axis.plot(number, 100 * success, '|', color='0.45', markersize=9, label='one episode')
    axis.fill_between(number, 100 * band[:, 0], 100 * band[:, 1], alpha=0.18, linewidth=0)
    axis.plot(number, 100 * share, linewidth=2, label=f'last {WINDOW} episodes, 95 % Wilson band')
    axis.set_ylim(-4, 104)
    axis.set_xlim(0, max(2, len(success)) + 0.5)
    axis.set_xlabel('episode')
    axis.set_ylabel('success [%]')
    axis.set_title(title)
    minutes = axis.secondary_xaxis(-0.26)
    marks = np.unique(np.linspace(0, len(episodes) - 1, 6).astype(int)) if episodes else []
    minutes.set_xticks(
        [int(i) + 1 for i in marks], [f'{episodes[int(i)].end_s / 60:.1f}' for i in marks]
    )
    minutes.set_xlabel('minutes of practice')
    axis.legend(loc='lower right', frameon=False)
    figure.savefig(path, dpi=130)


def plot_tick_timing(
    path: Path,
    step_s: Sequence[float],
    lateness_s: Sequence[float] | None,
    period_s: float,
) -> None:
    """Write the time between ticks and, at wall rate, how late each one arrived.

    Args:
        path: of the picture.
        step_s: receive time of each step, seconds since the first.
        lateness_s: receive time minus deadline of each; None in lockstep, which has no deadlines.
        period_s: of the contract.
    """
    rows = 1 if lateness_s is None else 2
    figure, axes = _figure(rows, 2, [3, 1])
    times = np.asarray(step_s, dtype=float)
    series = [('time between ticks [ms]', times[1:], 1e3 * np.diff(times))]
    if lateness_s is not None:
        series.append(('lateness [ms]', times, 1e3 * np.asarray(lateness_s, dtype=float)))
    for (name, at_s, values), (over_time, histogram) in zip(series, axes, strict=True):
        over_time.plot(at_s / 60, values, '.', markersize=1.5, alpha=0.5)
        over_time.set_ylabel(name)
        over_time.set_xlabel('minutes of practice')
        if values.size:
            top = float(np.quantile(values, 0.999)) * 1.3 or 1.0
            bottom = min(0.0, float(values.min()))
            p50, p99 = np.quantile(values, [0.5, 0.99])
            over_time.set_ylim(bottom, top)
            bins = np.linspace(bottom, top, 60)
            histogram.hist(np.clip(values, bottom, top), bins=bins, orientation='horizontal')
            histogram.set_ylim(bottom, top)
            histogram.set_title(f'median {p50:.1f}, 99 % {p99:.1f}', fontsize=9)
        histogram.set_xlabel('ticks')
    if lateness_s is not None:
        axes[0][0].axhline(1e3 * period_s, color='0.4', linewidth=0.8, linestyle='--')
    figure.suptitle('Tick timing')
    figure.savefig(path, dpi=130)
