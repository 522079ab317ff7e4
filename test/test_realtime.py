# SPDX-License-Identifier: Apache-2.0
"""What the operating system and the interpreter grant a control thread."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import threading

import pytest

from qcfql_ros.control import interpreter, realtime
from qcfql_ros.control.interpreter import QuietInterpreter
from qcfql_ros.control.realtime import RealtimeThread, RealtimeWishes, obtain, parse_cpus
from qcfql_ros.errors import ParameterError

MS = 1_000_000
linux_only = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='of Linux')


def in_thread(function):
    """Return what `function` returns in a thread of its own: what it asks for ends with it."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def grants(report):
    """Return name to grant."""
    return {grant.name: grant for grant in report.grants}


@linux_only
def test_without_wishes_only_what_anybody_may_have_is_asked_for():
    report = grants(in_thread(lambda: obtain(RealtimeWishes())))
    assert report['timer_slack'].got == '1 ns' or report['priority'].got != 'SCHED_OTHER'
    assert {name for name, grant in report.items() if grant.wanted} <= {
        'timer_slack',
        'time_slice',
    }
    assert not any(grant.why_not for grant in report.values())


@linux_only
@pytest.mark.skipif(os.sched_getscheduler(0) != os.SCHED_OTHER, reason='of SCHED_OTHER')
@pytest.mark.skipif(os.uname().machine not in ('x86_64', 'aarch64'), reason='of two machines')
def test_the_time_slice_is_asked_for_and_the_niceness_kept():
    """In a process of its own, which is niced."""
    code = (
        'from qcfql_ros.control.realtime import RealtimeWishes, obtain\n'
        'import os\n'
        'os.nice(3)\n'
        "slice = next(g for g in obtain(RealtimeWishes()).grants if g.name == 'time_slice')\n"
        "print(slice.wanted, '|', slice.why_not, '|', os.getpriority(os.PRIO_PROCESS, 0))\n"
    )
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert ended.stdout == f'100000 ns |  | {os.getpriority(os.PRIO_PROCESS, 0) + 3}\n'


@linux_only
def test_processors_are_those_asked_for_and_of_this_thread_alone():
    allowed = sorted(os.sched_getaffinity(0))
    report = in_thread(lambda: obtain(RealtimeWishes(cpu_affinity=f' {allowed[-1]} ')))
    assert grants(report)['cpu_affinity'].got == str(allowed[-1])
    assert not report.refused
    assert sorted(os.sched_getaffinity(0)) == allowed


@linux_only
def test_a_processor_that_does_not_exist_is_refused_with_the_reason():
    report = in_thread(lambda: obtain(RealtimeWishes(cpu_affinity='100000')))
    (grant,) = report.refused
    assert grant.name == 'cpu_affinity'
    assert 'Invalid argument' in grant.why_not
    assert grant.got == ','.join(map(str, sorted(os.sched_getaffinity(0))))


@pytest.mark.parametrize('text', ['a', '1;2', '-1', '1,,2', '²'])
def test_processors_that_are_no_numbers_are_an_error(text):
    with pytest.raises(ParameterError, match='cpu_affinity'):
        RealtimeWishes(cpu_affinity=text)


def test_processors_are_numbers_between_commas():
    assert parse_cpus(' 3, 2,3') == {2, 3}
    assert parse_cpus('  ') == frozenset()


@linux_only
def test_what_the_system_forbids_is_said_in_its_words(monkeypatch):
    def forbidden(*_):
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr(os, 'sched_setscheduler', forbidden)
    monkeypatch.setattr(realtime, '_unlimited_locks', lambda: False)
    report = in_thread(lambda: obtain(RealtimeWishes(priority=70, lock_memory=True)))
    priority, lock = report.refused
    assert 'SCHED_FIFO 70' in str(priority)
    assert 'Operation not permitted' in str(priority)
    assert 'rtprio' in str(priority)
    assert 'locked memory is limited' in str(lock)


@linux_only
def test_what_is_allowed_is_read_back_and_what_is_not_is_not_claimed():
    """In a process of its own, which it changes: whatever this user may do, the report is true."""
    code = (
        'from qcfql_ros.control.realtime import RealtimeWishes, obtain\n'
        'import os\n'
        'report = obtain(RealtimeWishes(priority=3, lock_memory=True))\n'
        'grants = {g.name: g for g in report.grants}\n'
        'fifo = os.sched_getscheduler(0) == os.SCHED_FIFO\n'
        "assert (grants['priority'].got == 'SCHED_FIFO 3') == fifo, report\n"
        "assert bool(grants['priority'].why_not) != fifo, report\n"
        "locked = grants['lock_memory'].got != '0 kB locked'\n"
        "assert bool(grants['lock_memory'].why_not) != locked, report\n"
        "print('true')\n"
    )
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (ended.stdout, ended.returncode) == ('true\n', 0), ended.stderr


