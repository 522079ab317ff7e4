# SPDX-License-Identifier: Apache-2.0
"""What is counted while steps are made of messages, sorted by what it means to a person."""

from __future__ import annotations

from collections.abc import Mapping

TOTALS = ('messages', 'steps', 'episodes', 'segments')
# What happened to a recording; no message and no step was left out for it.
HAPPENED = (
    'clock_set_back',
    'stamps_went_back',
    'restart',
    'missing_chunk',
    'episodes_without_end',
)
DROP_PREFIX = 'dropped_'  # and the reason: a step was


def left_out(counters: Mapping[str, int]) -> str:
    """Return how many messages and steps were not used, and why; empty for none."""
    return _text({n: c for n, c in counters.items() if n not in (*TOTALS, *HAPPENED)})


def happened(counters: Mapping[str, int]) -> str:
    """Return what was unusual though nothing was left out for it; empty for nothing."""
    return _text({name: counters[name] for name in HAPPENED if name in counters})


def _text(counts: Mapping[str, int]) -> str:
    return ', '.join(f'{c} {n.replace("_", " ")}' for n, c in sorted(counts.items()) if c)
