# SPDX-License-Identifier: Apache-2.0
"""The recorder: what it accepted is the buffer.

A folder as rosbag2 writes it::

    bag/
    ├── .lock                one writer at a time; holds its process id
    ├── metadata.yaml        lists the closed files; replaced whole when that changes
    ├── bag_0.mcap           closed: never touched again
    └── bag_1.mcap.active    being written; zstd chunks, on disk at least once a flush_s

A file is finished, synced and renamed, and then listed; one that retention takes is first struck
off the list, and then removed. So what is listed is there and whole, at every moment. Killed at
any of them, all but the last `flush_s` is there; `recovery.recover_bag` closes the file.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

from qcfql_ros.data.bag_metadata import (
    ACTIVE,
    CONTRACT,
    CONTRACT_HASH,
    NAMESPACE,
    BagMetadata,
    Topic,
    read_metadata,
    sync_folder,
    type_definition,
)
from qcfql_ros.data.buffer_lock import BufferLock
from qcfql_ros.data.open_split import OpenSplit
from qcfql_ros.data.reader import split_number
from qcfql_ros.data.recovery import Recovery, recover_bag
from qcfql_ros.data.retention import surplus, topic_counts
from qcfql_ros.data.session_mark import SESSION_TOPIC
from qcfql_ros.errors import BagError

SECOND_NS = 1_000_000_000
# A disk that was full must have this much room again, or recording would stop at once.
ROOM_BYTES = 32 << 20


class BagRecorder:
    """Appends a session to the recording in `folder`, making the folder if need be.

    Args:
        folder: the rosbag2 folder; what an earlier recorder left open is recovered first.
        topics: absolute topic name to type (``package/msg/Name``), or `Topic`s.
        contract_name: goes to the bag's custom data, with the next two.
        contract_hash: an existing bag must have the same.
        namespace: of the robot.
        split_bytes: a file is closed and the next begun at this size.
        split_s: and at this age, by receive stamps; 0 for any age.
        chunk_bytes: messages compressed together, at most.
        flush_s: how much time a kill may lose.
        keep_bytes: closed files are deleted, oldest first, when the bag is larger; 0 keeps all.

    Attributes:
        recovery: what was recovered at the start, None when all was closed.
        messages: accepted by this recorder.
        last_ns: receive stamp of the last message of earlier sessions; 0 without any.
        topics: by name; an entry may be replaced when what is offered changes.
        custom: of ``metadata.yaml``, and at each sync of the file being written.
        first_needed: files from this number on are not deleted; `retaining` is held while some
            are, and while somebody lists the files who is about to read them.
        deleted: (name, bytes) of the files deleted so far.
        notes: what people should know, one line each; to be taken out by who logs them.

    Raises:
        BufferBusyError: another process records here.
        BagError: the bag was recorded under another contract, or cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        topics: Mapping[str, str] | Iterable[Topic],
        *,
        contract_name: str,
        contract_hash: str,
        namespace: str = '',
        split_bytes: int = 512 * 1024 * 1024,
        split_s: float = 0.0,
        chunk_bytes: int = 1024 * 1024,
        flush_s: float = 1.0,
        keep_bytes: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.messages = 0
        self.topics = _as_topics(topics)
        for topic in self.topics.values():
            type_definition(topic.type_name)  # refuse unknown types before anything is written
        self._split_bytes, self._chunk_bytes = split_bytes, chunk_bytes
        self._split_ns = int(split_s * SECOND_NS) or 2**63
        self._flush_ns = int(flush_s * SECOND_NS)
        self._keep_bytes = keep_bytes
        self.first_needed = 0
        self.retaining = threading.Lock()
        self.deleted: list[tuple[str, int]] = []
        self.notes: deque[str] = deque()
        self._last_ns = 0
        self._flushed_ns = 0
        self._failure = ''
        self._unlisted = False  # metadata.yaml is behind
        self._file: OpenSplit | None = None
        self._in_closed = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BagError(f'cannot record to {self.folder}: {error.strerror}') from error
        self._lock = BufferLock(self.folder)
        try:
            self.recovery: Recovery | None = recover_bag(self.folder)
            self._metadata = read_metadata(self.folder) or BagMetadata()
            self._check_contract(contract_hash)
        except BaseException:
            self._lock.release()
            raise
        self.custom = self._metadata.custom
        self.custom[CONTRACT] = contract_name
        self.custom[CONTRACT_HASH] = contract_hash
        self.custom[NAMESPACE] = namespace.strip('/')
        self._noted: dict[str, str] = {}
        self.last_ns = max((entry.end_ns for entry in self._metadata.files), default=0)
        closed = [split_number(Path(entry.name)) for entry in self._metadata.files]
        self.split = self.first_split = max(closed, default=-1) + 1

    def write(self, topic: str, receive_ns: int, publish_ns: int, data: bytes) -> int:
        """Accept one message and return its receive stamp as recorded.

        Stamps in a file rise strictly, so that every reader sees the order of receipt: one that
        does not is moved up, and a clock that was set back by a second or more begins a new file,
        as a session does that begins at an earlier time.

        Args:
            topic: absolute name, one of those given at the start.
            receive_ns: ROS or system time of receipt.
            publish_ns: time at the source; 0 when unknown.
            data: the CDR bytes with their 4-byte head.

        Raises:
            BagError: the disk refused; nothing more is accepted until `resume`.
        """
        if receive_ns <= self._last_ns:
            session = topic.endswith(SESSION_TOPIC)
            if self._last_ns - receive_ns < SECOND_NS and not session:
                receive_ns = self._last_ns + 1
            else:
                self._guard(self._close_file)
        elif self._file is not None and receive_ns - self._file.start_ns >= self._split_ns:
            self._guard(self._close_file)
        if self._file is None:
            self._guard(self._open_file)
        elif self._failure:
            raise BagError(self._failure)
        assert self._file is not None
        self._file.write(self.topics[topic], receive_ns, publish_ns, data)  # in memory
        self._last_ns = receive_ns
        self.messages += 1
        return receive_ns

    def maybe_flush(self, now_ns: int) -> bool:
        """Flush when `flush_s` has passed since the last time; call it several times a second.

        Raises:
            BagError: the disk refused; nothing more is accepted.
        """
        if abs(now_ns - self._flushed_ns) < self._flush_ns:
            return False
        self._flushed_ns = now_ns
        self.flush()
        return True

    def commit(self) -> None:
        """Hand everything accepted to the operating system: it outlives this process.

        Begins a new file if this one is full.

        Raises:
            BagError: the disk refused; nothing more is accepted. `committed` says what is there.
        """
        if self._file is not None:
            self._guard(self._file.commit)
            if self._file.size >= self._split_bytes:
                self._guard(self._close_file)

    def flush(self) -> None:
        """Put everything accepted on the disk: it outlives a power cut.

        Raises:
            BagError: the disk refused; nothing more is accepted.
        """
        if self._file is not None and self._noted != self.custom:
            self._noted = dict(self.custom)
            self._guard(self._file.note, self._noted)
        self.commit()
        if self._file is not None:
            self._guard(self._file.sync)

    def resume(self) -> None:
        """Close the file, also one that the disk refused to go on with; the next is another.

        What was accepted and not committed when the disk refused is not in the bag.

        Raises:
            BagError: it refuses still, or has no room.
        """
        self._failure = ''
        self._guard(self._check_room)
        self._guard(self._close_file)

    def close(self) -> None:
        """Close the file and release the folder. Safe to call twice.

        Raises:
            BagError: the disk refused; what was flushed is recovered at the next start.
        """
        try:
            if self._failure:
                with contextlib.suppress(BagError):  # it has been said
                    self.resume()
            else:
                self._guard(self._close_file)
        finally:
            if self._file is not None:
                self._file.abandon()
            self._lock.release()

    @property
    def committed(self) -> int:
        """How many of the messages accepted, in their order, every reader will find."""
        return self._in_closed + (self._file.committed if self._file else 0)

    def split_path(self, number: int) -> Path | None:
        """Return the file of this number, by the name it has now; None if it was deleted."""
        path = self.folder / f'{self.folder.resolve().name}_{number}.mcap'
        active = path.with_name(path.name + ACTIVE)
        return active if active.exists() else path if path.exists() else None

    def _open_file(self) -> None:
        path = self.folder / f'{self.folder.resolve().name}_{self.split}.mcap'
        self._noted = dict(self.custom)
        self._file = OpenSplit(path, self._noted, self._chunk_bytes)

    def _close_file(self) -> None:
        if self._file is not None:
            entry = self._file.close(self.topics.values())
            self._in_closed += entry.messages
            self._file = None
            self.split += 1
            self._metadata.topics.update(self.topics)
            self._metadata.add(entry)
            self._unlisted = True
        if self._unlisted:
            self._metadata.write(self.folder)
            self._unlisted = False
            self._retain()

    def _check_room(self) -> None:
        if shutil.disk_usage(self.folder).free < ROOM_BYTES:
            raise OSError(errno.ENOSPC, f'less than {ROOM_BYTES >> 20} MiB are free')

    def _retain(self) -> None:
        """Delete the oldest closed files beyond the limit, the list first."""
        if not self._keep_bytes:
            return
        with self.retaining:
            paths = [self.folder / entry.name for entry in self._metadata.files]
            sizes = [(split_number(path), path.stat().st_size) for path in paths]
            gone = surplus(sizes, self._keep_bytes, self.first_needed)
            if not gone:
                return
            try:
                counts = [*map(topic_counts, paths[:gone], self._metadata.files)]
            except BagError as error:
                self._keep_bytes = 0
                self.notes.append(f'nothing more is deleted: {error}')
                return
            for topic, count in (pair for entry in counts for pair in entry.items()):
                self._metadata.totals[topic] -= count
            del self._metadata.files[:gone]
            self._metadata.write(self.folder)
            for path, (_, size) in zip(paths[:gone], sizes, strict=False):
                path.unlink()
                self.deleted.append((path.name, size))
                self.notes.append(
                    f'deleted {path.name} ({size / 1e6:.1f} MB): the bag is limited to '
                    f'{self._keep_bytes / 1e6:g} MB, and the replay holds nothing of it'
                )
            sync_folder(self.folder)

    def _guard(self, action, *arguments) -> None:  # type: ignore[no-untyped-def]
        if self._failure:
            raise BagError(self._failure)
        try:
            action(*arguments)
        except OSError as error:
            self._failure = f'recording to {self.folder} stopped: {error.strerror or error}'
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.sync()
            raise BagError(self._failure) from error

    def _check_contract(self, wanted: str) -> None:
        found = self._metadata.custom.get(CONTRACT_HASH, wanted)
        if found != wanted:
            raise BagError(
                f'{self.folder} was recorded under contract {found[:12]}, this one is '
                f'{wanted[:12]}; give another folder or the contract it was recorded under'
            )


def _as_topics(topics: Mapping[str, str] | Iterable[Topic]) -> dict[str, Topic]:
    if isinstance(topics, Mapping):
        return {name: Topic(name, type_name) for name, type_name in topics.items()}
    return {topic.name: topic for topic in topics}
