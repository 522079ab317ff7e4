# SPDX-License-Identifier: Apache-2.0
"""What may be changed while driving, and where whoever drives finds what is wanted now."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tuning:
    """Settings that take effect at a boundary, never in the middle of a chunk.

    Attributes:
        limits_scale: on velocity and acceleration limits, in (0, 1]; from the next chunk on.
        noise_scale: on the noise that a plan starts from; from the next plan on.
        num_action_samples: candidates of best-of-n; 0 as trained; from the next plan on.
        on_late: ``hold`` or ``repeat``; empty as the contract says; from the next chunk on.
        lead_s: a chunk's observation is taken this long before its first tick; None as started
            with; from the next episode on.
        adaptive_lead: fit the lead to what planning took, between episodes; None as started with.
    """

    limits_scale: float = 1.0
    noise_scale: float = 1.0
    num_action_samples: int = 0
    on_late: str = ''
    lead_s: float | None = None
    adaptive_lead: bool | None = None


class TuningBox:
    """Holds what is wanted. One value is exchanged for another: no lock, no half a change.

    Attributes:
        wanted: set by any thread.
    """

    def __init__(self, wanted: Tuning | None = None) -> None:
        self.wanted = wanted or Tuning()

    def take(self) -> Tuning:
        """Return what is wanted now."""
        return self.wanted
