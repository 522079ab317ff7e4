# SPDX-License-Identifier: Apache-2.0
"""Whatever is fed to a decoder: it returns, or a QcfqlError says why not; soon, and in memory.

The inputs of an ordinary run take some seconds. A full run, which also prints how many inputs
each decoder took and what came of them::

    QCFQL_FUZZ_INPUTS=120000 python -m pytest test/test_fuzz_decoders.py

A decoder is added by one line in ``fuzz_targets.py``. An input that takes 10 s of processor
time hangs, one that takes 2 s fails; a decoder's inputs together may not make the process larger
by 300 MB.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from collections import Counter

import numpy as np
import pytest
from fuzz_targets import FOLDER, TARGETS, Target
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from qcfql_ros.errors import QcfqlError

ORDINARY = 8_000
INPUTS = int(os.environ.get('QCFQL_FUZZ_INPUTS', ORDINARY))
LEAST = 20
HANG_S = 10.0
CPU_S = 2.0
GROWTH_KIB = 300 * 1024
SHARES = sum(target.share for target in TARGETS)
FOUND: dict[str, Counter[str]] = {}


class HangError(BaseException):
    """One input took too long; no `except Exception` of a decoder may swallow it."""


def _alarm(number, frame):
    raise HangError(f'an input takes longer than {HANG_S:g} s of processor time')


@pytest.fixture(scope='module', autouse=True)
def report(request):
    """Catch hangs, and print what came of all inputs at the end of a full run."""
    before = signal.signal(signal.SIGPROF, _alarm)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0.0)
    signal.signal(signal.SIGPROF, before)
    shutil.rmtree(FOLDER, ignore_errors=True)
    capture = request.config.pluginmanager.getplugin('capturemanager')
    if INPUTS > ORDINARY:
        with capture.global_and_fixture_disabled():
            print(table())
    else:
        print(table())


def table() -> str:
    """Return how many inputs each decoder took, and how many ended how."""
    lines = ['']
    for name, counts in FOUND.items():
        what = ', '.join(f'{kind} {count}' for kind, count in counts.most_common())
        lines.append(f'{name:36} {counts.total():7}  {what}')
    total = sum(FOUND.values(), Counter())
    lines.append(
        f'{"all":36} {total.total():7}  ' + ', '.join(f'{k} {n}' for k, n in total.items())
    )
    return '\n'.join(lines)


def feed(target: Target, inputs: int) -> Counter[str]:
    """Feed `inputs` inputs to `target`; return how many ended how.

    Raises:
        whatever is no QcfqlError.
    """
    counts: Counter[str] = Counter()

    @seed(0)
    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=(Phase.generate,) if inputs > 2_000 else (Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def run(value):
        signal.setitimer(signal.ITIMER_PROF, HANG_S, HANG_S)  # again, if it was swallowed
        begin = time.process_time()
        try:
            with np.errstate(over='ignore', invalid='ignore'):  # said once, then refused
                result = target.call(value)
            kind = result if isinstance(result, str) and result == 'refused' else 'ok'
        except QcfqlError as error:
            assert str(error).strip(), 'an error without a word'
            kind = type(error).__name__
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
        took = time.process_time() - begin
        assert took < CPU_S, f'{took:.1f} s of processor time for one input'
        counts[kind] += 1

    run()
    return counts


@pytest.mark.parametrize('target', TARGETS, ids=lambda target: target.name)
def test_only_errors_of_ours_come_out(target):
    inputs = max(LEAST, round(INPUTS * target.share / SHARES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    FOUND[target.name] = feed(target, inputs)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < GROWTH_KIB, f'{grown} KiB more memory after {inputs} inputs'


def crash(value):
    return value[7]


def hang(value):
    while True:
        pass


@pytest.mark.parametrize(('broken', 'wanted'), [(crash, IndexError), (hang, HangError)])
def test_a_decoder_that_crashes_or_hangs_is_caught(broken, wanted, monkeypatch):
    monkeypatch.setattr(f'{__name__}.HANG_S', 0.3)
    with pytest.raises(wanted):
        feed(Target('broken', broken, st.binary(max_size=9)), 50)
