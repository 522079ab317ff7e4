# SPDX-License-Identifier: Apache-2.0
"""Scalars of training, averaged between rows of a CSV file."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import torch
from torch import Tensor

Info = dict[str, Tensor]


class Metrics:
    """Averages the info of updates without waiting for the device at each one.

    Args:
        path: CSV file that `row` appends to; None keeps no file.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._sums: Info = {}
        self._count = 0

    def add(self, info: Info) -> None:
        """Add one update's scalars."""
        if self._sums:
            names = list(self._sums)
            torch._foreach_add_([self._sums[n] for n in names], [info[n] for n in names])
        else:
            self._sums = {name: value.clone() for name, value in info.items()}
        self._count += 1

    def take(self) -> dict[str, float]:
        """Return the means since the last call, or nothing if there was no update."""
        means = {name: float(value) / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means

    def row(self, values: dict[str, float]) -> None:
        """Append one row; the first call writes the header."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(values), lineterminator='\n')
        if not self.path.exists():
            writer.writeheader()
        writer.writerow({k: f'{v:.6g}' for k, v in values.items()})
        with open(self.path, 'a', encoding='utf-8') as file:
            file.write(text.getvalue())


def all_finite(values: dict[str, float]) -> bool:
    """Return whether every value is a finite number."""
    return all(math.isfinite(value) for value in values.values())
