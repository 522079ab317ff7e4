# SPDX-License-Identifier: Apache-2.0
"""The inference thread: plans the next chunk while the current one is played."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from qcfql_ros.control.chunk_buffer import ChunkBuffer
from qcfql_ros.control.clock import Clock
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.executed import ExecutedRows
from qcfql_ros.control.latest import LatestMessages
from qcfql_ros.control.planner import Planner
from qcfql_ros.errors import MessageError

LATENCIES = 256


@dataclass(frozen=True)
class ChunkRequest:
    """A chunk wanted.

    Attributes:
        take_at_ns: when the observation is taken, monotonic.
        until_ns: newest stamp that the observation may have, ROS time.
        lead_ns: from then to the stamp of the chunk's first tick.
        episode: for which.
        epoch: of the chunk buffer.
    """

    take_at_ns: int
    until_ns: int
    lead_ns: int
    episode: int
    epoch: int


class Prefetch:
    """Serves chunk requests one after the other.

    Attributes:
        busy: from a request until it is served.
        planning_since_ns: when the observation of the plan in progress was taken, monotonic;
            0 while none is in progress.
        latencies_ns: of the last plans, from taking the observation to offering the chunk. The
            first plan of a process is left out: it warms up what the others use.
    """

    def __init__(
        self,
        planner: Planner,
        latest: LatestMessages,
        buffer: ChunkBuffer,
        counters: Counters,
        clock: Clock,
        executed: ExecutedRows,
    ) -> None:
        self._planner = planner
        self._latest = latest
        self._buffer = buffer
        self._counters = counters
        self._clock = clock
        self._executed = executed
        self._requests: queue.SimpleQueue[ChunkRequest | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.busy = False
        self.planning_since_ns = 0
        self.latencies_ns: deque[int] = deque(maxlen=LATENCIES)
        self._warm = False
        self._stopped = False

    def request(self, request: ChunkRequest) -> None:
        """Ask for a chunk; never waits."""
        self.busy = True
        self._requests.put(request)

    def serve(self, request: ChunkRequest) -> None:
        """Plan one chunk in the caller's thread."""
        try:
            while (left := request.take_at_ns - self._clock.now_ns()) > 0:
                if request.epoch != self._buffer.epoch:
                    return
                self._clock.sleep(min(left, 20_000_000))
            if request.epoch != self._buffer.epoch:
                return
            self.planning_since_ns = began_ns = self._clock.now_ns()
            tick_ns, lead_ns = request.until_ns + request.lead_ns, request.lead_ns
            previous, before = self._executed.before(tick_ns, request.episode, lead_ns)
            observation, stamps = self._latest.observe(request.until_ns, previous)
            chunk = self._planner.plan(
                observation, stamps | before, request.episode, request.epoch
            )
            self._buffer.offer(chunk)
            if self._warm:
                self.latencies_ns.append(self._clock.now_ns() - began_ns)
            self._warm = True
        except MessageError as error:
            self._counters.refused += 1
            # What was wrong with a message, if that was said, says more.
            self._counters.reason = self._counters.reason or str(error)
        finally:
            self.planning_since_ns = 0
            self.busy = False

    def start(self, died: Callable[[BaseException], None]) -> None:
        """Serve in a thread; `died` is told what it died of."""

        def body() -> None:
            try:
                while (request := self._requests.get()) is not None:
                    self.serve(request)
            except BaseException as error:
                died(error)

        self._thread = threading.Thread(target=body, name='inference', daemon=True)
        self._thread.start()

    def dead(self) -> bool:
        """Whether the thread has ended though nobody stopped it."""
        return self._thread is not None and not self._stopped and not self._thread.is_alive()

    def stop(self) -> None:
        """End after the request in progress; the buffer must have been reset before."""
        self._stopped = True
        self._requests.put(None)
        if self._thread is not None:
            self._thread.join(timeout=2.0)
