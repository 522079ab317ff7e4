# SPDX-License-Identifier: Apache-2.0
"""A stalled disk is bridged, a full one ends the recording; live steps are those of the bag."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from recorded_ticks import CONTRACT, PERIOD, Ticks
from rosbags.highlevel import AnyReader

from qcfql_ros.data.bag_metadata import Topic, read_metadata
from qcfql_ros.data.dataset import load_dataset
from qcfql_ros.data.open_split import OpenSplit
from qcfql_ros.data.reader import BagReader, read_bag
from qcfql_ros.data.recorder import BagRecorder
from qcfql_ros.data.session_mark import SESSION_TYPE, session_topic
from qcfql_ros.data.spool import Item, Spool
from qcfql_ros.data.step_log import StepLog
from qcfql_ros.data.steps import SegmentEnd, Step, step_digest
from qcfql_ros.nodes.recording import OUTCOMES, POLICIES, STEPS, Recording

TOPICS = [
    *(Topic(name, kind) for name, kind in CONTRACT.recorded_topics().items()),
    Topic(session_topic(), SESSION_TYPE),
]


class Session:
    """A recording that hears a log of ticks instead of topics."""

    def __init__(self, tmp_path, spool=None, capacity=None, **options):
        self.folder = tmp_path / 'bag'
        self.now_ns = 1
        recorder = BagRecorder(
            self.folder,
            TOPICS,
            contract_name=CONTRACT.name,
            contract_hash=CONTRACT.hash,
            **options,
        )
        self.recording = Recording(
            recorder,
            spool or Spool(10**8, 60.0),
            CONTRACT,
            '',
            StepLog(tmp_path / 'steps.csv'),
            write_s=0.002,
            capacity=capacity,
            clock=lambda: self.now_ns,
        )
        self.recorder = recorder
        self.events = []

    def hear(self, log, every: int = 50):
        for number, (topic, self.now_ns, data) in enumerate(log):
            self.recording.accept(topic, 0, data)
            if number % every == 0:
                time.sleep(0.001)
                self.events += self.recording.events()[0]

    def close(self):
        self.events += self.recording.finish()
        self.recording.close()


def fingerprint(events) -> list[str]:
    return [
        f'{event.truncated} {event.episode_end} {event.final_observation.tobytes().hex()}'
        if isinstance(event, SegmentEnd)
        else step_digest(event)
        for event in events
    ]


def reread(folder) -> list[str]:
    return fingerprint(load_dataset(folder, CONTRACT, include_open=True))


def ticks(count: int, episodes: int = 1) -> list:
    made = Ticks()
    stamp = made.now_ns
    made.chunk(stamp, 0)
    for episode in range(episodes):
        ended = {'terminated': True, 'success': episode % 2 == 0}
        stamp = made.run(stamp, count, episode, **ended) + PERIOD
    return made.log


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class Stalled:
    """A disk that waits, from one call on."""

    def __init__(self, monkeypatch):
        self.go, self.stuck = threading.Event(), threading.Event()
        commit = OpenSplit.commit

        def waits(split):
            if not self.go.is_set():
                self.stuck.set()
                assert self.go.wait(60)
            commit(split)

        self.go.set()
        monkeypatch.setattr(OpenSplit, 'commit', waits)


def test_live_steps_are_those_of_the_bag_over_many_files(tmp_path):
    session = Session(tmp_path, split_bytes=30_000)
    session.hear(ticks(100, episodes=6))
    session.close()
    assert len(read_metadata(session.folder).files) > 2
    assert fingerprint(session.events) == reread(session.folder)
    assert sum(isinstance(event, Step) for event in session.events) == 600


def test_a_file_is_closed_at_its_age(tmp_path):
    session = Session(tmp_path, split_s=0.3)
    session.hear(ticks(200))
    session.close()
    files = read_metadata(session.folder).files
    assert len(files) > 3
    assert all(entry.end_ns - entry.start_ns < 300_000_000 for entry in files)


def test_custom_data_has_outcomes_policies_and_the_steps_of_each_file(tmp_path):
    session = Session(tmp_path, split_bytes=30_000)
    session.hear(ticks(100, episodes=5))
    session.close()
    custom = read_metadata(session.folder).custom
    assert json.loads(custom[OUTCOMES]) == {'success': 3, 'terminated': 2}
    assert sum(json.loads(custom[STEPS]).values()) == 500
    assert len(custom[POLICIES]) == 64
    again = Session(tmp_path)
    again.hear([(t, s + 10**12, d) for t, s, d in ticks(100)])
    again.close()
    assert json.loads(read_metadata(session.folder).custom[OUTCOMES])['success'] == 4


def test_a_stalled_disk_is_bridged_and_nobody_waits_for_it(tmp_path, monkeypatch, wait_until):
    disk = Stalled(monkeypatch)
    session = Session(tmp_path)
    log = ticks(300)
    session.hear(log[:500])
    disk.go.clear()
    begun = time.monotonic()
    session.hear(log[500:])
    assert time.monotonic() - begun < 5.0, 'the disk has 60 s'
    assert disk.stuck.wait(10)
    assert session.recording.values()['spool_mb'] > 0.1
    assert not session.recording.stopped
    disk.go.set()
    session.close()
    assert sum(isinstance(event, Step) for event in session.events) == 300
    assert fingerprint(session.events) == reread(session.folder)


@pytest.mark.parametrize('limits', [(60_000, 60.0), (10**8, 0.05)])
def test_beyond_the_spool_recording_stops_and_live_is_cut_where_the_bag_is(
    tmp_path, monkeypatch, wait_until, limits
):
    disk = Stalled(monkeypatch)
    session = Session(tmp_path, Spool(*limits))
    log = ticks(400)
    session.hear(log[:400])
    wait_until(lambda: session.recording.values()['spool_mb'] == 0, what='an empty spool')
    disk.go.clear()
    for first in range(400, 2000, 20):
        session.hear(log[first : first + 20])
        time.sleep(0.005)
    assert 'the disk has not kept up' in session.recording.stopped
    assert session.recording.values()['refused_messages'] > 0
    disk.go.set()
    wait_until(
        lambda: (
            session.events.extend(session.recording.events()[0])
            or (session.events and isinstance(session.events[-1], SegmentEnd))
        ),
        what='the cut',
    )
    assert session.events[-1].truncated
    session.close()
    assert 50 < sum(isinstance(event, Step) for event in session.events) < 400
    assert fingerprint(session.events) == reread(session.folder)


@pytest.mark.parametrize('size', [40_000, 51_234])
def test_on_a_full_disk_the_live_steps_are_those_of_the_bag(tmp_path, wait_until, size):
    session = Session(tmp_path)
    with files_of_at_most(size):
        session.hear(ticks(2000))
        wait_until(lambda: session.recording.stopped, what='the end of the recording')
        assert 'File too large' in session.recording.stopped
        session.close()
    assert session.recording.values()['unwritten_messages'] > 0
    live = fingerprint(session.events)
    assert len(live) > 100
    assert live == reread(session.folder)
    BagRecorder(
        session.folder, TOPICS, contract_name=CONTRACT.name, contract_hash=CONTRACT.hash
    ).close()
    assert live == reread(session.folder), 'recovered, and no more in it'


def goes_on(session, log, wait_until) -> None:
    """Hear `log` once recording goes on again."""
    wait_until(lambda: not session.recording.stopped, what='a recording that goes on')
    session.hear(log)


def logged(folder) -> list[str]:
    return [row.split(',')[2] for row in (folder / 'steps.csv').read_text().splitlines()[1:]]


def check_two_parts(session, tmp_path) -> None:
    """What was given live is in the bag, cut where it stopped, and in the log."""
    live = fingerprint(session.events)
    assert live == reread(session.folder)
    assert next(event for event in session.events if isinstance(event, SegmentEnd)).truncated
    assert logged(tmp_path) == [row for row in live if ' ' not in row]
    topics = [topic for topic, _, _ in read_bag(session.folder)]
    assert topics.count('/learner/session') == 2
    files = read_metadata(session.folder).files
    assert len(files) == 2 and sum(f.messages for f in files) == len(topics)
    assert next(read_bag(session.folder / files[1].name))[0] == '/learner/session'
    assert not list(session.folder.glob('*.active'))
    reader = BagReader(session.folder)
    ours = list(reader)
    assert not reader.damage
    with AnyReader([session.folder]) as other:
        theirs = [(link.topic, stamp, bytes(data)) for link, stamp, data in other.messages()]
    assert [(message.topic, message.receive_ns, message.data) for message in ours] == theirs


@pytest.mark.parametrize('size', [40_000, 51_234])
def test_recording_goes_on_in_a_new_file_when_a_full_disk_has_room_again(
    tmp_path, wait_until, size
):
    session = Session(tmp_path)
    log = ticks(2000)
    half = len(log) // 2
    with files_of_at_most(size):
        session.hear(log[:half])
        wait_until(lambda: session.recording.stopped, what='the end of the recording')
        session.hear(log[half : half + 100])
        wait_until(
            lambda: session.events.extend(session.recording.events()[0]) or session.recording._cut,
            what='the cut',
        )
        stopped = fingerprint(session.events)
        assert fingerprint(session.recording.history()) == stopped, 'a new trainer has the cut too'
    goes_on(session, log[half + 100 :], wait_until)
    (note,) = session.recording.notes()
    missing = len(log) + 2 - sum(1 for _ in read_all(session))
    assert re.search(rf'goes on after .* s; {missing} messages are not in', note)
    session.close()
    assert len(session.events) > len(stopped) + 500
    check_two_parts(session, tmp_path)


def read_all(session):
    """Read the bag once all that was heard is in it."""
    while session.recording.values()['spool_mb']:
        time.sleep(0.01)
    return read_bag(session.folder, include_open=True)


@pytest.mark.parametrize('limits', [(60_000, 60.0), (10**8, 0.05)])
def test_recording_goes_on_in_a_new_file_when_a_stalled_disk_has_caught_up(
    tmp_path, monkeypatch, wait_until, limits
):
    disk = Stalled(monkeypatch)
    session = Session(tmp_path, Spool(*limits))
    log = ticks(800)
    session.hear(log[:400])
    wait_until(lambda: session.recording.values()['spool_mb'] == 0, what='an empty spool')
    disk.go.clear()
    first = 400
    while not session.recording.stopped:
        session.hear(log[first : first + 20])
        first += 20
        time.sleep(0.005)
        assert first < 2000, 'the spool takes more than it may'
    disk.go.set()
    goes_on(session, log[2000:], wait_until)
    session.close()
    check_two_parts(session, tmp_path)


def test_a_disk_that_is_full_again_and_again_costs_what_was_heard_meanwhile(tmp_path, wait_until):
    session = Session(tmp_path)
    log = ticks(1200)
    for part in range(3):
        with files_of_at_most(20_000):
            session.hear(log[part * 1500 : part * 1500 + 1000])
            wait_until(lambda: session.recording.stopped, what='the end of the recording')
        goes_on(session, log[part * 1500 + 1000 : part * 1500 + 1500], wait_until)
    session.close()
    assert session.recording.values()['recording_stops'] == 3
    assert fingerprint(session.events) == reread(session.folder)
    assert len(read_metadata(session.folder).files) == 4


def test_history_is_what_was_given_live_also_after_files_were_deleted(tmp_path):
    first = Session(tmp_path)
    first.hear(ticks(100))
    first.close()
    session = Session(tmp_path, capacity=150, split_bytes=30_000, keep_bytes=60_000)
    later = [(t, s + 10**12, d) for t, s, d in ticks(100, episodes=8)]
    session.hear(later[: len(later) // 2])
    session.events += session.recording.events(1e9)[0]
    before = fingerprint(session.recording.history())
    live = fingerprint(first.events) + fingerprint(session.events)
    assert before == live
    session.recording.loaded()
    session.hear(later[len(later) // 2 :])
    session.events += session.recording.events(1e9)[0]
    session.recording.loaded()  # of which steps files are needed is known; the next closed acts
    session.hear([(t, s + 2 * 10**12, d) for t, s, d in ticks(100, episodes=8)])
    session.events += session.recording.events(1e9)[0]
    assert session.recorder.deleted
    left = fingerprint(session.recording.history())
    assert left == fingerprint(session.events)[-len(left) :]
    assert sum(' ' not in row for row in left) >= 150, 'the replay can be filled again'
    session.close()


def test_a_spool_counts_bytes_and_seconds_until_they_are_written():
    now = [0.0]
    spool = Spool(100, 5.0, lambda: now[0])
    assert spool.put(Item('/a', 1, 0, b'x' * 60))
    assert not spool.put(Item('/a', 2, 0, b'x' * 60)), 'too large'
    assert spool.put(Item('/a', 3, 0, b'x' * 40))
    assert [item.receive_ns for item in spool.take(10**6, 0.0)] == [1, 3]
    assert not spool.put(Item('/a', 4, 0, b'x')), 'taken is not written'
    spool.done(1)
    now[0] = 5.1
    assert spool.bytes == 40 and spool.seconds == pytest.approx(5.1)
    assert not spool.put(Item('/a', 5, 0, b'x')), 'too old'
    spool.done(1)
    assert spool.put(Item('/a', 6, 0, b'x')) and spool.peak_bytes == 100
    spool.close()
    assert not spool.put(Item('/a', 7, 0, b'x')) and not spool.drained
    assert len(spool.take(10, 0.0)) == 1 and spool.drained
