# SPDX-License-Identifier: Apache-2.0
"""The recorder on a thread of its own: who hears messages never waits for the disk.

::

    offer() ─▶ spool ─▶ writer thread: recorder, disk ─▶ written()

What comes out of `written` is in the file: no end of this process takes it back. So what is made
of it, and nothing else, is what every later reader makes of the bag.

When the disk refuses, or the spool is full, recording stops. It goes on by itself when the disk is
back: in a new file that begins with `mark`, so that who reads the bag cuts there as well.
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
        mark: makes the first message of a recording, and of one that goes on.
        begun: put the mark first now; else whoever offers messages does.
        write_s: messages of this long are written together; a lone one is written at once.
        flush_s: time between two syncs; what a power cut may lose.
        retry_s: time between two looks whether a disk that refused is back.
        wake: called by the thread when something was written, or when it stopped.

    Attributes:
        failed: why recording has stopped; empty while it goes on.
        cut: nothing more comes out of `written` but, if recording goes on, a mark.
        refused: messages that came while it had stopped, or when the spool was full.
        lost: messages that were accepted and then could not be written.
        stops: how often recording has stopped.
    """

    def __init__(
        self,
        recorder: BagRecorder,
        spool: Spool,
        mark: Callable[[], Item],
        *,
        begun: bool = True,
        write_s: float,
        flush_s: float = 1.0,
        retry_s: float = 1.0,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._recorder, self.spool, self._mark = recorder, spool, mark
        self._write_s, self._flush_s, self._retry_s = write_s, flush_s, retry_s
        self._wake = wake
        self.failed = ''
        self.cut = False
        self.refused = self.lost = self.stops = 0
        self._failed_s = 0.0
        self._missed = 0
        self._state = threading.Lock()
        self._jobs: deque[Callable[[], object]] = deque()
        self._pending: deque[Written] = deque()
        self._released = recorder.committed
        self._written: deque[Written] = deque()
        self._stopping = threading.Event()
        if begun:
            self.spool.put(mark())
        self._thread = threading.Thread(target=self._run, name='bag writer', daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come out of `written`."""
        return not self._thread.is_alive()

    def offer(self, topic: str, receive_ns: int, publish_ns: int, data: bytes) -> bool:
        """Accept a message without waiting; False while recording has stopped."""
        item = Item(topic, receive_ns, publish_ns, data)
        if self.spool.put(item):
            return True
        with self._state:
            if not self.spool.closed:
                if self.spool.put(item):
                    return True  # recording has just gone on
                spool = self.spool
                self._fail(
                    f'recording to {self._recorder.folder} stopped: the disk has not kept up for '
                    f'{spool.seconds:.1f} s, {spool.bytes / 1e6:.1f} MB wait to be written'
                )
            self.refused += 1
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
        self._stopping.set()
        self.spool.close()
        self._thread.join(timeout_s)
        return self.ended

    def _fail(self, text: str) -> None:
        if not self.failed:
            self._failed_s = time.monotonic()
            self._missed = self.refused + self.lost
            self.stops += 1
            self.failed = text
        self.spool.close()

    def _run(self) -> None:
        try:
            while True:
                self._record()
                if self.failed:
                    self.cut = True
                    self._wake()
                while self.failed and not self._stopping.is_set() and not self._resume():
                    self._work()
                    self._stopping.wait(self._retry_s)
                if self._stopping.is_set():
                    return
        except BaseException:
            self._fail(f'the bag writer failed: {traceback.format_exc()}')
        finally:
            self._drop()
            self.cut = True
            self._work()
            self._wake()

    def _record(self) -> None:
        """Write until the spool is closed and empty, or the disk refuses."""
        try:
            synced_s = begun_s = time.monotonic()
            while not self.spool.drained:
                self._stopping.wait(max(0.0, begun_s + self._write_s - time.monotonic()))
                items = self.spool.take(_BATCH_BYTES, self._flush_s / 4)
                begun_s = time.monotonic()
                self._write(items)
                if begun_s - synced_s >= self._flush_s:
                    synced_s = begun_s
                    self._recorder.flush()
                self._work()
            self._recorder.flush()
        except BagError as error:
            with self._state:
                self._fail(str(error))
            self._drop()

    def _resume(self) -> bool:
        """Go on where the disk takes a new file with a mark in it; False if it does not."""
        self.cut = False
        try:
            self._recorder.resume()
            self._write([self._mark()])
        except BagError:
            self._drop()
            self.cut = True
            return False
        with self._state:
            missed = self.refused + self.lost - self._missed
            self._recorder.notes.append(
                f'recording goes on after {time.monotonic() - self._failed_s:.1f} s; '
                f'{missed} messages are not in {self._recorder.folder}'
            )
            self.failed = ''
            self.spool.open()
        return True

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

    def _drop(self) -> None:
        """Forget what was accepted and is in no file."""
        self._release()
        self._pending.clear()
        self.lost += self.spool.clear()

    def _work(self) -> None:
        while self._jobs:
            try:
                self._jobs.popleft()()
            except OSError as error:  # a copy that fails is no reason to record no more
                self._recorder.notes.append(f'beside the bag: {error}')
