# SPDX-License-Identifier: Apache-2.0
"""How fast a practice run learns, publishes and saves."""

from __future__ import annotations

from dataclasses import dataclass

from qcfql_ros.errors import ParameterError


@dataclass(frozen=True)
class Pace:
    """How learning follows practice.

    Attributes:
        update_to_data_ratio: updates per step of practice.
        warmup_steps: steps of practice before the first update.
        publish_every_s: seconds between policies sent to the robot.
        checkpoint_every_s: seconds between checkpoints.
    """

    update_to_data_ratio: float = 1.0
    warmup_steps: int = 1000
    publish_every_s: float = 5.0
    checkpoint_every_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0.0 < self.update_to_data_ratio <= 100.0:
            raise ParameterError(
                f'update_to_data_ratio: got {self.update_to_data_ratio}, wanted in (0, 100]'
            )
        if self.warmup_steps < 0:
            raise ParameterError(f'warmup_steps: got {self.warmup_steps}, wanted at least 0')
        for name in ('publish_every_s', 'checkpoint_every_s'):
            if not getattr(self, name) > 0.0:
                raise ParameterError(f'{name}: got {getattr(self, name)}, wanted above 0')
