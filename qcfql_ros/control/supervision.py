# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the threads that drive, judged from outside them."""

from __future__ import annotations

from qcfql_ros.control.prefetch import Prefetch

LONGEST_PLAN_NS = 1_000_000_000  # or a chunk, where that is longer
LONGEST_START_NS = 3_000_000_000  # until the control thread begins its first tick
# Of the control thread, or ten periods: a busy machine pauses a thread for longer than one would
# think, and the watchdog, which costs no process, is there for what cannot wait.
LONGEST_PAUSE_NS = 1_000_000_000
LONGEST_PAUSE_PERIODS = 10


def judge_planning(prefetch: Prefetch, chunk_ns: int, now_ns: int) -> str:
    """Return whether the inference thread is dead or hangs, as a text; '' if not.

    Args:
        prefetch: whose thread it is.
        chunk_ns: how long a chunk is played.
        now_ns: monotonic time.
    """
    if prefetch.dead():
        return 'the inference thread is dead'
    since_ns = prefetch.planning_since_ns
    longest_ns = max(LONGEST_PLAN_NS, chunk_ns)
    if since_ns and now_ns - since_ns > longest_ns:
        return (
            f'the inference thread hangs: it has been planning for '
            f'{(now_ns - since_ns) * 1e-9:.2f} s, wanted at most {longest_ns * 1e-9:g} s'
        )
    return ''


def judge_pause(silent_ns: int, period_ns: int) -> str:
    """Return whether the control thread hangs, as a text; '' if not.

    Args:
        silent_ns: since it began its last tick.
        period_ns: of the ticks.
    """
    if silent_ns > max(LONGEST_PAUSE_NS, LONGEST_PAUSE_PERIODS * period_ns):
        return f'the control thread hangs: its last tick began {silent_ns * 1e-9:.2f} s ago'
    return ''
