# SPDX-License-Identifier: Apache-2.0
"""``steps.csv``: a digest of every step as it went into the buffer.

Reading the bag again must give the same rows; a test, or anybody in doubt, can hold them together.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from qcfql_ros.data.steps import SegmentEnd, Step, step_digest
from qcfql_ros.errors import BagError

HEAD = 'stamp_ns,segment,digest\n'


class StepLog:
    """Appends to `path`; segments are counted on from what is there.

    A disk that refuses delays this log, not the recording that it is a witness of.

    Attributes:
        failed: why what was logged is not in the file; empty while all is well.

    Raises:
        BagError: the file cannot be opened.
    """

    failed = ''

    def __init__(self, path: Path) -> None:
        try:
            rows = path.read_text().splitlines() if path.exists() else []
            self._segment = int(rows[-1].split(',')[1]) + 1 if len(rows) > 1 else 0
            self._stream = path.open('ab', buffering=0)
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
        """Hand what was logged to the operating system, whole lines; any one thread may do that.

        What the disk refuses is tried again the next time.
        """
        if self._stream.closed:
            return
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        data = memoryview(''.join(lines).encode())
        size = 0
        try:
            size = self._stream.seek(0, os.SEEK_END)
            while data:
                data = data[self._stream.write(data) :]
            self.failed = ''
        except OSError as error:
            with suppress(OSError):
                self._stream.truncate(size)
            self._lines.extendleft(reversed(lines))
            self.failed = f'steps.csv: {error}'

    def close(self) -> None:
        """Write the rest and close the file."""
        self.flush()
        with suppress(OSError):
            self._stream.close()
