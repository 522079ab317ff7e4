# SPDX-License-Identifier: Apache-2.0
"""Live, reread and recovered copies of one recording give the same steps, bit for bit.

A recording is drawn: one to three sessions in either pacing, messages late, lost, doubled and
mixed across topics, files of any size; each session ends, or is killed and its open file cut at
any byte. What was given live is the log of digests that the learner writes.

Thirty recordings; COPIES=1000 in the environment for more.
"""

from __future__ import annotations

import bisect
import os
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import event, given, settings
from hypothesis import strategies as st
from recorded_ticks import CONTRACT, PERIOD, Ticks

from qcfql_ros.data.assembler import Assembler
from qcfql_ros.data.dataset import load_dataset
from qcfql_ros.data.reader import BagReader
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.recovery import recover_bag
from qcfql_ros.data.session_mark import SESSION_TYPE, session_mark, session_topic
from qcfql_ros.data.step_log import StepLog
from qcfql_ros.data.steps import SegmentEnd, Step, step_digest

START = 1_700_000_000_000_000_000
MS = 1_000_000
# How late a message may be: not at all, a little, more than a tick, more than is waited for.
DELAYS_MS = (0, 0, 0, 0, 1, 3, 20, 60, 400, 2500)
TIMES = (1, 1, 1, 1, 1, 1, 1, 1, 2, 0)
TOPICS = CONTRACT.recorded_topics() | {session_topic(): SESSION_TYPE}
Message = tuple[str, int, bytes]


def lockstep(count: int, ends: bool) -> list[Message]:
    ticks = Ticks()
    ticks.chunk(1_000_000_000_000, 0)
    last = {'truncated': True} if ends else {}
    stamp = ticks.run(1_000_000_000_000, count, **last)
    if ends:
        ticks.run(stamp + PERIOD, 2, episode=1)
    return ticks.log


