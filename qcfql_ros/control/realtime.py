# SPDX-License-Identifier: Apache-2.0
"""Asks the operating system for what a control thread wants, and says what it got.

::

    report = obtain(RealtimeWishes(priority=80, cpu_affinity='2,3', lock_memory=True))
    for grant in report.grants:
        print(grant)   # priority: wanted SCHED_FIFO 80, got SCHED_OTHER (Operation not ...)

Everything but the locked memory holds for the calling thread alone. Nothing here is an error: a
robot that is allowed none of it still runs, only later at times.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qcfql_ros.control.companions import Companions
from qcfql_ros.control.interpreter import QuietInterpreter
from qcfql_ros.errors import ParameterError

_PR_SET_TIMERSLACK = 29  # linux/prctl.h
_PR_GET_TIMERSLACK = 30
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # bits/mman-linux.h
_CAP_IPC_LOCK = 14  # linux/capability.h
_SYS_SCHED = {'x86_64': (314, 315), 'aarch64': (274, 275)}  # sched_setattr, sched_getattr
TIMER_SLACK_NS = 1
TIME_SLICE_NS = 100_000  # the shortest that Linux grants


@dataclass(frozen=True)
class RealtimeWishes:
    """What to ask for.

    Attributes:
        priority: of SCHED_FIFO, 1 to 99; 0 does not ask.
        cpu_affinity: processors as '2,3'; empty does not ask.
        lock_memory: keep every page that is once in memory there, for the whole process.
    """

    priority: int = 0
    cpu_affinity: str = ''
    lock_memory: bool = False

    def __post_init__(self) -> None:
        """Raise ParameterError for processors that are no numbers."""
        parse_cpus(self.cpu_affinity)


@dataclass(frozen=True)
class Grant:
    """One wish and what came of it.

    Attributes:
        name: `timer_slack`, `time_slice`, `cpu_affinity`, `priority` or `lock_memory`.
        wanted: in words; empty if not asked for.
        got: in words, read back from the system.
        why_not: the system's words and what would help; empty if granted or not asked for.
    """

    name: str
    wanted: str
    got: str
    why_not: str = ''

    def __str__(self) -> str:
        """Return a line for a log."""
        wanted = f'wanted {self.wanted}, got' if self.wanted else 'not asked for;'
        return f'{self.name}: {wanted} {self.got}' + (f' ({self.why_not})' if self.why_not else '')


@dataclass(frozen=True)
class RealtimeReport:
    """All grants, in the order they were asked for."""

    grants: tuple[Grant, ...]

    @property
    def refused(self) -> tuple[Grant, ...]:
        """What was asked for and not obtained."""
        return tuple(grant for grant in self.grants if grant.why_not)

    def __str__(self) -> str:
        """Return one line."""
        return '; '.join(str(grant) for grant in self.grants)


def parse_cpus(text: str) -> frozenset[int]:
    """Return the processors in '2,3'; an empty text has none.

    Raises:
        ParameterError: something else than numbers and commas.
    """
    words = [word.strip() for word in text.split(',')] if text.strip() else []
    if not all(word.isascii() and word.isdigit() for word in words):
        raise ParameterError(f"parameter cpu_affinity is {text!r}; wanted numbers as in '2,3'")
    return frozenset(int(word) for word in words)


def obtain(wishes: RealtimeWishes) -> RealtimeReport:
    """Ask for `wishes` in the calling thread.

    What anybody may have is asked for in any case: the shortest timer slack, and the shortest
    time slice. With that a thread under SCHED_OTHER that wakes up goes before those that compute,
    instead of waiting until their slices are over (Linux 6.12 and later).
    """
    cpus = parse_cpus(wishes.cpu_affinity)
    if not sys.platform.startswith('linux'):
        return RealtimeReport(_not_available(wishes))
    return RealtimeReport(
        (
            _timer_slack(),
            _time_slice(),
            _affinity(cpus),
            _priority(wishes.priority),
            _lock_memory(wishes.lock_memory),
        )
    )


class RealtimeThread:
    """The surroundings of a control thread: its wishes, and an interpreter that lets it be.

    With a priority of SCHED_FIFO the other Python threads get the one below it; see `Companions`.

    Args:
        wishes: see there.
        warn: told each wish that was refused.

    Attributes:
        report: what was obtained; None before the thread began.
        interpreter: counts the collections.
        companions: the other Python threads that were raised with it.
    """

    def __init__(self, wishes: RealtimeWishes, warn: Callable[[str], object]) -> None:
        self._wishes = wishes
        self._warn = warn
        self.report: RealtimeReport | None = None
        self.interpreter = QuietInterpreter()
        self.companions = Companions()
        self.tick_begins = self.interpreter.tick_begins
        self.tick_ended = self.interpreter.tick_ended

    def __enter__(self) -> RealtimeThread:
        self.report = obtain(self._wishes)
        for grant in self.report.refused:
            self._warn(str(grant))
        if self._wishes.priority and not any(g.name == 'priority' for g in self.report.refused):
            try:
                self.companions.raise_below(self._wishes.priority)
            except OSError as error:
                self._warn(f'priority: the other threads keep theirs ({error.strerror})')
        self.interpreter.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.interpreter.__exit__(*error)
        self.companions.put_back()


def _not_available(wishes: RealtimeWishes) -> tuple[Grant, ...]:
    wanted = {
        'timer_slack': f'{TIMER_SLACK_NS} ns',
        'time_slice': f'{TIME_SLICE_NS} ns',
        'cpu_affinity': wishes.cpu_affinity,
        'priority': f'SCHED_FIFO {wishes.priority}' if wishes.priority else '',
        'lock_memory': 'locked' if wishes.lock_memory else '',
    }
    why_not = f'on {sys.platform}'
    return tuple(
        Grant(name, wish, 'not available', why_not if wish else '')
        for name, wish in wanted.items()
    )


def _attempt(name: str, wanted: str, ask: Callable[[], object], got: Callable[[], str], hint: str):
    """Ask, if anything is wanted, and read back what is there now."""
    why_not = ''
    if wanted:
        try:
            ask()
        except OSError as error:
            why_not = f'{error.strerror}; {hint}' if hint else str(error.strerror)
    return Grant(name, wanted, got(), why_not)


def _libc_call(name: str, *arguments: int) -> int:
    """Call a function of the C library; raise OSError with errno where it returns -1."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(getattr(libc, name)(*(ctypes.c_ulong(argument) for argument in arguments)))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _timer_slack() -> Grant:
    return _attempt(
        'timer_slack',
        f'{TIMER_SLACK_NS} ns',
        lambda: _libc_call('prctl', _PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0),
        lambda: f'{_libc_call("prctl", _PR_GET_TIMERSLACK, 0, 0, 0, 0)} ns',
        '',
    )


