# SPDX-License-Identifier: Apache-2.0
"""What making steps of a bag of others takes in memory is not more than what was said before."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from recorded_ticks import EMPTY, JOINTS, header
from teleoperation_script import MS, PERIOD, START, Script, T, contract_of

from qcfql_ros.data.reader import Part
from qcfql_ros.data.teleoperation import teleoperation_blocks
from qcfql_ros.data.teleoperation_memory import bytes_taken

NAMES = [f'joint_{number}' for number in range(20)]
AT_ONCE = 100  # ticks


def wide(data, grid):
    """Observe twenty joints."""
    data['features']['observation.state'][0]['names'] = NAMES
    data['recordings']['grid'] = grid


class Drive:
    """A bag of many ticks that is made while it is read.

    Args:
        ticks: of it.
        doubled: its first messages come twice, so that none of its series is in order.
    """

    path = Path('drive')

    def __init__(self, ticks: int, doubled: bool) -> None:
        self._ticks, self._doubled = ticks, doubled

    def parts(self):
        script = Script()
        script.event(-MS, 'start')
        yield Part(list(script.messages), 0)
        numbers = np.full(len(NAMES), 0.5)
        joints = T[JOINTS](header(START), NAMES, numbers, EMPTY, EMPTY)
        script.messages.clear()
        for at in (-35, -20, -5):
            script.add('/joint_states', JOINTS, joints, at * MS)
        script.twist(0, 0.3)
        script.hand(MS, 0.1)
        again = script.messages if self._doubled else []
        for first in range(0, self._ticks, AT_ONCE):
            ticks = range(first, first + AT_ONCE)
            messages = [later(m, tick * PERIOD) for tick in ticks for m in script.messages]
            yield Part([*again, *messages], 0)
            again = []


def later(message, ns):
    """Return the message as it is sent later, with its stamp if it has one."""
    data = message.data
    if message.topic != '/hand':
        stamp = struct.pack('<iI', *divmod(message.receive_ns - 2 * MS + ns, 10**9))
        data = data[:4] + stamp + data[12:]
    return message._replace(receive_ns=message.receive_ns + ns, data=data)


def peak_of(reader, contract) -> tuple[int, int]:
    """Return the steps of a bag, and the bytes that were in use at most while they were made."""
    tracemalloc.start()
    try:
        steps = sum(len(block) for block in teleoperation_blocks(reader, contract))
        return steps, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('doubled', [False, True])
@pytest.mark.parametrize('grid', ['commands', 'period'])
def test_what_is_said_bounds_what_is_taken_and_grows_as_it_does(grid, doubled, tmp_path):
    contract = contract_of(tmp_path, lambda data: wide(data, grid))
    said, taken = [], []
    for ticks in (8000, 16000):
        reader = Drive(ticks, doubled)
        said.append(bytes_taken(reader, contract))
        steps, peak = peak_of(reader, contract)
        assert steps >= ticks - 2
        taken.append(peak)
    assert said[0] >= taken[0] and said[1] >= taken[1]
    more = said[1] - said[0]
    assert taken[1] - taken[0] <= more <= 8000 * 1500, 'about a kilobyte a tick'
