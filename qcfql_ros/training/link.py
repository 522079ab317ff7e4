# SPDX-License-Identifier: Apache-2.0
"""learner_node's end of the connection to its trainer process. Imports no torch."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from qcfql_ros.training.frames import Event, FrameReader, pack, pack_events

_CHUNK = 1 << 16


class TrainerLink:
    """A trainer process and the socket to it; nothing here ever waits for the trainer.

    What the trainer has not read yet is kept here, so a long update costs no step.
    """

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self.process = process
        self._channel = channel
        self._reader = FrameReader()
        self._pending: collections.deque[memoryview] = collections.deque()
        self._closed = False

    @classmethod
    def start(
        cls, arguments: Sequence[str], stderr: int | None = None, nice: int = 5
    ) -> TrainerLink:
        """Start ``python -m qcfql_ros.training.process`` with `arguments`.

        Args:
            arguments: of the trainer process, see ``--help`` there.
            stderr: file descriptor for its log; inherited when None.
            nice: priority below the control loop's.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        command = [sys.executable, '-m', 'qcfql_ros.training.process']
        command += ['--fd', str(theirs.fileno()), '--nice', str(nice), *arguments]
        process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env=dict(os.environ),
        )
        theirs.close()
        ours.setblocking(False)
        return cls(process, ours)

    @property
    def alive(self) -> bool:
        """Whether the trainer process runs."""
        return self.process.poll() is None

    @property
    def pending_bytes(self) -> int:
        """Bytes that the trainer has not taken yet."""
        return sum(len(view) for view in self._pending)

    def send_events(self, events: Sequence[Event]) -> None:
        """Hand over steps and segment ends; keeps them here while the trainer is busy."""
        if events:
            self._pending.append(memoryview(pack_events(events)))
        self._flush()

    def send(self, header: dict[str, Any]) -> None:
        """Hand over a command: ``{'kind': 'stop'}``."""
        self._pending.append(memoryview(pack(header)))
        self._flush()

    def _flush(self) -> None:
        while self._pending and not self._closed:
            view = self._pending[0]
            try:
                sent = self._channel.send(view[:_CHUNK])
            except BlockingIOError:
                return
            except OSError:
                self._closed = True
                return
            if sent == len(view):
                self._pending.popleft()
            else:
                self._pending[0] = view[sent:]

    def poll(self) -> list[dict[str, Any]]:
        """Return the messages that have come from the trainer.

        Kinds: ``status`` (updates, updates_per_s, steps, buffer, losses, ready), ``policy``
        (path, version, digest), ``error`` (text).
        """
        self._flush()
        messages = []
        while not self._closed:
            try:
                data = self._channel.recv(_CHUNK)
            except BlockingIOError:
                break
            except OSError:
                data = b''
            if not data:
                self._closed = True
                break
            messages += [header for header, _ in self._reader.push(data)]
        return messages

    def close(self, timeout_s: float = 20.0) -> None:
        """Ask for a checkpoint and the end, wait at most `timeout_s`, then kill."""
        self.send({'kind': 'stop'})
        deadline = time.monotonic() + timeout_s
        while self.alive and time.monotonic() < deadline:
            self.poll()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.02)
        if self.alive:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self._channel.close()
        self._closed = True
