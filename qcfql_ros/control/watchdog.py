# SPDX-License-Identifier: Apache-2.0
"""When a heartbeat is missing, judged so that the judge's own pauses do not count.

::

    running  running  running                                     running
       |        |        |<────── silence > timeout ──────▶|         |
       armed                                               alarm     armed again

A process that was stopped or starved finds the heartbeats of that time in a queue it has not read
yet. So of the time between two looks at most a quarter of the time-out counts as silence.
"""

from __future__ import annotations

from qcfql_ros.contract.load_safety import HEARTBEAT_S

RUNNING, HOLDING, HALTED, INACTIVE = 'running', 'holding', 'halted', 'inactive'
DRIVING = (RUNNING, HOLDING)
BEAT_NS = round(HEARTBEAT_S * 1e9)  # between two, or a command period where that is longer


class Watchdog:
    """Armed by a heartbeat that says `running` or `holding`, disarmed by any other state.

    Args:
        timeout_ns: longest silence while armed.

    Attributes:
        armed: whether a silence would be an alarm.
        alarm: whether there was one, and no heartbeat since.
        state: what the last heartbeat said, or ''.
        silence_ns: since the last heartbeat, as far as it was listened for.
    """

    def __init__(self, timeout_ns: int) -> None:
        self.timeout_ns = timeout_ns
        self.armed = False
        self.alarm = False
        self.state = ''
        self.silence_ns = 0
        self._looked_ns: int | None = None

    def heard(self, state: str) -> bool:
        """Take a heartbeat; return whether it ends an alarm."""
        self.silence_ns = 0
        self.state = state
        self.armed = state in DRIVING
        ended, self.alarm = self.alarm, False
        return ended

    def look(self, now_ns: int) -> bool:
        """Look at the monotonic time; return True once when the silence is too long."""
        before, self._looked_ns = self._looked_ns, now_ns
        if before is not None:
            self.silence_ns += min(now_ns - before, self.timeout_ns // 4)
        if not self.armed or self.silence_ns <= self.timeout_ns:
            return False
        self.armed, self.alarm = False, True
        return True
