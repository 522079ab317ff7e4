# SPDX-License-Identifier: Apache-2.0
"""How long before a chunk its observation is taken, from what planning took lately."""

from __future__ import annotations

from collections.abc import Iterable

QUANTILE = 0.99
MARGIN = 1.25
MARGIN_NS = 1_000_000
FEWEST = 8


def adapted_lead_ns(latencies_ns: Iterable[int], lead_ns: int, chunk_ns: int) -> int:
    """Return the lead of the next episode.

    The 99 % quantile of the window times 1.25, and 1 ms: it forgets what the window has
    forgotten, so that it comes down again when planning is quick again.

    Args:
        latencies_ns: of the last plans, warm-up left out.
        lead_ns: of the last episode; stays where there are too few plans to tell.
        chunk_ns: how long a chunk is played; the lead is at most half of it.
    """
    known = sorted(latencies_ns)
    if len(known) < FEWEST:
        return lead_ns
    quantile_ns = known[min(len(known) - 1, round(QUANTILE * len(known)))]
    return min(round(quantile_ns * MARGIN) + MARGIN_NS, chunk_ns // 2)
