# SPDX-License-Identifier: Apache-2.0
"""What a training run draws from: demonstrations and practice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import numpy as np
import torch

from qcfql_ros.algorithm.batch import Batch
from qcfql_ros.algorithm.normalizer import Normalizer
from qcfql_ros.data.replay import Replay
from qcfql_ros.data.steps import SegmentEnd, Step


class Buffers:
    """Demonstrations and practice, mixed at sampling.

    Args:
        practice: filled while the robot works.
        demonstrations: filled before, or None.
        demonstration_fraction: share of each batch that comes from the demonstrations; None
            draws uniformly over the starts of both. So does the reference, but from one array:
            with reference sampling the last n - 1 steps of each are no starts here.
        normalizer: applied to the states of each batch.
    """

    def __init__(
        self,
        practice: Replay,
        demonstrations: Replay | None,
        demonstration_fraction: float | None,
        normalizer: Normalizer,
    ) -> None:
        self.practice = practice
        self.demonstrations = demonstrations
        self.demonstration_fraction = demonstration_fraction
        self.normalizer = None if _is_identity(normalizer) else normalizer

    def __len__(self) -> int:
        """Return the number of windows that can be drawn."""
        return len(self.practice) + (len(self.demonstrations) if self.demonstrations else 0)

    def add(self, events: Iterable[Step | SegmentEnd]) -> int:
        """Append practice; returns how many steps there were."""
        before = self.practice.steps
        for event in events:
            self.practice.append(event)
        return self.practice.steps - before

    def sample(self, batch: int, generator: np.random.Generator) -> Batch:
        """Draw `batch` windows; raises ParameterError if there are none."""
        demonstrations = self.demonstrations
        if demonstrations is None or not len(demonstrations):
            drawn = self.practice.sample(batch, generator)
        else:
            share = self.demonstration_fraction
            if share is None:
                share = len(demonstrations) / len(self)
            count = int(generator.binomial(batch, share)) if len(self.practice) else batch
            parts = []
            if count:
                parts.append(demonstrations.sample(count, generator))
            if count < batch:
                parts.append(self.practice.sample(batch - count, generator))
            drawn = parts[0] if len(parts) == 1 else _join(parts)
        return drawn if self.normalizer is None else _normalized(drawn, self.normalizer)


def _is_identity(normalizer: Normalizer) -> bool:
    return not bool(normalizer.mean.any()) and bool((normalizer.std == 1.0).all())


def _join(parts: list[Batch]) -> Batch:
    names = [entry.name for entry in fields(Batch)]
    return Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _normalized(batch: Batch, normalizer: Normalizer) -> Batch:
    values = {entry.name: getattr(batch, entry.name) for entry in fields(Batch)}
    values['state'] = normalizer(batch.state)
    values['next_state'] = normalizer(batch.next_state)
    return Batch(**values)
