# SPDX-License-Identifier: Apache-2.0
"""The halt latch: once halted, nothing moves until somebody resumes, restarts included."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from urllib.parse import quote

from qcfql_ros.errors import ParameterError

FOLDER = 'qcfql_ros'  # in ROS_HOME


def latch_file(state_dir: str, namespace: str, contract: str, after_crash: str) -> Path | None:
    """Return where the latch of one robot is kept, the same in every run; None is in memory only.

    Args:
        state_dir: folder given by the user; empty takes ``qcfql_ros`` in ``$ROS_HOME``, which is
            ``~/.ros`` where not set.
        namespace: of the node, as ``/arm/left``.
        contract: its name.
        after_crash: of the contract. With ``resume``, which is for simulators, nothing is kept
            without a `state_dir`: any number of them run under one user and none is to wait for
            what another one left.

    Raises:
        ParameterError: there is no home folder, and no other one was given.
    """
    if state_dir:
        folder = Path(os.path.expanduser(state_dir))
    elif after_crash == 'resume':
        return None
    else:
        home = os.environ.get('ROS_HOME') or os.path.expanduser('~/.ros')
        if home.startswith('~'):
            raise ParameterError(
                'parameter state_dir is empty, and no home folder is known to keep the halt latch '
                'in; give -p state_dir:=... or set ROS_HOME'
            )
        folder = Path(home) / FOLDER
    robot = namespace.strip('/').replace('/', '.') or 'root'
    return folder / f'{robot}_{quote(contract, safe="")}.json'


class HaltLatch:
    """Whether the robot may be driven, kept on disk.

    The file says `halted`, and `driving` from activation to a clean end: a process that finds
    `driving` at its start knows that the one before it ended uncleanly.

    Args:
        file: where to keep it; None keeps it in memory only.
        after_crash: of the contract. ``wait``: come up halted after an unclean end, and where
            the file cannot be written, until resumed. ``resume``: go on. A halt that was asked
            for holds with either.

    Attributes:
        reason: why it is halted.
        halts: how often it was since the process began.
        disk_error: why the file could not be written, or ''; the latch holds in memory.
    """

    def __init__(self, file: Path | None, after_crash: str = 'wait') -> None:
        self.file = file
        self.reason = ''
        self.halts = 0
        self.disk_error = ''
        self._lock = threading.Lock()
        self._halted = threading.Event()
        self._driving = False
        before = self._read()
        waits = after_crash == 'wait'
        if before.get('halted') or (waits and before.get('driving')):
            unclean = 'the process before this one did not end cleanly'
            self.reason = str(before.get('reason') or unclean)
            self._halted.set()
        self._write()
        if self.disk_error and waits and not before.get('halted'):
            self.reason = f'whether the robot was halted is not known: {self.disk_error}'
            self._halted.set()

    @property
    def halted(self) -> bool:
        """Whether it is latched; cheap, read every tick."""
        return self._halted.is_set()

    def halt(self, reason: str, wait: bool = True) -> None:
        """Latch. The flag is set before the disk is touched, which may be slow.

        Args:
            reason: for people.
            wait: until it is on disk; False leaves that to a thread, for the control thread.
        """
        self.halts += not self.halted
        self.reason = reason
        self._halted.set()
        if wait:
            self._write()
        else:
            threading.Thread(target=self._write, name='halt', daemon=True).start()

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
        with self._lock:
            state = {'halted': self.halted, 'driving': self._driving, 'reason': self.reason}
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
