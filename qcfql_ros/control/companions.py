# SPDX-License-Identifier: Apache-2.0
"""The other Python threads of the process, while one of them has real-time priority.

All share the interpreter's lock. One that holds it and is put aside, because another process wants
its processor, makes the control thread wait for as long, whatever that one's priority (priority
inversion). So the others get the priority just below it for as long as it runs.
"""

from __future__ import annotations

import os
import threading


class Companions:
    """Raises the other Python threads of this process, and puts them back.

    Threads that they start later are not raised; threads that have a real-time priority of their
    own keep it.

    Attributes:
        raised: native ids.
    """

    def __init__(self) -> None:
        self.raised: list[int] = []

    def raise_below(self, priority: int) -> None:
        """Give them the priority below `priority`, if there is one.

        Raises:
            OSError: the system does not allow it.
        """
        if priority < 2:
            return
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        for thread in threading.enumerate():
            number = thread.native_id
            if number is None or thread is threading.current_thread():
                continue
            try:
                if os.sched_getscheduler(number) == os.SCHED_OTHER:
                    os.sched_setscheduler(number, policy, os.sched_param(priority - 1))
                    self.raised.append(number)
            except ProcessLookupError:
                continue  # it has ended meanwhile

    def put_back(self) -> None:
        """Put those that still run back to where they were."""
        for number in self.raised:
            try:
                os.sched_setscheduler(number, os.SCHED_OTHER, os.sched_param(0))
            except OSError:
                continue  # it has ended
        self.raised.clear()
