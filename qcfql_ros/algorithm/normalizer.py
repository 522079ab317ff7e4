# SPDX-License-Identifier: Apache-2.0
"""Normalisation of observations: one function for training, robot and LeRobot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qcfql_ros.errors import ModelError


@dataclass(frozen=True, eq=False)
class Normalizer:
    """``(observation - mean) / std``.

    Attributes:
        mean: (state_dim,) float32.
        std: (state_dim,) float32, positive.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def identity(cls, state_dim: int) -> Normalizer:
        """Return the normaliser that changes nothing."""
        return cls(torch.zeros(state_dim), torch.ones(state_dim))

    @classmethod
    def fit(cls, observations: np.ndarray) -> Normalizer:
        """Return mean and standard deviation of (steps, state_dim); constants keep std 1."""
        mean = observations.mean(0, dtype=np.float64)
        std = observations.std(0, dtype=np.float64)
        std = np.where(std < 1e-6, 1.0, std)
        as_tensor = lambda values: torch.from_numpy(values.astype(np.float32))  # noqa: E731
        return cls(as_tensor(mean), as_tensor(std))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], state_dim: int) -> Normalizer:
        """Take the normaliser out of a file's tensors; raises ModelError if it does not fit."""
        mean, std = tensors.get('normalizer.mean'), tensors.get('normalizer.std')
        if mean is None or std is None or mean.shape != (state_dim,) or std.shape != mean.shape:
            raise ModelError(f'policy file: no normaliser for {state_dim} numbers')
        if not bool((std > 0).all()):
            raise ModelError('policy file: its normaliser divides by zero')
        return cls(mean, std)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors as files hold them."""
        return {'normalizer.mean': self.mean.cpu(), 'normalizer.std': self.std.cpu()}

    def to(self, device: torch.device | str) -> Normalizer:
        """Return the normaliser on `device`."""
        return Normalizer(self.mean.to(device), self.std.to(device))

    def __call__(self, observation: Tensor) -> Tensor:
        """Return the normalised (batch, state_dim)."""
        return (observation - self.mean) / self.std