class _SchedAttr(ctypes.Structure):
    """Of linux/sched/types.h, first version; only the fields of SCHED_OTHER are named."""

    _fields_ = (
        ('size', ctypes.c_uint32),
        ('policy', ctypes.c_uint32),
        ('flags', ctypes.c_uint64),
        ('nice', ctypes.c_int32),
        ('priority', ctypes.c_uint32),
        ('runtime', ctypes.c_uint64),
        ('rest', ctypes.c_uint64 * 2),
    )


def _time_slice() -> Grant:
    calls = _SYS_SCHED.get(os.uname().machine)
    if calls is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return Grant('time_slice', '', 'of SCHED_OTHER on x86_64 and aarch64 only')
    size = ctypes.sizeof(_SchedAttr)

    def ask() -> None:
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        attr = _SchedAttr(size=size, policy=os.SCHED_OTHER, nice=nice, runtime=TIME_SLICE_NS)
        _libc_call('syscall', calls[0], 0, ctypes.addressof(attr), 0)

    def got() -> str:
        attr = _SchedAttr()
        _libc_call('syscall', calls[1], 0, ctypes.addressof(attr), size, 0)
        return f'{attr.runtime} ns'

    return _attempt('time_slice', f'{TIME_SLICE_NS} ns', ask, got, '')


def _affinity(cpus: frozenset[int]) -> Grant:
    return _attempt(
        'cpu_affinity',
        _cpu_text(cpus),
        lambda: os.sched_setaffinity(0, cpus),
        lambda: _cpu_text(os.sched_getaffinity(0)),
        f'this process may use {_cpu_text(os.sched_getaffinity(0))}',
    )


def _cpu_text(cpus: frozenset[int] | set[int]) -> str:
    return ','.join(str(cpu) for cpu in sorted(cpus))


def _priority(priority: int) -> Grant:
    def got() -> str:
        names = {os.SCHED_OTHER: 'SCHED_OTHER', os.SCHED_FIFO: 'SCHED_FIFO'}
        policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        name = names.get(policy, f'policy {policy}')
        return f'{name} {os.sched_getparam(0).sched_priority}' if policy else name

    return _attempt(
        'priority',
        f'SCHED_FIFO {priority}' if priority else '',
        lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority)),
        got,
        "needs an 'rtprio' line in /etc/security/limits.conf, or CAP_SYS_NICE",
    )


def _lock_memory(wanted: bool) -> Grant:
    def ask() -> None:
        # With a limit the call itself may pass, and a later allocation fail.
        if not _unlimited_locks():
            raise PermissionError(1, 'locked memory is limited')
        _libc_call('mlockall', _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)

    return _attempt(
        'lock_memory',
        'locked' if wanted else '',
        ask,
        lambda: f'{_status("VmLck").split()[0]} kB locked',
        "needs a 'memlock unlimited' line in /etc/security/limits.conf, or CAP_IPC_LOCK",
    )


def _unlimited_locks() -> bool:
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    capable = int(_status('CapEff'), 16) >> _CAP_IPC_LOCK & 1
    return limit == resource.RLIM_INFINITY or bool(capable)


def _status(key: str) -> str:
    """Return a line of ``/proc/self/status`` without its key."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{key}:'):
            return line.split(':', 1)[1].strip()
    return '0'
