# SPDX-License-Identifier: Apache-2.0
"""One writer on one buffer."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from qcfql_ros.errors import BagError, BufferBusyError

LOCK = '.lock'


class BufferLock:
    """Holds `folder` for this process until released, or until the process ends in any way.

    The file stays behind: removing it would let two processes lock two files of one name.

    Raises:
        BufferBusyError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise BagError(f'cannot record to {folder}: {error.strerror}') from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._handle, 32).decode(errors='replace').strip() or 'unknown'
            os.close(self._handle)
            self._handle = -1
            raise BufferBusyError(
                f'the buffer {folder} is being written by process {holder}; stop that learner '
                f'or give this one another run_dir'
            ) from error
        os.ftruncate(self._handle, 0)
        os.write(self._handle, f'{os.getpid()}\n'.encode())

    def release(self) -> None:
        """Let the next writer in. Safe to call twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
