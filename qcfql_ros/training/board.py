# SPDX-License-Identifier: Apache-2.0
"""The rows of a log for TensorBoard, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Board:
    """Writes scalars as TensorBoard events.

    Args:
        folder: of the event files, made by the first scalar; None writes nothing.
        resumed_at: step that a resumed run stands at: later events of an earlier process are
            not shown.
        say: told once, if TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None, resumed_at: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._resumed_at = resumed_at
        self._writer: Any = None
        if folder is None:
            return
        try:
            import torch.utils.tensorboard  # noqa: F401  half a second, not in the first row
        except ImportError:
            self._folder = None
            say('TensorBoard is not installed (pip install tensorboard): the log is CSV only')

    def write(self, values: Mapping[str, float], step: int, prefix: str = '') -> None:
        """Add one point to the curve of each value."""
        if self._folder is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            purge = self._resumed_at + 1
            self._writer = SummaryWriter(str(self._folder), purge_step=purge)
        for name, value in values.items():
            self._writer.add_scalar(f'{prefix}{name}', value, step)
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
