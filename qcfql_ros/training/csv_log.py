# SPDX-License-Identifier: Apache-2.0
"""A CSV file of numbers that stays true when a run is killed and goes on."""

from __future__ import annotations

import csv
import io
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
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            writer.writeheader()
        writer.writerow({name: _cell(value) for name, value in values.items()})
        with open(self.path, 'a', encoding='utf-8') as file:
            file.write(text.getvalue())

    def resume(self, **counters: int) -> None:
        """Drop the rows that are further on than `counters`: that work will be done again.

        A last line that a kill left half-written goes too. A file with other columns, from
        another version of this package, is set aside under another name and a new one begun.
        """
        if not self.path.exists():
            return
        with open(self.path, newline='', encoding='utf-8') as file:
            header, *rows = csv.reader(file.read().splitlines(keepends=True)) or [[]]
        if tuple(header) != self.columns:
            aside = self._free_name()
            self.path.rename(aside)
            self._say(f'{self.path.name} has other columns than this version logs: now {aside}')
            return
        kept = [row for row in rows if self._is_within(row, counters)]
        if len(kept) < len(rows):
            text = io.StringIO()
            csv.writer(text, lineterminator='\n').writerows([header, *kept])
            replace_file(self.path, lambda path: path.write_text(text.getvalue(), 'utf-8'))

    def _is_within(self, row: list[str], counters: Mapping[str, int]) -> bool:
        if len(row) != len(self.columns):
            return False
        try:
            values = [float(row[self.columns.index(name)]) for name in counters]
        except ValueError:
            return False
        return all(value <= most for value, most in zip(values, counters.values(), strict=True))

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
