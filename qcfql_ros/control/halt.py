# SPDX-License-Identifier: Apache-2.0
"""The halt latch: once halted, nothing moves until somebody resumes, restarts included."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path


class HaltLatch:
    """Whether the robot may be driven, kept on disk.

    The file says `halted`, and `driving` from activation to a clean end: a process that finds
    `driving` at its start knows that the one before it ended uncleanly.

    Args:
        file: where to keep it; None keeps it in memory only.
        after_crash: of the contract. ``wait``: after a halt or an unclean end come up halted,
            until resumed. ``resume``: go on.

    Attributes:
        reason: why it is halted.
        disk_error: why the file could not be written, or ''; the latch holds in memory.
    """

    def __init__(self, file: Path | None, after_crash: str = 'wait') -> None:
        self.file = file
        self.reason = ''
        self.disk_error = ''
        self._lock = threading.Lock()
        self._halted = threading.Event()
        before = self._read()
        if after_crash == 'wait' and (before.get('halted') or before.get('driving')):
            unclean = 'the process before this one did not end cleanly'
            self.reason = str(before.get('reason') or unclean)
            self._halted.set()
        self._driving = False

    @property
    def halted(self) -> bool:
        """Whether it is latched; cheap, read every tick."""
        return self._halted.is_set()

    def halt(self, reason: str) -> None:
        """Latch. The flag is set before the disk is touched, which may be slow."""
        self._halted.set()
        self.reason = reason
        self._write()

    def resume(self) -> None:
        """Release."""
        self.reason = ''
        self._halted.clear()
        self._write()

    def driving(self, driving: bool) -> None:
        """Note that driving begins, or that it ended cleanly."""
        self._driving = driving
        self._write()

    def _read(self) -> dict:
        if self.file is None:
            return {}
        try:
            state = json.loads(self.file.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            state = None
        # A file that cannot be read is the trace of an unclean end, not of a clean one.
        return state if isinstance(state, dict) else {'driving': True}

    def _write(self) -> None:
        if self.file is None:
            return
        state = {'halted': self.halted, 'driving': self._driving, 'reason': self.reason}
        with self._lock:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                temporary = self.file.with_suffix('.tmp')
                with temporary.open('w') as stream:
                    json.dump(state, stream)
                    stream.flush()
                    os.fsync(stream.fileno())
                temporary.replace(self.file)
                self.disk_error = ''
            except OSError as error:  # a full disk must not stop the one who halts
                self.disk_error = f'{self.file}: cannot be written ({error})'
