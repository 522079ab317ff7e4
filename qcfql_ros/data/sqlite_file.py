# SPDX-License-Identifier: Apache-2.0
"""One sqlite3 file of a recording, as rosbag2 writes it.

::

    topics(id, name, type, serialization_format, offered_qos_profiles, type_description_hash)
    messages(id, topic_id, timestamp, data)
    message_definitions(topic_type, encoding, encoded_message_definition, ...)   since Iron

It is opened read-only. Where a killed recorder left a journal beside it, a copy is opened, so that
sqlite can finish what was begun and the bag stays as it is. Nothing in such a file has a checksum:
what can be told is whether its pages hang together.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qcfql_ros.data.bag_file import SQLITE_MAGIC, ZSTD_MAGIC, Channel, Message, plain
from qcfql_ros.data.damage import Damage, Skip
from qcfql_ros.errors import BagError

_BATCH = 1000
_BROKEN = (sqlite3.Error, OverflowError, MemoryError, UnicodeDecodeError)
_BEHIND = 'SELECT id, topic_id, timestamp FROM messages WHERE id > ? ORDER BY id'
_JOURNALS = ('-wal', '-journal')


class SqliteFile:
    """Reads one file; see `bag_file.BagFile` for what it has in common with other storages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channels: dict[int, Channel] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.damage = Damage()
        self.bytes_read = 0
        self.size = self.stored = path.stat().st_size
        self._where = path
        self._squeezed: bool | None = None
        self._total = 0
        self._cut = 0  # bytes that the head of the file promises and that are not there

    def learn(self) -> None:
        """Fill in channels: from the tables of topics and definitions."""
        with self._connect() as connection:
            self._learn(connection)

    def chunks(self, topics: frozenset[str] | None = None) -> Iterator[list[Message]]:
        """Yield the messages by receive stamp, equal ones as written, many at a time.

        Args:
            topics: only these; all when None.
        """
        with self._connect() as connection:
            self._learn(connection)
            wanted = [
                number
                for number, channel in self.channels.items()
                if topics is None or channel.topic in topics
            ]
            count = 0
            for rows in self._rows(connection, wanted, topics is None):
                messages = self._messages(rows)
                count += len(rows)
                self.bytes_read = int(self.size * min(1.0, count / max(1, self._total)))
                if messages:
                    yield messages
            self.bytes_read = self.size

    def _messages(self, rows: list[Any]) -> list[Message]:
        names = {number: channel.topic for number, channel in self.channels.items()}
        messages: list[Message] = []
        for number, topic, stamp, data in rows:
            if topic in names and type(stamp) is int and type(data) is bytes:
                messages.append(Message(names[topic], stamp, 0, data))
            else:
                why = f'message {number} of the database is damaged'
                self.damage.skip(Skip(self.path.name, -1, 0, why, 1, _any(stamp), _any(stamp)))
        if self._squeezed is None and messages:
            self._squeezed = messages[0].data.startswith(ZSTD_MAGIC)
        return plain(self, messages) if self._squeezed else messages

    def _rows(
        self, connection: sqlite3.Connection, wanted: list[int], everything: bool
    ) -> Iterator[list[Any]]:
        """Yield (id, topic, stamp, data) by stamp and id; by another way if the first one ends."""
        where = '' if everything else f'WHERE topic_id IN ({",".join(map(str, wanted))})'
        last: tuple[int, int] | None = None
        try:
            cursor = connection.execute(
                f'SELECT id, topic_id, timestamp, data FROM messages {where} '
                'ORDER BY timestamp, id'
            )
            while rows := cursor.fetchmany(_BATCH):
                stamps = [_any(row[2]) for row in rows]
                if stamps != sorted(stamps) or (last and stamps[0] < last[0]):
                    raise sqlite3.DatabaseError('stamps that go back')
                yield rows
                last = (_any(rows[-1][2]), rows[-1][0])
        except _BROKEN as error:
            yield from self._scattered(connection, wanted, everything, last, str(error))
            return
        if self._cut:
            self._note_cut(last[0] if last else 0)

    def _scattered(
        self,
        connection: sqlite3.Connection,
        wanted: list[int],
        everything: bool,
        last: tuple[int, int] | None,
        why: str,
    ) -> Iterator[list[Any]]:
        """Yield the rows behind `last` that can be reached one by one in a damaged file."""
        found = [
            (stamp, number)
            for number, topic, stamp in self._reachable(connection, why)
            if type(stamp) is int and (everything or topic in wanted)
        ]
        found.sort()
        batch: list[Any] = []
        for stamp, number in found:
            if last is not None and (stamp, number) <= last:
                continue
            try:
                row = connection.execute(
                    'SELECT id, topic_id, timestamp, data FROM messages WHERE id = ?', (number,)
                ).fetchone()
            except _BROKEN as error:
                self.damage.skip(Skip(self.path.name, -1, 0, str(error), 1, stamp, stamp))
                continue
            if row is not None:
                batch.append(row)
            if len(batch) == _BATCH:
                yield batch
                batch = []
        yield batch

    def _reachable(
        self, connection: sqlite3.Connection, why: str
    ) -> Iterator[tuple[int, Any, Any]]:
        """Yield (id, topic, stamp) of every row that its id leads to, gaps being noted."""
        at, stamp, step = 0, 0, 1
        hole: int | None = None  # the last id before rows that cannot be reached
        while at < 1 << 62:
            try:
                for number, topic, when in connection.execute(_BEHIND, (at,)):
                    if type(number) is not int or number <= at:
                        raise sqlite3.DatabaseError('ids that go back')
                    if hole is not None:
                        if step > 2 and (back := _nearest(connection, at - step // 2, at)) < at:
                            at = back
                            step = 1
                            break
                        # Ids count up by one: what lies between is what is lost.
                        self._note_rows(why, number - 1 - hole, stamp, _any(when))
                        hole, step = None, 1
                    at, stamp = number, _any(when)
                    yield number, topic, when
                else:
                    break
            except _BROKEN:
                hole, step = (at, 1) if hole is None else (hole, step)
                at += step
                step *= 2
        if hole is not None:
            self._note_rows(why, None, stamp, 0)

    def _note_rows(self, why: str, count: int | None, after_ns: int, before_ns: int) -> None:
        if count is None or count > 0:
            size = self._cut if count is None else 0
            at = self.size if size else -1
            self.damage.skip(
                Skip(self.path.name, at, size, why, count, after_ns, before_ns, count is None)
            )

    def _note_cut(self, after_ns: int) -> None:
        self._note_rows('the file is shorter than its head says', None, after_ns, 0)

    def _learn(self, connection: sqlite3.Connection) -> None:
        if self.channels:
            return
        try:
            tables = {
                name
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                )
            }
        except _BROKEN as error:
            raise BagError(f'{self.path} cannot be read: {error}') from error
        if not {'topics', 'messages'} <= tables:
            raise BagError(
                f'{self.path} is not of rosbag2: it has the tables {sorted(tables)}; '
                'want topics and messages'
            )
        definitions: dict[str, tuple[str, bytes]] = {}
        try:
            if 'message_definitions' in tables:
                for row in _dictionaries(connection, 'message_definitions'):
                    text = str(row.get('encoded_message_definition') or '')
                    definitions[str(row['topic_type'])] = (str(row['encoding']), text.encode())
        except (*_BROKEN, KeyError):
            definitions = {}  # the types that are installed serve as well
        try:
            for row in _dictionaries(connection, 'topics'):
                type_name = str(row['type'])
                encoding, definition = definitions.get(type_name, ('', b''))
                fields = {
                    'offered_qos_profiles': str(row.get('offered_qos_profiles') or ''),
                    'topic_type_hash': str(row.get('type_description_hash') or ''),
                }
                self.channels[int(row['id'])] = Channel(
                    str(row['name']),
                    type_name,
                    definition,
                    encoding,
                    fields,
                    str(row.get('serialization_format', 'cdr')),
                )
        except (*_BROKEN, KeyError, TypeError, ValueError) as error:
            raise BagError(f'{self.path} has a damaged table of topics: {error}') from error
        try:
            self._total = connection.execute('SELECT count(*) FROM messages').fetchone()[0]
        except _BROKEN:
            self._total = 0

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        journals = [self._where.with_name(self._where.name + end) for end in _JOURNALS]
        journals = [path for path in journals if path.is_file() and path.stat().st_size]
        with tempfile.TemporaryDirectory(prefix='qcfql_bag_') as folder:
            where, mode = self._where.resolve(), 'mode=ro&immutable=1'
            if journals:
                where, mode = Path(folder) / self._where.name, 'mode=rw'
                for path in [self._where, *journals]:
                    shutil.copyfile(path, Path(folder) / path.name)
            with where.open('rb') as stream:
                head = stream.read(100)
            pages = int.from_bytes(head[28:32], 'big') * (int.from_bytes(head[16:18], 'big') or 1)
            if head.startswith(SQLITE_MAGIC) and head[24:28] == head[92:96] and not journals:
                self._cut = max(0, pages - self.size)
            connection = None
            try:
                connection = sqlite3.connect(
                    f'{where.as_uri()}?{mode}', uri=True, check_same_thread=False
                )
                # The first lets sqlite read what there is of a file that was cut off.
                for setting in ('writable_schema=on', 'trusted_schema=off', 'cell_size_check=on'):
                    connection.execute(f'PRAGMA {setting}')
                yield connection
            except sqlite3.Error as error:
                raise BagError(f'{self.path} cannot be read: {error}') from error
            finally:
                if connection is not None:
                    connection.close()


def _nearest(connection: sqlite3.Connection, broken: int, good: int) -> int:
    """Return the lowest id between the two behind which a row can be reached."""
    while good - broken > 1:
        middle = (broken + good) // 2
        try:
            connection.execute(_BEHIND, (middle,)).fetchone()
            good = middle
        except _BROKEN:
            broken = middle
    return good


def _dictionaries(connection: sqlite3.Connection, table: str) -> Iterator[dict[str, Any]]:
    cursor = connection.execute(f'SELECT * FROM {table}')
    names = [column[0] for column in cursor.description]
    for row in cursor:
        yield dict(zip(names, row, strict=True))


def _any(stamp: object) -> int:
    """Return a stamp, 0 for what a damaged file has in its place."""
    return stamp if type(stamp) is int else 0
