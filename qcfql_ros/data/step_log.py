# SPDX-License-Identifier: Apache-2.0
"""``steps.csv``: a digest of every step as it went into the buffer.

Reading the bag again must give the same rows; a test, or anybody in doubt, can hold them together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from qcfql_ros.data.steps import SegmentEnd, Step, step_digest
from qcfql_ros.errors import BagError

HEAD = 'stamp_ns,segment,digest\n'


class StepLog:
    """Appends to `path`; segments are counted on from what is there.

    A disk that fails later ends this log, not the recording that it is a witness of.

    Attributes:
        failed: why nothing more is logged; empty while all is well.

    Raises:
        BagError: the file cannot be opened.
    """

    failed = ''

    def __init__(self, path: Path) -> None:
        try:
            rows = path.read_text().splitlines() if path.exists() else []
            self._segment = int(rows[-1].split(',')[1]) + 1 if len(rows) > 1 else 0
            self._stream = path.open('a')
        except (OSError, ValueError, IndexError) as error:
            raise BagError(f'cannot go on with {path}: {error}; move it away') from error
        self._lines = deque([] if rows else [HEAD])

    def add(self, events: Iterable[Step | SegmentEnd]) -> None:
        """Log the steps among `events`; on disk after the next `flush`."""
        for event in events:
            if isinstance(event, SegmentEnd):
                self._segment += 1
            else:
                self._lines.append(f'{event.stamp_ns},{self._segment},{step_digest(event)}\n')

    def flush(self) -> None:
        """Hand what was logged to the operating system; any one thread may do that."""
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        self._try(lambda: self._stream.writelines(lines))
        self._try(self._stream.flush)

    def close(self) -> None:
        """Write the rest and close the file."""
        self.flush()
        self._try(self._stream.close)

    def _try(self, action: Callable[[], object]) -> None:
        if not self.failed:
            try:
                action()
            except OSError as error:
                self.failed = f'steps.csv: {error}'
