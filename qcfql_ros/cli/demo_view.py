# SPDX-License-Identifier: Apache-2.0
"""What the demo shows: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from qcfql_ros.cli.practice import Practice
from qcfql_ros.training.wilson import wilson_interval

LINE_EVERY_S = 10.0
MARKS = 40
RECENT = 20


@dataclass(frozen=True)
class Snapshot:
    """One moment of the demo.

    Attributes:
        phase: what is going on, in words.
        elapsed_s, total_s: of the practice.
        practice: outcomes so far.
        ticks_per_s: over the last seconds.
        diagnostics: last key-values by source: policy, learner, robot.
    """

    phase: str
    elapsed_s: float
    total_s: float
    practice: Practice
    ticks_per_s: float
    diagnostics: Mapping[str, Mapping[str, str]]

    def value(self, source: str, key: str) -> str:
        """Return a diagnostic value, or a dash."""
        return self.diagnostics.get(source, {}).get(key, '-')


class View(Protocol):
    """Something that shows snapshots; a context manager."""

    def show(self, snapshot: Snapshot) -> None:
        """Show the newest state."""

    def __enter__(self) -> View:
        """Start showing."""

    def __exit__(self, *_: object) -> None:
        """Stop showing."""


def clock(seconds: float) -> str:
    """Return ``m:ss``."""
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def share(practice: Practice, last: int = 0) -> str:
    """Return ``60 % (12 of 20; 39-78)``: the share and its 95 % interval."""
    successes, episodes = practice.successes(last)
    if not episodes:
        return '-'
    low, high = wilson_interval(successes, episodes)
    return (
        f'{100 * successes / episodes:.0f} %  ({successes} of {episodes};'
        f' 95 % interval {100 * low:.0f} to {100 * high:.0f})'
    )


def rows(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return the lines of the table: name and text."""
    practice = snapshot.practice
    marks = ''.join('●' if episode.success else '·' for episode in practice.episodes[-MARKS:])
    return [
        ('episodes', str(len(practice.episodes))),
        ('success, all', share(practice)),
        (f'success, last {RECENT}', share(practice, RECENT)),
        ('last episodes', marks or '-'),
        ('ticks', f'{practice.ticks}   {snapshot.ticks_per_s:.1f}/s'),
        ('late ticks', snapshot.value('policy', 'late_ticks')),
        ('policy version', snapshot.value('policy', 'policy_version')),
        ('buffer', f'{snapshot.value("learner", "buffer")} steps'),
        (
            'updates',
            f'{snapshot.value("learner", "updates")}'
            f'   {snapshot.value("learner", "updates_per_s")}/s',
        ),
    ]


class LineView:
    """One line every ten seconds, for logs and pipes."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._phase = ''

    def show(self, snapshot: Snapshot) -> None:
        """Print if it is time, or if the phase changed."""
        if snapshot.phase != self._phase:
            self._phase = snapshot.phase
            print(snapshot.phase, flush=True)
        if snapshot.elapsed_s < self._next_s:
            return
        self._next_s = (snapshot.elapsed_s // LINE_EVERY_S + 1) * LINE_EVERY_S
        if not snapshot.practice.ticks:
            return
        successes, episodes = snapshot.practice.successes(RECENT)
        print(
            f'{clock(snapshot.elapsed_s)}/{clock(snapshot.total_s)}'
            f'  episodes {len(snapshot.practice.episodes)}'
            f'  success last {RECENT}: {successes}/{episodes}'
            f'  ticks {snapshot.practice.ticks} ({snapshot.ticks_per_s:.1f}/s)'
            f'  late {snapshot.value("policy", "late_ticks")}'
            f'  policy {snapshot.value("policy", "policy_version")}'
            f'  buffer {snapshot.value("learner", "buffer")}'
            f'  updates {snapshot.value("learner", "updates")}'
            f' ({snapshot.value("learner", "updates_per_s")}/s)',
            flush=True,
        )

    def __enter__(self) -> LineView:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put back."""


class TableView:
    """A table that is redrawn in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(), auto_refresh=False, transient=False)

    def show(self, snapshot: Snapshot) -> None:
        """Redraw."""
        self._live.update(self._draw(snapshot), refresh=True)

    def _draw(self, snapshot: Snapshot) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(style='bold')
        table.add_column()
        for name, text in rows(snapshot):
            table.add_row(name, text)
        left_s = max(0.0, snapshot.total_s - snapshot.elapsed_s)
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=snapshot.total_s, completed=snapshot.elapsed_s, width=40),
            f'{clock(snapshot.elapsed_s)} elapsed, {clock(left_s)} left',
        )
        return Panel(
            Group(bar, '', table),
            title=f'QC-FQL: {snapshot.phase}',
            subtitle='Ctrl-C ends it early',
            width=88,
        )

    def __enter__(self) -> TableView:
        """Take the terminal."""
        self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        """Give the terminal back."""
        self._live.__exit__(*exception)


def make_view() -> View:
    """Return the view that fits standard output."""
    return TableView() if sys.stdout.isatty() else LineView()
