# SPDX-License-Identifier: Apache-2.0
"""A recording played into topics, and heard again in the order in which it was recorded.

Between topics the middleware keeps no order, and what a node hears late it would stamp late. So
the player says with every piece what was in it; a learner waits until it has heard all of that::

    player    /clock s0, message 0, /clock s1, message 1, ... │ Piece: topic and stamps of each
    learner   hears them in any order ──────────────────────▶ │ gives them out as in the recording
    player    ◀──────────────────────────────────── Answer: piece taken

No ROS: these are the contents of ``std_msgs/String``, as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from qcfql_ros.data.bag_file import Channel, Message
from qcfql_ros.errors import MessageError

PLAYBACK_TOPIC = 'playback'  # latched: what is played
PIECE_TOPIC = 'playback/piece'
ANSWER_TOPIC = 'playback/answer'
_ENDS_READ = 1 << 16


@dataclass(frozen=True)
class Playback:
    """What is played.

    Attributes:
        id: of this playing, another one each time.
        bag: path of the recording, as the player was given it.
        contract_hash: under which it was recorded; empty if it says none.
        fingerprint: of its files, see `fingerprint`.
        topics: played, absolute names.
        begun: messages are being published; a learner that sees this first is too late.
    """

    id: str
    bag: str
    contract_hash: str
    fingerprint: str
    topics: tuple[str, ...]
    begun: bool = False


class Entry(NamedTuple):
    """One message of a piece: index of its topic, receive and publish stamp in ns."""

    topic: int
    receive_ns: int
    publish_ns: int


@dataclass(frozen=True)
class Piece:
    """What was published since the piece before, in the order of the recording.

    Attributes:
        id: of the playback.
        number: of the piece, from 1.
        entries: the messages.
        last: nothing comes after it.
    """

    id: str
    number: int
    entries: tuple[Entry, ...]
    last: bool = False


@dataclass(frozen=True)
class Answer:
    """What a learner says to the player, some times a second.

    Attributes:
        id: of the playback.
        learner: who says it.
        piece: taken so far; -1 not ready, 0 ready for the first.
        topics: absolute names of those that it records.
        messages: taken so far.
        waits: why it is not ready, or takes nothing more for now.
        refuses: why it takes no part; empty if it does.
    """

    id: str
    learner: str
    piece: int = -1
    topics: tuple[str, ...] = ()
    messages: int = 0
    waits: str = ''
    refuses: str = ''


def as_text(record: Playback | Piece | Answer) -> str:
    """Return the JSON of a record."""
    return json.dumps(asdict(record), separators=(',', ':'))


def from_text[Record: (Playback, Piece, Answer)](kind: type[Record], text: str) -> Record:
    """Return the record of a JSON text.

    Raises:
        MessageError: it is none.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        if 'topics' in values:
            values['topics'] = tuple(map(str, values['topics']))
        if 'entries' in values:
            values['entries'] = tuple(Entry(*map(int, row)) for row in values['entries'])
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise MessageError(f'not a {kind.__name__} of a playback: {error}') from error


class PlayedOrder:
    """Gives what was heard out in the order, and with the stamps, of the recording.

    Args:
        playback: what is played.
        recorded: topics that are listened to; the others of a piece are passed over.
        marks: topics that nobody listens to, but whose place in the order counts.

    Attributes:
        taken: number of the last piece that was given out.
        messages: given out so far.
        over: the last piece was.
        broken: why there is no going on; empty while all is well.
    """

    def __init__(
        self, playback: Playback, recorded: Collection[str], marks: Collection[str] = ()
    ) -> None:
        self.playback = playback
        self.taken = self.messages = 0
        self.over = False
        self.broken = ''
        self._marks = frozenset(marks)
        self._heard: dict[str, deque[bytes]] = {
            topic: deque() for topic in playback.topics if topic in recorded
        }
        self._pieces: deque[Piece] = deque()

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics that are both played and listened to."""
        return tuple(self._heard)

    @property
    def held(self) -> int:
        """Messages heard and not given out."""
        return sum(map(len, self._heard.values()))

    def hear(self, topic: str, data: bytes) -> None:
        """Keep a message of a topic that is played."""
        self._heard[topic].append(data)

    def add(self, piece: Piece) -> None:
        """Note what the player says that it sent; of another playback: nothing happens."""
        if piece.id != self.playback.id or self.broken:
            return
        expected = (self._pieces[-1].number if self._pieces else self.taken) + 1
        if piece.number != expected:
            self.broken = f'piece {piece.number} came, {expected} was expected'
        elif any(not 0 <= entry.topic < len(self.playback.topics) for entry in piece.entries):
            self.broken = f'piece {piece.number} names a topic that is not played'
        else:
            self._pieces.append(piece)

    def take(self) -> list[Message] | None:
        """Return the next piece, None unless all of it was heard.

        A message of `marks` has no data.
        """
        if not self._pieces or self.missing():
            return None
        piece = self._pieces.popleft()
        self.taken, self.over = piece.number, piece.last
        messages: list[Message] = []
        for index, receive_ns, publish_ns in piece.entries:
            topic = self.playback.topics[index]
            if topic in self._heard:
                self.messages += 1
                data = self._heard[topic].popleft()
                messages.append(Message(topic, receive_ns, publish_ns, data))
            elif topic in self._marks:
                messages.append(Message(topic, receive_ns, publish_ns, b''))
        return messages

    def missing(self) -> dict[str, int]:
        """Return by topic how many messages of the next piece were not heard yet."""
        if not self._pieces:
            return {}
        wanted = dict.fromkeys(self._heard, 0)
        for entry in self._pieces[0].entries:
            topic = self.playback.topics[entry.topic]
            if topic in wanted:
                wanted[topic] += 1
        short = {topic: count - len(self._heard[topic]) for topic, count in wanted.items()}
        return {topic: count for topic, count in short.items() if count > 0}


def fingerprint(paths: Iterable[Path]) -> str:
    """Return 32 hex digits over the names and sizes of files and the 64 KiB at both their ends."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        size = path.stat().st_size
        digest.update(f'{path.name} {size}\n'.encode())
        with path.open('rb') as file:
            digest.update(file.read(_ENDS_READ))
            file.seek(max(0, size - _ENDS_READ))
            digest.update(file.read(_ENDS_READ))
    return digest.hexdigest()


def latched_depth(channel: Channel) -> int:
    """Return how many messages a latched topic kept for who comes late; 0 if it is not latched.

    It is where every publisher recorded offered that.
    """
    try:
        offers = yaml.safe_load(channel.metadata.get('offered_qos_profiles', '')) or []
        # Numbers are those of rmw, which rosbag2 wrote until ROS 2 Iron.
        latched = [offer['durability'] in ('transient_local', 1) for offer in offers]
        depths = [int(offer.get('depth', 0)) for offer in offers]
    except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError):
        return 0
    return max(1, *depths) if latched and all(latched) else 0