def wall(count: int, ends: bool) -> list[Message]:
    ticks = Ticks(lockstep=False, lead_ns=3 * MS)
    moments = []
    for i in range(count + 1):
        at = START + i * PERIOD
        moments += [(at - 10 * MS, 'sensors', i + 0.5), (at - 22 * MS, 'sensors', i + 0.1)]
        if i < count:
            moments += [(at, 'step', i), (at + 9 * MS, 'outcome', i)]
    for at, what, number in sorted(moments):
        ticks.now_ns = at
        if what == 'sensors':
            ticks.sensors(at, number)
        elif what == 'step':
            ticks.step(at, (number / 100, 0.5))
        else:
            ticks.outcome(at - 9 * MS, terminated=ends and number == count // 2)
    return ticks.log


@dataclass
class Ended:
    """How one session of a recording went.

    Attributes:
        messages: as accepted, the mark first.
        live: digests and ends that were given while it ran.
        committed: (bytes of the open file, messages of the session) after each commit.
        in_closed: messages in the files that were closed.
    """

    messages: list[Message] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    committed: list[tuple[int, int]] = field(default_factory=list)
    in_closed: int = 0


@st.composite
def heard(draw) -> list[Message]:
    """What a recorder hears in a session; of each topic in order."""
    made = draw(st.sampled_from((lockstep, wall)))(draw(st.integers(1, 10)), draw(st.booleans()))
    last: dict[str, int] = {}
    log = []
    for number, (topic, at, data) in enumerate(made):
        delay = draw(st.sampled_from(DELAYS_MS)) * MS + draw(st.integers(0, 1000))
        at = last[topic] = max(at + delay, last.get(topic, 0))
        log += [(at, number, topic, data)] * draw(st.sampled_from(TIMES))
    return [(topic, at, data) for at, _, topic, data in sorted(log)]


sessions = st.lists(
    st.tuples(
        heard(),
        st.booleans(),  # killed
        st.floats(0, 1),  # at which message
        st.floats(0, 1),  # and its file cut at which byte
        st.lists(st.integers(1, 40), min_size=1, max_size=5),  # messages between commits, in turn
        st.sampled_from((5000, 10_000, 10**9)),  # bytes of a file
        st.sampled_from((400, 3000, 10**6)),  # bytes of a chunk
    ),
    min_size=1,
    max_size=3,
)


def shown(made: Step | SegmentEnd) -> str:
    """A step, or an end without its reason: what ends live by itself, a mark ends in the bag."""
    if isinstance(made, Step):
        return step_digest(made)
    return f'{made.truncated} {made.episode_end} {made.final_observation.tobytes().hex()}'


def steps_of(rows: list[str]) -> list[str]:
    return [row for row in rows if ' ' not in row]


def run(folder: Path, log: StepLog, offset_ns: int, session) -> Ended:
    """Record a session as the learner does: steps are made of what is in the file."""
    messages, killed, until, _, gaps, split_bytes, chunk_bytes = session
    recorder = BagRecorder(
        folder,
        TOPICS,
        contract_name=CONTRACT.name,
        contract_hash=CONTRACT.hash,
        split_bytes=split_bytes,
        chunk_bytes=chunk_bytes,
    )
    ended, assembler = Ended(), Assembler(CONTRACT)
    mark = (session_topic(), offset_ns + START, session_mark(CONTRACT.name, CONTRACT.hash, 0))
    todo = [mark, *((topic, at + offset_ns, data) for topic, at, data in messages)]
    if killed:
        todo = todo[: max(1, round(until * len(todo)))]
    given = begun = 0

    def commit() -> None:
        nonlocal given
        recorder.commit()
        events = []
        for message in ended.messages[given : recorder.committed]:
            events += assembler.push(*message)
        given = recorder.committed
        log.add(events)
        log.flush()
        ended.live += map(shown, events)
        open_split = recorder._file
        ended.in_closed = recorder._in_closed
        if open_split is not None:
            ended.committed.append((open_split.size, given))

    for number, (topic, at, data) in enumerate(todo):
        stamp = recorder.write(topic, at, 0, data)
        ended.messages.append((topic, stamp, data))
        begun += 1
        if begun == gaps[number % len(gaps)]:
            begun = 0
            commit()
    if killed:
        if recorder._file is not None:
            recorder._file.abandon()
        recorder._lock.release()
    else:
        commit()
        events = assembler.finish()
        log.add(events)
        ended.live += map(shown, events)
        recorder.close()
        ended.in_closed = len(ended.messages)
    log.close()
    return ended


def cut(folder: Path, share: float, ended: Ended) -> tuple[int, int]:
    """Cut the open file of a session; return how few and how many messages must be left."""
    most = max([ended.in_closed, *(count for _, count in ended.committed)])
    for path in folder.glob('*.active'):
        size = path.stat().st_size
        at = round(share * size)
        with path.open('rb+') as stream:
            stream.truncate(at)
        of_this = [pair for pair in ended.committed if pair[1] > ended.in_closed]
        place = bisect.bisect_right([size for size, _ in of_this], at)
        least = of_this[place - 1][1] if place else ended.in_closed
        event('the open file is whole' if at == size else 'the open file is cut')
        return least, most if at < size else least
    return most, most


def replayed(parts: list[list[Message]]) -> list[list[str]]:
    """Return what an assembler makes of each session."""
    rows = []
    for part in parts:
        assembler = Assembler(CONTRACT)
        events = [made for message in part for made in assembler.push(*message)]
        rows.append([shown(made) for made in events + assembler.finish()])
    return rows


def by_session(messages: list[Message]) -> list[list[Message]]:
    parts: list[list[Message]] = []
    for message in messages:
        if message[0] == session_topic():
            parts.append([])
        parts[-1].append(message)
    return parts


def read(folder: Path) -> list[Message]:
    if not any(folder.glob('*.mcap*')):
        return []
    reader = BagReader(folder, include_open=True)
    return [(message.topic, message.receive_ns, message.data) for message in reader]


def steps(folder: Path) -> list[str]:
    if not read(folder):
        return []
    return [shown(made) for made in load_dataset(folder, CONTRACT, include_open=True)]


@settings(max_examples=int(os.environ.get('COPIES', '30')))
@given(sessions)
def test_live_reread_and_recovered_copies_give_the_same_steps(tmp_path_factory, drawn):
    base = tmp_path_factory.mktemp('copies')
    folder, log = base / 'bag', base / 'steps.csv'
    wanted: list[list[Message]] = []  # what must be left of each session
    live: list[list[str]] = []
    for number, session in enumerate(drawn):
        ended = run(folder, StepLog(log), number * 10**13, session)
        least = most = len(ended.messages)
        if session[1]:
            least, most = cut(folder, session[3], ended)
        before = read(folder)
        left = by_session(before)[len(wanted) :]
        kept = left[0] if left else []
        assert least <= len(kept) <= most, 'what was committed in front of the cut is there'
        assert kept == ended.messages[: len(kept)], 'and nothing else'
        reread = steps(folder)
        recovery = recover_bag(folder)
        assert read(folder) == before and steps(folder) == reread, 'recovered, it is the same'
        assert (recovery is None) or session[1]
        if kept:
            wanted.append(kept)
            (again,) = replayed([kept])
            given = ended.live
            if not session[1]:
                assert again == given
            elif len(kept) == most:
                assert again[: len(given)] == given, 'live is cut where the bag is'
            else:
                common = min(len(steps_of(again)), len(steps_of(given)))
                assert steps_of(again)[:common] == steps_of(given)[:common]
        live.append(ended.live)
        assert reread == [row for part in replayed(wanted) for row in part]
        event(f'{len(list(folder.glob("*.mcap")))} files')
    logged = [row.split(',')[2] for row in log.read_text().splitlines()[1:]]
    assert logged == [row for part in live for row in steps_of(part)], 'the log is what was given'
    if not any(session[1] for session in drawn):
        assert logged == steps_of(steps(folder))
