# SPDX-License-Identifier: Apache-2.0
"""How far something is: a bar with the time left on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# progress(fraction done in [0, 1], seconds left)
Progress = Callable[[float, float], None]
LINE_EVERY_S = 10.0


@contextmanager
def progress_of(what: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """Give a function to be told how far `what` is; it shows that on the error stream.

    Args:
        what: a word or two, shown before the bar.
        clock: seconds, monotonic.
    """
    if not sys.stderr.isatty():
        yield _lines(what, clock)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = ('{task.description}', BarColumn(), TaskProgressColumn(), '{task.fields[left]}')
    shown = [TextColumn(c) if isinstance(c, str) else c for c in columns]
    with Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0, left='')

        def tell(part: float, left_s: float) -> None:
            bar.update(task, completed=part, left=_left(part, left_s))

        yield tell


def _lines(what: str, clock: Callable[[], float]) -> Progress:
    said_s = clock()

    def tell(part: float, left_s: float) -> None:
        nonlocal said_s
        if clock() - said_s >= LINE_EVERY_S:
            said_s = clock()
            print(f'{what}: {100 * part:.0f} %{_left(part, left_s)}', file=sys.stderr, flush=True)

    return tell


def _left(part: float, left_s: float) -> str:
    """Return the time left; nothing before it can be known."""
    if part < 0.01:
        return ''
    minutes, seconds = divmod(round(left_s), 60)
    return f', {minutes} min {seconds} s left' if minutes else f', {seconds} s left'
