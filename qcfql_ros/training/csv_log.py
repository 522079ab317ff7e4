# SPDX-License-Identifier: Apache-2.0
"""A CSV file of numbers that stays true when a run is killed and goes on."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qcfql_ros.training.durable_file import replace_file, sync_file


class CsvLog:
    """Appends rows to a CSV file; a number that a row does not have is an empty cell.

    Args:
        path: of the file, made by the first row.
        columns: of every row, the counters first.
        say: takes a line for a person.
    """

    def __init__(self, path: Path, columns: Sequence[str], say: Callable[[str], None]) -> None:
        self.path = path
        self.columns = tuple(columns)
        self._say = say

    def row(self, values: Mapping[str, float]) -> None:
        """Append one row; raises ValueError for a name that is no column."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator='\n')
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, 'a+b') as file:
            if not (size := file.seek(0, os.SEEK_END)):
                writer.writeheader()
            elif file.seek(size - 1) and file.read() != b'\n':
                text.write('\n')  # behind a row that a full disk cut
            writer.writerow({name: _cell(value) for name, value in values.items()})
            file.write(text.getvalue().encode())

    def resume(self, **counters: int) -> None:
        """Drop the rows that are further on than `counters`: that work will be done again.

        Lines that a kill or a loss of power left half-written or garbled go too. A file with
        other columns, from another version of this package, or whose first line cannot be read
        is set aside under another name and a new one begun.
        """
        if not self.path.exists() or not self.path.stat().st_size:
            return
        text = self.path.read_bytes().decode(errors='replace')
        header, *lines = text.split('\n')  # numbers alone: no cell is quoted
        if tuple(header.rstrip('\r').split(',')) != self.columns:
            aside = self._free_name()
            self.path.rename(aside)
            self._say(f'{self.path.name} has other columns than this version logs: now {aside}')
            return
        whole = lines[:-1]  # what follows the last newline was cut
        kept = [line for line in whole if self._is_within(line.split(','), counters)]
        if len(kept) < len(lines) - 1 or lines[-1:] != ['']:
            true = '\n'.join([header, *kept, ''])
            replace_file(self.path, lambda path: path.write_text(true, 'utf-8'))

    def _is_within(self, row: list[str], counters: Mapping[str, int]) -> bool:
        if len(row) != len(self.columns):
            return False
        try:
            numbers = [float(cell or 'nan') for cell in row]
        except ValueError:
            return False
        values = dict(zip(self.columns, numbers, strict=True))
        return all(values[name] <= most for name, most in counters.items())

    def _free_name(self) -> Path:
        number = 1
        while (path := self.path.with_stem(f'{self.path.stem}_{number}')).exists():
            number += 1
        return path

    def sync(self) -> None:
        """Wait until the rows are on the disk: before a state that they lead up to."""
        if self.path.exists():
            sync_file(self.path)


def _cell(value: float) -> str:
    """Return whole numbers in full, others with six digits."""
    whole = float(value).is_integer() and abs(value) < 1e15
    return f'{value:.0f}' if whole else f'{value:.6g}'
