# SPDX-License-Identifier: Apache-2.0
"""What a training logs: the names, and the averages between two rows.

``docs/metrics.md`` explains each name; a test compares the two lists.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Info = dict[str, Tensor]

#: Means over the updates since the row before, from `Update.step`.
UPDATE_METRICS = (
    'loss_behavior',
    'loss_critic',
    'loss_policy',
    'loss_distillation',
    'behavior_share',
    'clip_fraction',
    'weight_share',
    'q_mean',
    'q_min',
    'q_max',
    'q_target',
    'q_spread',
    'q_policy',
    'gradient_norm_behavior',
    'gradient_norm_critic',
    'gradient_norm_policy',
)
#: Taken at the row, from `diagnosis`.
DIAGNOSIS_METRICS = ('q_minus_return', 'q_return_correlation', 'q_tail_spread')
#: Taken at the row, from `validation`.
VALIDATION_METRICS = (
    'validation_loss_behavior',
    'validation_loss_critic',
    'validation_loss_distillation',
)

OFFLINE_COLUMNS = (
    'updates',
    'behavior_updates',
    'updates_per_s',
    'steps',
    'short_segments',
    *UPDATE_METRICS,
    *DIAGNOSIS_METRICS,
    *VALIDATION_METRICS,
)
ONLINE_COLUMNS = (
    'updates',
    'steps',
    'updates_per_s',
    'short_segments',
    *UPDATE_METRICS,
    *DIAGNOSIS_METRICS,
)
EVALUATION_COLUMNS = ('updates', 'episodes', 'success', 'success_low', 'success_high')


class Metrics:
    """Averages the info of updates without waiting for the device at each one."""

    def __init__(self) -> None:
        self._sums: Info = {}
        self._count = 0

    def add(self, info: Info) -> None:
        """Add one update's scalars; the sums stay where they were computed."""
        if self._sums:
            names = list(self._sums)
            torch._foreach_add_([self._sums[n] for n in names], [info[n] for n in names])
        else:
            self._sums = {name: value.clone() for name, value in info.items()}
        self._count += 1

    def take(self) -> dict[str, float]:
        """Return the means since the last call, or nothing if there was no update."""
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values())).tolist()  # waits for the device, once
        means = {name: total / self._count for name, total in zip(self._sums, sums, strict=True)}
        self._sums, self._count = {}, 0
        return means


def all_finite(values: dict[str, float]) -> bool:
    """Return whether every value is a finite number."""
    return all(math.isfinite(value) for value in values.values())
