# SPDX-License-Identifier: Apache-2.0
"""How far something is: a bar with the time left on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY_S = 10.0


@contextmanager
def progress_of(
    what: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[float], None]]:
    """Give a function to be told the part of `what` that is done; it shows that on stderr.

    Args:
        what: a word or two, shown before the bar.
        clock: seconds, monotonic.
    """
    begun_s = clock()
    if not sys.stderr.isatty():
        yield _lines(what, clock, begun_s)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = ('{task.description}', BarColumn(), TaskProgressColumn(), '{task.fields[left]}')
    shown = [TextColumn(c) if isinstance(c, str) else c for c in columns]
    with Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0, left='')

        def tell(part: float) -> None:
            bar.update(task, completed=part, left=_left(part, clock() - begun_s))

        yield tell


def _lines(what: str, clock: Callable[[], float], begun_s: float) -> Callable[[float], None]:
    said_s = begun_s

    def tell(part: float) -> None:
        nonlocal said_s
        now_s = clock()
        if now_s - said_s >= LINE_EVERY_S:
            said_s = now_s
            left = _left(part, now_s - begun_s)
            print(f'{what}: {100 * part:.0f} %{left}', file=sys.stderr, flush=True)

    return tell


def _left(part: float, spent_s: float) -> str:
    """Return the time left; nothing before it can be known."""
    if part < 0.01:
        return ''
    minutes, seconds = divmod(round(spent_s * (1.0 - part) / part), 60)
    return f', {minutes} min {seconds} s left' if minutes else f', {seconds} s left'
