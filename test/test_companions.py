# SPDX-License-Identifier: Apache-2.0
"""Threads that share the interpreter's lock with a real-time thread have a priority too."""

import os
import subprocess
import sys
import threading

import pytest

from qcfql_ros.control.companions import Companions

pytestmark = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='Linux only')

RAISED = """
import os, threading
from qcfql_ros.control.realtime import RealtimeThread, RealtimeWishes

PRIORITY = 7
inside, leave = threading.Event(), threading.Event()
other = threading.Thread(target=leave.wait)
other.start()
warnings = []
seen = {}

def control():
    with RealtimeThread(RealtimeWishes(priority=PRIORITY), warnings.append) as thread:
        numbers = [threading.main_thread().native_id, other.native_id]
        reset = os.SCHED_RESET_ON_FORK
        seen['policies'] = {os.sched_getscheduler(n) & ~reset for n in numbers}
        seen['priorities'] = {os.sched_getparam(n).sched_priority for n in numbers}
        seen['raised'] = sorted(thread.companions.raised) == sorted(numbers)
    seen['after'] = {os.sched_getscheduler(n) & ~reset for n in numbers}

thread = threading.Thread(target=control)
thread.start()
thread.join()
leave.set()
if warnings:
    assert seen['policies'] == {os.SCHED_OTHER}, seen
else:
    assert seen['policies'] == {os.SCHED_FIFO}, seen
    assert seen['priorities'] == {PRIORITY - 1}, seen
    assert seen['raised'], seen
assert seen['after'] == {os.SCHED_OTHER}, seen
print('true')
"""


def test_they_are_raised_while_it_runs_and_put_back_after_it():
    """In a process of its own, which it changes; without permission nothing is changed."""
    ended = subprocess.run([sys.executable, '-c', RAISED], capture_output=True, text=True)
    assert (ended.stdout, ended.returncode) == ('true\n', 0), ended.stderr


def test_who_is_raised_and_how_far(monkeypatch):
    calls = []
    policies = {}

    def get(number):
        return policies.get(number, os.SCHED_OTHER)

    monkeypatch.setattr(os, 'sched_getscheduler', get)
    monkeypatch.setattr(
        os, 'sched_setscheduler', lambda n, policy, param: calls.append((n, param.sched_priority))
    )
    leave = threading.Event()
    threads = [threading.Thread(target=leave.wait, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        ours, own = (thread.native_id for thread in threads)
        policies[own] = os.SCHED_RR  # somebody gave it a priority of its own
        companions = Companions()
        companions.raise_below(1)
        assert calls == []  # there is none below
        companions.raise_below(30)
        assert (ours, 29) in calls
        assert own not in companions.raised
        assert threading.get_native_id() not in companions.raised
        calls.clear()
        raised = list(companions.raised)
        companions.put_back()
        assert calls == [(number, 0) for number in raised]
        assert companions.raised == []
    finally:
        leave.set()
