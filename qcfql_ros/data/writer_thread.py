# SPDX-License-Identifier: Apache-2.0
"""The recorder on a thread of its own: who hears messages never waits for the disk.

::

    offer() ─▶ spool ─▶ writer thread: recorder, disk ─▶ written()

What comes out of `written` is in the file: no end of this process takes it back. So what is made
of it, and nothing else, is what every later reader makes of the bag.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.spool import Item, Spool
from qcfql_ros.errors import BagError

_BATCH_BYTES = 4 << 20


class Written(NamedTuple):
    """A message as recorded, and the number of the file that it is in."""

    topic: str
    receive_ns: int
    data: bytes
    split: int


class WriterThread:
    """Feeds `recorder` from a spool.

    Args:
        recorder: used by the thread alone from now on, until `stop` has returned.
        spool: what a stalled disk is bridged with.
        write_s: messages of this long are written together; a lone one is written at once.
        flush_s: time between two syncs; what a power cut may lose.
        wake: called by the thread when something was written, or when it ended.

    Attributes:
        failed: why recording has stopped; empty while it goes on.
        refused: messages that came after it had stopped, or when the spool was full.
        lost: messages that were accepted and then could not be written.
    """

    def __init__(
        self,
        recorder: BagRecorder,
        spool: Spool,
        *,
        write_s: float,
        flush_s: float = 1.0,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._recorder, self.spool = recorder, spool
        self._write_s, self._flush_s, self._wake = write_s, flush_s, wake
        self.failed = ''
        self.refused = 0
        self.lost = 0
        self._jobs: deque[Callable[[], object]] = deque()
        self._pending: deque[Written] = deque()
        self._released = recorder.committed
        self._written: deque[Written] = deque()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name='bag writer', daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come out of `written`."""
        return not self._thread.is_alive()

    def offer(self, topic: str, receive_ns: int, publish_ns: int, data: bytes) -> bool:
        """Accept a message without waiting; False once recording has stopped."""
        if self.spool.put(Item(topic, receive_ns, publish_ns, data)):
            return True
        self.refused += 1
        if not self.spool.closed:
            spool = self.spool
            self._fail(
                f'recording to {self._recorder.folder} stopped: the disk has not kept up for '
                f'{spool.seconds:.1f} s, {spool.bytes / 1e6:.1f} MB wait to be written'
            )
        return False

    def do(self, job: Callable[[], object]) -> None:
        """Let the thread run something that touches the disk, soon and in order."""
        self._jobs.append(job)
        if self.ended:
            self._work()

    @property
    def backlog(self) -> int:
        """How many messages `written` still has to give."""
        return len(self._written)

    def written(self) -> Iterator[Written]:
        """Take out what was written and not yet taken, in order."""
        while self._written:
            yield self._written.popleft()

    def stop(self, timeout_s: float) -> bool:
        """Write what was accepted and end the thread; False if the disk is stuck."""
        self.spool.close()
        self._hurry.set()
        self._thread.join(timeout_s)
        return self.ended

    def _fail(self, text: str) -> None:
        self.failed = self.failed or text
        self.spool.close()

    def _run(self) -> None:
        try:
            synced_s = begun_s = time.monotonic()
            while not self.spool.drained:
                self._hurry.wait(max(0.0, begun_s + self._write_s - time.monotonic()))
                items = self.spool.take(_BATCH_BYTES, self._flush_s / 4)
                begun_s = time.monotonic()
                self._write(items)
                if begun_s - synced_s >= self._flush_s:
                    synced_s = begun_s
                    self._recorder.flush()
                self._work()
            self._recorder.flush()
        except BagError as error:
            self._fail(str(error))
        except BaseException:
            self._fail(f'the bag writer failed: {traceback.format_exc()}')
        finally:
            self._release()
            self.lost = self.spool.held
            self._work()
            self._wake()

    def _write(self, items: list[Item]) -> None:
        for topic, receive_ns, publish_ns, data in items:
            stamp_ns = self._recorder.write(topic, receive_ns, publish_ns, data)
            self._pending.append(Written(topic, stamp_ns, data, self._recorder.split))
        if items:
            self._recorder.commit()
            self._release()
            self._wake()

    def _release(self) -> None:
        """Give out what is in the file, also when the disk refused what came after it."""
        count = self._recorder.committed - self._released
        self._released += count
        for _ in range(count):
            self._written.append(self._pending.popleft())
        self.spool.done(count)

    def _work(self) -> None:
        while self._jobs:
            try:
                self._jobs.popleft()()
            except OSError as error:  # a copy that fails is no reason to record no more
                self._recorder.notes.append(f'beside the bag: {error}')