@linux_only
def test_locked_memory_with_a_limit_is_refused_rather_than_a_later_allocation(monkeypatch):
    monkeypatch.setattr(resource, 'getrlimit', lambda which: (8 << 20, 8 << 20))
    monkeypatch.setattr(realtime, '_status', lambda key: '0 kB' if key == 'VmLck' else '0')
    (grant,) = in_thread(lambda: obtain(RealtimeWishes(lock_memory=True))).refused
    assert 'memlock' in grant.why_not


def test_elsewhere_everything_is_said_to_be_not_available(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'darwin')
    report = obtain(RealtimeWishes(priority=1))
    assert [grant.got for grant in report.grants] == ['not available'] * 5
    assert [grant.name for grant in report.refused] == [
        'timer_slack',
        'time_slice',
        'priority',
    ]


def test_a_thread_warns_of_each_refusal_and_leaves_the_interpreter_as_it_was(monkeypatch):
    refused = realtime.Grant('priority', 'SCHED_FIFO 9', 'SCHED_OTHER', 'no')
    report = realtime.RealtimeReport((refused,))
    monkeypatch.setattr(realtime, 'obtain', lambda wishes: report)
    warnings = []
    before, frozen = (sys.getswitchinterval(), gc.isenabled()), gc.get_freeze_count()
    with RealtimeThread(RealtimeWishes(), warnings.append) as thread:
        assert thread.report is report
        assert not gc.isenabled()
        assert gc.get_freeze_count() > frozen
        assert sys.getswitchinterval() == pytest.approx(interpreter.SWITCH_INTERVAL_S)
        thread.tick_begins()
        assert sys.getswitchinterval() == pytest.approx(interpreter.TICK_SWITCH_INTERVAL_S)
        thread.tick_ended(-1, True)
        assert sys.getswitchinterval() == pytest.approx(interpreter.SWITCH_INTERVAL_S)
    assert warnings == ['priority: wanted SCHED_FIFO 9, got SCHED_OTHER (no)']
    assert (sys.getswitchinterval(), gc.isenabled()) == before
    assert gc.get_freeze_count() <= frozen  # those of Python's own start may be among them


@pytest.fixture
def quiet(monkeypatch):
    """Return an interpreter whose collections are noted, as if each left 1000 new objects."""
    collected = []
    monkeypatch.setattr(gc, 'get_count', lambda: (quiet_counts[0], 0, 0))
    monkeypatch.setattr(gc, 'collect', lambda generation=2: collected.append(generation))
    quiet_counts = [1000]
    made = QuietInterpreter()
    made._threshold = 700
    made.counts, made.collected = quiet_counts, collected
    collected.clear()
    return made


def test_nothing_is_collected_before_the_threshold_or_without_time(quiet):
    quiet.tick_ended(100_000, True)
    assert quiet.collected == []
    quiet.counts[0] = 10
    quiet.tick_ended(1000 * MS, True)
    assert quiet.collected == []


def test_young_objects_are_collected_where_there_is_time_and_older_ones_now_and_then(quiet):
    for _ in range(200):
        quiet.tick_ended(1000 * MS, True)
    assert quiet.collected.count(0) > 10 * quiet.collected.count(2) > 0
    assert quiet.collected.count(1) >= quiet.collected.count(2)
    assert quiet.collections == [quiet.collected.count(generation) for generation in range(3)]


def test_an_old_collection_is_left_out_where_only_a_young_one_fits(quiet):
    for _ in range(20):
        quiet.tick_ended(2 * MS, True)
    assert quiet.collected == [0] * 20


def test_what_has_been_due_for_long_is_collected_whatever_the_time(quiet):
    quiet.counts[0] = 100_000
    quiet.tick_ended(0, True)
    assert (quiet.collected, quiet.forced) == ([0], 1)


def test_between_episodes_there_is_time_for_everything(quiet):
    for _ in range(100):
        quiet.tick_ended(1, False)
    assert set(quiet.collected) == {0, 1, 2}


def test_cycles_made_in_ticks_are_freed(monkeypatch):
    class Cycle:
        alive = 0

        def __init__(self):
            Cycle.alive += 1
            self.me = self

        def __del__(self):
            Cycle.alive -= 1

    with QuietInterpreter() as quiet:
        for _ in range(20_000):
            Cycle()
            quiet.tick_ended(1000 * MS, True)
        assert Cycle.alive < 2000
        assert sum(quiet.collections) > 10
