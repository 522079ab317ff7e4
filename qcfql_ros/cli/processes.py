# SPDX-License-Identifier: Apache-2.0
"""Child processes that always end: in order, with a log each, never as orphans."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcfql_ros.errors import QcfqlError

# Becomes the command, having asked the kernel for SIGTERM when the parent dies. A preexec_fn
# would do it too, but is not safe in a process that has threads, and DDS starts some.
_GUARD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]): sys.exit(143)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""
LOG_LINES = 12


class ProcessError(QcfqlError):
    """A child process ended by itself.

    Attributes:
        name: of the child.
        status: its exit status, negative for a signal; 2 means that the user can change something.
    """

    def __init__(self, name: str, status: int, log: Path, tail: Sequence[str]) -> None:
        self.name = name
        self.status = status
        how = f'signal {signal.Signals(-status).name}' if status < 0 else f'exit status {status}'
        if status == 2 and tail:
            super().__init__(tail[-1].removeprefix('qcfql: '))
        else:
            lines = ''.join(f'\n    {line}' for line in tail)
            super().__init__(f'{name} ended with {how}; its log, {log}, ends with:{lines}')


@dataclass(frozen=True)
class Child:
    """One running process and where its output goes."""

    process: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = LOG_LINES) -> list[str]:
        """Return the last lines of the log that are not empty."""
        text = self.log.read_text(encoding='utf-8', errors='replace')
        return [line for line in text.splitlines() if line.strip()][-lines:]


class Processes:
    """Named child processes, each in a session of its own with a log file.

    Args:
        log_folder: made if missing; a child's output goes to ``<name>.log`` in it.
        environment: of the children; None takes this process's at each start.
        pass_fds: descriptors that the children inherit.
    """

    def __init__(
        self,
        log_folder: Path,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.log_folder = log_folder
        self._environment = environment
        self._pass_fds = tuple(pass_fds)
        self._children: dict[str, Child] = {}
        log_folder.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[str]) -> int:
        """Start `command` as child `name` and return its process id.

        Call it from the main thread: the kernel ties the child's life to the thread.
        A child of that name that has ended is replaced, and its log continued.
        """
        if self.alive(name):
            raise ValueError(f'child {name!r} is running already')
        log = self.log_folder / f'{name}.log'
        guard = [sys.executable, '-I', '-S', '-c', _GUARD, str(os.getpid()), *command]
        with open(log, 'ab') as output:
            process = subprocess.Popen(
                guard,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if self._environment is None else dict(self._environment),
                start_new_session=True,
                pass_fds=self._pass_fds,
            )
        self._children[name] = Child(process, log)
        return process.pid

    def alive(self, name: str) -> bool:
        """Whether child `name` was started and runs."""
        child = self._children.get(name)
        return child is not None and child.process.poll() is None

    def pid(self, name: str) -> int:
        """Return the process id of child `name`."""
        return self._children[name].process.pid

    def status(self, name: str) -> int | None:
        """Exit status of child `name`, negative for a signal; None while it runs."""
        return self._children[name].process.poll()

    def tail(self, name: str, lines: int = LOG_LINES) -> list[str]:
        """Return the last lines of a child's log that are not empty."""
        return self._children[name].tail(lines)

    def check(self, *names: str) -> None:
        """Raise ProcessError if one of the named children (all, by default) has ended."""
        for name in names or tuple(self._children):
            child = self._children[name]
            status = child.process.poll()
            if status is not None:
                raise ProcessError(name, status, child.log, child.tail())

    def signal(self, name: str, number: int) -> None:
        """Send a signal to child `name`; one that has ended is left alone."""
        if self.alive(name):
            with contextlib.suppress(ProcessLookupError):
                self._children[name].process.send_signal(number)

    def wait(self, name: str, timeout_s: float) -> int | None:
        """Wait for child `name` to end; return its status, or None when the time is up."""
        try:
            return self._children[name].process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, *names: str, timeout_s: float = 10.0) -> dict[str, int]:
        """End children together: SIGINT, after `timeout_s` SIGTERM, 3 s later SIGKILL.

        Args:
            names: which ones; none means all, one after the other, the last started first.
            timeout_s: how long each of the two gets for an orderly end.

        Returns:
            the exit status of each; -9 means that it did not end in time.
        """
        statuses: dict[str, int] = {}
        if not names:
            for name in reversed(tuple(self._children)):
                statuses |= self.stop(name, timeout_s=timeout_s)
            return statuses
        for number, patience_s in ((signal.SIGINT, timeout_s), (signal.SIGTERM, 3.0)):
            for name in names:
                self.signal(name, number)
            deadline = time.monotonic() + patience_s
            for name in names:
                self.wait(name, max(0.0, deadline - time.monotonic()))
        for name in names:
            process = self._children[name].process
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # its own children too, if any are left
            statuses[name] = process.wait()
        return statuses
