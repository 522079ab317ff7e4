# SPDX-License-Identifier: Apache-2.0
"""What the control loop counts and says."""

from __future__ import annotations

from dataclasses import dataclass, field

from qcfql_ros.control.histogram import Histogram


@dataclass
class Counters:
    """Of one policy process; written by the control and inference threads, read by diagnostics.

    Attributes:
        ticks: commanded, holds included.
        commands: sent, several a tick where the contract says so.
        holds: of these ticks, those with the hold row in place of an action.
        repeats: of these ticks, those with the last row again while a chunk was late.
        episodes: started.
        chunks: planned and begun.
        chunk_misses: ticks at which the next chunk was due and not there.
        cut_chunks: sent as a whole and stopped before their end.
        stale_ticks: of the holds, those because a sensor was silent for too long.
        refused: observations or plans that were not used (not finite, stale, missing).
        clipped: action numbers changed by the safety filter.
        lost_outcomes: awaited in lockstep and given up.
        reason: why the last one was refused, or what is being waited for; empty if nothing.
        inference: how long planning took.
    """

    ticks: int = 0
    commands: int = 0
    holds: int = 0
    repeats: int = 0
    episodes: int = 0
    chunks: int = 0
    chunk_misses: int = 0
    cut_chunks: int = 0
    stale_ticks: int = 0
    refused: int = 0
    clipped: int = 0
    lost_outcomes: int = 0
    reason: str = ''
    inference: Histogram = field(default_factory=Histogram)
